"""Chapter 06 beyond its cells: exact ceilings, patience, the experiment and its files."""

import itertools
import math

import pytest
import torch
from tables import read

from mylib.experiments import questions
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.heads import SpanExtractor
from mylib.masks import bidirectional
from mylib.model import GPT, GPTConfig
from mylib.objectives import Answering, Asking
from mylib.patience import fit_patiently
from mylib.pointing import Text, best_pointer, causal_ceiling, letters_ceiling
from mylib.tasks import asking
from mylib.tokenizer import BOS, EOS

# -- ceilings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gazette():
    return Gazette.load()


def brute(texts):
    """Every order of the prefixes a score could have: the best share by trying them all."""
    ends = {t.tokens[: t.answer[1] + 1] for t in texts if t.answer}
    best = 0.0
    for size in range(len(ends) + 1):
        for order in itertools.permutations(ends, size):  # later in the order = greater score
            rank = {prefix: n for n, prefix in enumerate(order)}
            total = 0.0
            groups = {}
            for text in texts:
                here = [text.tokens[:i] for i in range(1, len(text.tokens) + 1)]
                ranked = [prefix for prefix in here if prefix in rank]
                named = len(max(ranked, key=rank.get)) - 1 if ranked else None
                right = groups.setdefault(text.tokens, [0.0, 0.0])
                if text.answer is None:
                    right[1] += text.weight
                elif text.answer[1] == named:
                    right[0] += text.weight
            total = sum(max(pair) for pair in groups.values())
            best = max(best, total)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_ceiling_is_what_trying_all_orders_finds(seed):
    chance = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(6):
        tokens = (*tuple(torch.randint(2, (3,), generator=chance).tolist()), "end")
        place = int(torch.randint(4, (1,), generator=chance))
        answer = None if place == 3 else (place, place)
        texts.append(Text(tokens, answer, 1 / 6))
    assert best_pointer(texts) == pytest.approx(brute(texts))


def test_a_ceiling_is_a_share():
    """0.33 + 0.56 + 0.11 is 1.0000000000000002; Python 3.12 sums otherwise, and others so."""
    texts = [Text((word,), (0, 0), w) for word, w in (("a", 0.33), ("b", 0.56), ("c", 0.11))]
    assert best_pointer(texts) == 1


def test_the_ceiling_over_the_dial(gazette):
    for right in (0.0, 0.25, 0.5, 0.75, 1.0):
        for none in (0.0, 0.2, 1.0):
            found = letters_ceiling(gazette, right, none)
            assert found == pytest.approx(1 - (1 - none) * right / 2)
    # Asked behind the letter: the likelier question (two of three) can be guessed, no more.
    assert letters_ceiling(gazette, 0.0, 0.0, "last") == pytest.approx(2 / 3)
    assert letters_ceiling(gazette, 0.0, 0.0, "none") == pytest.approx(2 / 3)


def test_a_grammar_that_cannot_be_counted_by_columns_is_refused(tmp_path):
    text = data_path("gazette-small.toml").read_text()
    path = tmp_path / "edited.toml"
    path.write_text(
        text.replace("Yours, {self.word} {who.name}.", "Yours, {mood.word} {who.name}.")
    )
    edited = path.read_text().replace(', self = "mood"', "")
    path.write_text(edited)
    with pytest.raises(ValueError, match="stands in two places"):
        letters_ceiling(Gazette.load(path))
    path.write_text(text.replace('["cough"], ["elbow"]', '["cough"], ["bell"]'))
    with pytest.raises(ValueError, match="share words"):
        letters_ceiling(Gazette.load(path))


def test_the_ceiling_of_a_list(gazette):
    drawn = gazette.questions(40, torch.Generator().manual_seed(0), right=1.0, none=0.0)
    assert causal_ceiling([asking(each) for each in drawn]) == pytest.approx(1.0)  # by heart
    pair = [
        Asking(torch.tensor([BOS, 9, 8, last, EOS]), torch.tensor([0, 1, 1, 1, 0]).bool(), 4, at)
        for last, at in ((20, (1, 1)), (21, (2, 2)))
    ]
    assert causal_ceiling(pair) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no questions"):
        causal_ceiling([])


# -- patience ----------------------------------------------------------------------------------


@pytest.fixture
def small(gazette):
    config = GPTConfig(gazette.vocab_size, n_positions=60, n_embd=8, n_layer=1, n_head=1)
    chance = torch.Generator().manual_seed(0)
    model = SpanExtractor(GPT.init(config, chance), chance)
    known = [asking(a) for a in gazette.questions(16, chance)]
    return model, Answering(bidirectional), known


