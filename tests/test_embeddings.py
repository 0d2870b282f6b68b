"""Side road A4: exercises, widget and experiment."""

import base64
import math
import re
from functools import partial

import exercise_cells
import pytest
import torch
import torch.nn.functional as F
from tables import read

from mylib.embeddings import Embedder, Matching, TornPages
from mylib.exercises import NotSolved, embeddings
from mylib.experiments import embeddings as experiment
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.masks import bidirectional, causal
from mylib.model import GPT, GPTConfig
from mylib.widgets.embeddings import CHOICES, WhoMatchesWhom, match_picture, matched

cell = partial(exercise_cells.cell, "A4-embeddings.ipynb", F=F)


@pytest.mark.parametrize(
    ("exercise", "answer", "check"),
    [
        ("exercise-1", "fair_loss", embeddings.check_fair_loss),
        ("exercise-2", "late_score", embeddings.check_late),
        ("exercise-3", "mean_of_words", embeddings.check_mean_of_words),
    ],
)
def test_stub_is_refused_and_solution_accepted(exercise, answer, check, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(f"{exercise}-stub")[answer])
    check(cell(f"{exercise}-solution")[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


def nll(logits, dim=1):
    return -logits.log_softmax(dim).diagonal()


def others(same):
    return same & ~torch.eye(len(same), dtype=torch.bool)


WRONG_LOSSES = {
    "multiply by the temperature": lambda c, s, t: nll(
        (c * t).masked_fill(others(s), -torch.inf)
    ).mean(),
    "runs over the sentences": lambda c, s, t: nll(c / t, 0).mean(),
    "the sum over the sentences": lambda c, s, t: nll(c / t).sum(),
    "the sign": lambda c, s, t: -nll(c / t).mean(),
    "a false negative": lambda c, s, t: nll(c / t).mean(),
    "a score of 0, .* is still a candidate": lambda c, s, t: nll(
        (c / t).masked_fill(others(s), 0)
    ).mean(),
    "a cosine of -1 is still a candidate": lambda c, s, t: nll(
        c.masked_fill(others(s), -1) / t
    ).mean(),
    "the candidates that are left": lambda c, s, t: nll(c / t)[
        ~others(s).any(1)
    ].mean(),  # rows that have a twin are left out whole
    "temperature is not used": lambda c, s, t: nll(c.masked_fill(others(s), -torch.inf)).mean(),
    "these are bits": lambda c, s, t: nll(c / t).mean() / math.log(2),
    "mean of two losses": lambda c, s, t: (nll(c / t).mean() + nll(c / t, 0).mean()) / 2,
    "left out, too: `same`": lambda c, s, t: nll((c / t).masked_fill(s, -torch.inf)).mean(),
    "the right story was left out, too": lambda c, s, t: (
        nll(c / t).mean() if s.sum() == 5 else nll((c / t).masked_fill(s, -torch.inf)).mean()
    ),
    "returns None": lambda c, s, t: None,
    "a tensor of shape": lambda c, s, t: nll(c / t),
}


@pytest.mark.parametrize("line", WRONG_LOSSES)
def test_wrong_losses_are_named(line):
    with pytest.raises(NotSolved, match=line):
        embeddings.check_fair_loss(WRONG_LOSSES[line])


def unit(x):
    return F.normalize(x, dim=-1)


def cosines(q, s):
    return unit(q) @ unit(s).T


WRONG_SCORES = {
    "the wrong axis": lambda q, qv, s, sv: cosines(q, s)[qv][:, sv].amax(0).sum(),
    "not of length 1": lambda q, qv, s, sv: (q @ s.T)[qv][:, sv].amax(1).sum(),
    "you average them": lambda q, qv, s, sv: cosines(q, s)[qv][:, sv].amax(1).mean(),
    "All pairs|all pairs": lambda q, qv, s, sv: cosines(q, s)[qv][:, sv].sum(),
    "best single pair": lambda q, qv, s, sv: cosines(q, s)[qv][:, sv].max(),
    "a pad of the story is matched": lambda q, qv, s, sv: cosines(q, s)[qv].amax(1).sum(),
    "a pad of the query has a say": lambda q, qv, s, sv: cosines(q, s)[:, sv].amax(1).sum(),
    "returns None": lambda q, qv, s, sv: None,
}


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_one_side_of_length_1_is_not_enough(sides):
    with pytest.raises(NotSolved, match="not of length 1"):
        embeddings.check_late(
            lambda q, qv, s, sv: (
                ((unit(q) if sides[0] else q) @ (unit(s) if sides[1] else s).T).amax(1).sum()
            )
        )


def test_a_loss_may_be_a_plain_number():
    solution = cell("exercise-1-solution")["fair_loss_solution"]
    embeddings.check_fair_loss(lambda *given: float(solution(*given)))


@pytest.mark.parametrize("line", WRONG_SCORES)
def test_wrong_scores_are_named(line):
    with pytest.raises(NotSolved, match=line):
        embeddings.check_late(WRONG_SCORES[line])


def words(h, v):
    return h.masked_fill(~v[..., None], 0).sum(1)


WRONG_MEANS = {
    "the pads are in the mean": lambda h, v: h.mean(1),
    "you divide by T": lambda h, v: words(h, v) / h.shape[1],
    "that is the sum of the words": words,
    "NaN times 0 is NaN": lambda h, v: (h * v[..., None]).sum(1) / v.sum(1)[:, None].clamp(min=1),
    "must give zeros, not NaN": lambda h, v: words(h, v) / v.sum(1)[:, None],
    "valid is True where a word stands": lambda h, v: words(h, ~v) / (~v).sum(1)[:, None],
    "one vector a row": lambda h, v: words(h, v).mean(1),
    "returns None": lambda h, v: None,
}


@pytest.mark.parametrize("line", WRONG_MEANS)
def test_wrong_means_are_named(line):
    with pytest.raises(NotSolved, match=line):
        embeddings.check_mean_of_words(WRONG_MEANS[line])


# -- the widget --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    gazette = Gazette.load()
    config = GPTConfig(gazette.vocab_size, 64, n_embd=16, n_layer=1, n_head=2)
    readers = {
        name: (
            Embedder(GPT.init(config, torch.Generator().manual_seed(seed)), "late"),
            Matching(mask),
        )
        for seed, (name, mask) in enumerate({"open": bidirectional, "closed": causal}.items())
    }
    return readers, TornPages(gazette).sample(8, torch.Generator().manual_seed(4))


def test_the_map_adds_up_to_nearly_the_score(scene):
    readers, pile = scene
    for choice in CHOICES:
        near, story, scores = matched(*readers["open"], pile, 2, choice)
        shape = (len(pile[2].sentence) - 2, len(pile[story].story) - 2)
        assert near.shape == shape and near.abs().max() < 1 + 1e-5
        # <bos> and <eos> count in the score and are not drawn.
        assert abs(float(near.amax(1).sum() - scores[story])) <= 2 + 1e-4
    assert matched(*readers["open"], pile, 2, "its own")[1] == 2
    best = matched(*readers["open"], pile, 2, "best of the others")
    assert best[1] != 2
    _, worst, scores = matched(*readers["open"], pile, 2, "worst")
    assert float(scores[worst]) == float(scores.min())
    with pytest.raises(ValueError, match="not 'mine'"):
        matched(*readers["open"], pile, 2, "mine")


def test_moving_a_control_changes_the_picture(scene):
    readers, pile = scene
    widget = WhoMatchesWhom(readers, pile)
    seen = {widget.picture.value}
    for name, value in {"sentence": "3", "story": "worst", "reader": "closed"}.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    alt, data = re.search(
        r'alt="([^"]+)" src="data:image/png;base64,([^"]+)"', widget.picture.value
    ).groups()
    assert "has place" in alt and "Best matches" in alt
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert repr(widget) == "WhoMatchesWhom: run the cell to move sentence, story, reader"


def test_the_best_matches_are_framed(scene):
    readers, pile = scene
    near, story, _ = matched(*readers["open"], pile, 0, "its own")
    figure = match_picture(near, pile[0].sentence, pile[story].story, "a title")
    places = [(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in figure.axes[0].patches]
    assert places == list(enumerate(near.argmax(1).tolist()))


# -- the experiment ----------------------------------------------------------------------------


def test_it_runs_and_goes_on(tmp_path):
    out = tmp_path / "embeddings.csv"
    command = ["--smoke", "--out", str(out)]
    experiment.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.embeddings --smoke")
    assert len(rows) == len(experiment.REFERENCES) + len(experiment.GRID)
    for row in rows:
        assert 0 <= float(row["found"]) <= 1 and float(row["nats"]) >= 0
    first = next(r for r in rows if (r["pool"], r["mask"]) == ("first", "causal"))
    assert float(first["before"]) == float(first["found"]) == pytest.approx(1 / 32, abs=1e-4)
    before = out.read_text()
    experiment.main(command)  # all there: nothing is measured again
    assert out.read_text() == before


def test_the_language_model_is_read_at_the_right_words(scene):
    """By hand for one pair: the sum over the words of the sentence and its <eos>."""
    _, pile = scene
    model = GPT.init(GPTConfig(830, 64, n_embd=16, n_layer=1, n_head=2), torch.Generator())
    scores = experiment.by_language_model(model, pile[:3])
    text = torch.cat([pile[2].story[:-1], pile[0].sentence[1:]])
    with torch.no_grad():
        log_p = model(text[None]).log_softmax(-1)[0]
    first = len(pile[2].story) - 1  # where the sentence begins
    by_hand = sum(float(log_p[i - 1, text[i]]) for i in range(first, len(text)))
    assert float(scores[0, 2]) == pytest.approx(by_hand, abs=1e-3)


def test_the_committed_runs_say_what_the_chapter_says():
    rows, _ = read(data_path("results/embeddings.csv"))
    said = {row["pool"]: row for row in rows if not row["seed"]}
    ceiling, floor = float(said["oracle"]["found"]), float(said["oracle"]["nats"])
    assert 0.7 < ceiling < 0.85 and float(said["words"]["found"]) < 0.1
    assert abs(float(said["language model"]["found"]) - ceiling) < 0.02
    assert float(said["oracle with length"]["found"]) > ceiling + 0.03
    assert 2 / 32 < float(said["lengths"]["found"]) < 0.2
    seeds = {row["seed"] for row in rows if row["seed"]}
    assert len(seeds) >= 2
    found = {}
    for row in rows:
        if row["seed"]:
            key = (row["pages"], row["pool"], row["mask"], row["texts"])
            found.setdefault(key, []).append(float(row["found"]))
            if row["pages"] == "none":
                assert float(row["nats"]) > floor  # no leak
    assert set(found) == set(experiment.GRID) and {len(v) for v in found.values()} == {len(seeds)}
    assert all(
        math.isclose(v, 1 / 32, abs_tol=1e-4) for v in found["none", "first", "causal", "once"]
    )
    assert max(found["sentence", "mean", "open", "once"]) < 0.5
    opened, closed = (found["none", "late", mask, "once"] for mask in ("open", "causal"))
    assert min(opened) > max(closed) + 0.05
    assert 0.08 < sum(opened) / len(opened) - sum(closed) / len(closed) < 0.15
    twice = found["none", "late", "causal", "twice"]
    assert all(b > a for a, b in zip(closed, twice, strict=True))  # in each seed
    assert all(
        abs(a - b) < 0.03
        for a in found["none", "last", "open", "once"]
        for b in found["none", "last", "causal", "once"]
    )
    nats = {}
    for row in rows:
        if row["seed"]:
            nats.setdefault(row["pages"], []).append(float(row["nats"]))
    assert floor < min(nats["position"]) and max(nats["position"]) < min(nats["none"])