def test_patience_stops_and_gives_back_the_best_round(small):
    model, objective, known = small
    script, seen = iter([0.1, 0.5, 0.5, 0.4, 0.3, 0.9]), []

    def score(model):
        assert not model.training
        seen.append(model.out.weight.detach().clone())
        return next(script)

    how = dict(patience=3, rounds=6, steps=2, batch=4, progress=False)
    done = fit_patiently(model, objective, known, score, **how)
    assert done == (2, [0.1, 0.5, 0.5, 0.4, 0.3])
    assert torch.equal(model.out.weight, seen[1]) and not torch.equal(seen[1], seen[4])
    assert not model.training


def test_without_an_end_patience_runs_all_rounds(small):
    model, objective, known = small
    rising = iter(range(10))
    how = dict(patience=1, rounds=3, steps=1, batch=4, progress=False)
    done = fit_patiently(model, objective, known, lambda model: next(rising), **how)
    assert done == (3, [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"patience": 0}, "patience is at least 1"),
        ({"rounds": 0}, "rounds is at least 1"),
        ({"steps": 0}, "steps is at least 1"),
        ({"checkpoint": "x"}, "checkpoint does not go together"),
    ],
)
def test_settings_without_sense(small, change, line):
    how = dict(patience=1, rounds=1, steps=1) | change
    with pytest.raises(ValueError, match=line):
        fit_patiently(*small, lambda model: 0.0, **how)


def test_a_score_that_is_no_number(small):
    with pytest.raises(ValueError, match="NaN after round 1"):
        fit_patiently(
            *small, lambda model: math.nan, patience=1, rounds=1, steps=1, batch=4, progress=False
        )


# -- the experiment ----------------------------------------------------------------------------


def test_what_is_said_and_wanted(gazette, small):
    model, _objective, known = small
    gold = questions.wanted(known)
    assert [bool(each) for each in gold] == [each.answer is not None for each in known]
    assert all(len(text.split()) == 1 for each in gold for text in each)
    assert set(questions.said(model, bidirectional, known, math.inf)) == {""}
    assert "" not in questions.said(model, bidirectional, known, -math.inf)
    answers = [each[0] if each else "" for each in gold]
    assert questions.scores(answers, gold) == ([1] * len(known), 1.0)
    assert questions.scores(["nonsense"] * len(known), gold) == ([0] * len(known), 0.0)


def test_the_dial_runs_and_goes_on(tmp_path):
    out = tmp_path / "questions.csv"
    questions.main(["--smoke", "--out", str(out)])
    rows, about = read(out)
    assert len(rows) == len(questions.DIAL) * len(questions.READERS)
    assert about["command"].startswith("python -m mylib.experiments.questions --smoke")
    for row in rows:
        assert float(row["em"]) == row["bits"].count("1") / len(row["bits"])
        assert float(row["em"]) <= float(row["f1"]) <= 1
    before = out.read_text()
    questions.main(["--smoke", "--out", str(out)])
    assert out.read_text() == before


def test_the_folds_run(tmp_path):
    out = tmp_path / "folds.csv"
    questions.main(["--smoke", "--folds", "2", "--patience", "1", "--out", str(out)])
    rows, about = read(out)
    assert {(row["fold"], row["reader"]) for row in rows} == {
        (fold, reader) for fold in "01" for reader in ("causal", "open")
    }
    assert about["settings"]["patience"] == 1
    assert sum(len(row["bits"]) for row in rows if row["reader"] == "open") == 40
    assert all(1 <= int(row["best"]) <= int(row["rounds"]) <= 2 for row in rows)


def test_the_committed_dial(gazette):
    rows, about = read(data_path("results/questions.csv"))
    assert about["command"] == "python -m mylib.experiments.questions"
    assert {row["reader"] for row in rows} == set(questions.READERS)
    for row in rows:
        em, right = float(row["em"]), float(row["right"])
        assert len(row["bits"]) == about["settings"]["judged"]
        assert em == pytest.approx(row["bits"].count("1") / len(row["bits"]))
        if row["reader"] == "causal":  # on other questions than the ceiling's mean: some luck
            ceiling = letters_ceiling(gazette, right, about["settings"]["none"])
            spread = math.sqrt(ceiling * (1 - ceiling) / len(row["bits"]))
            assert em < ceiling + 4 * spread + 1e-9


def test_the_committed_folds():
    rows, about = read(data_path("results/questions_folds.csv"))
    assert about["command"] == "python -m mylib.experiments.questions --folds 5 --patience 20"
    assert len(rows) == 10
    for row in rows:
        stopped = int(row["rounds"]) - int(row["best"]) == about["settings"]["patience"]
        assert stopped or int(row["rounds"]) == about["settings"]["rounds"]
