"""The experiments of chapter 08: they run, go on where they were, and mean what they say."""

from types import SimpleNamespace

import pytest
import torch
from tables import VERSES, read

from mylib import tokenizer
from mylib.experiments import forward_backward, reversal, two_ways
from mylib.experiments.forward_backward import Published, Run, published, tokens_read
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import causal, dense, flipped
from mylib.objectives import ForwardBackward, Rows


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def texts():
    return Gazette.load().sample(12, chance(1))


def test_the_published_mask_is_the_causal_one_flipped_in_each_document(texts):
    packed = Rows.packed(texts, 64)
    seen = dense(published(packed), 63, batch=len(packed.tokens))[:, 0]
    pairs = zip(packed.valid.nonzero()[:, 0], packed.document[packed.valid], strict=True)
    for row, number in {(int(row), int(number)) for row, number in pairs}:
        here = (packed.document[row] == number).nonzero()[1:, 0] - 1  # inputs: all but <bos>
        size = len(here)
        wanted = dense(flipped(causal, size, keys=False), size)[0, 0]
        assert torch.equal(seen[row][here][:, here], wanted)
        others = torch.ones(63, dtype=torch.bool).index_fill(0, here, False)
        assert not seen[row][here][:, others].any()


def test_the_published_mask_leaks_every_target_in_two_layers(texts):
    rows = Rows.packed(texts, 64)
    two = certificate(Published(1.0), rows, 2)
    # All backward answers but each document's <bos>, which is never an input.
    assert {leak.batch for leak in two.leaks} == {1}
    assert len(two.leaks) == sum(len(text) - 2 for text in texts)
    one = certificate(Published(1.0), rows, 1)
    assert 0 < len(one.leaks) < len(two.leaks)
    assert certificate(ForwardBackward(1.0), rows, 4).sound


def test_forward_tokens_are_equal_whatever_p_bw(texts):
    source = SimpleNamespace(sample=lambda n, generator: texts[:n])
    runs = [Run("right", "2x16", p, True, "fresh", 3) for p in (0.0, 0.3, 1.0)]
    forward, total = zip(*(tokens_read(run, source, 50, 4) for run in runs), strict=True)
    step = sum(len(text) - 1 for text in texts[:4])
    assert forward == (50 * step,) * 3
    assert total[0] == forward[0] and total[2] == 2 * forward[0]
    assert 50 * step < total[1] < 100 * step and total[1] % step == 0


def test_forward_backward(tmp_path):
    out = tmp_path / "forward_backward.csv"
    command = ["--smoke", "--p-bw", "0", "1", "--out", str(out)]
    forward_backward.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.forward_backward --smoke")
    keys = {(r["mask"], r["p_bw"], r["data"]) for r in rows}
    assert keys == {("right", p, d) for p in ("0.0", "1.0") for d in ("fresh", "10")} | {
        ("published", "1.0", "fresh")
    }
    for row in rows:
        assert float(row["forward_low"]) <= float(row["forward"]) <= float(row["forward_high"])
        assert len(row["probe"].split()) == 3 and row["probe"].startswith("0.5000 ")
        assert len(row["cut_forward"].split()) == len(row["cut_backward"].split()) == 1
        main = row["mask"] == "right" and row["data"] == "fresh"
        assert len(row["refit_forward"].split()) == len(row["refit_backward"].split()) == main
        assert bool(row["best_step"]) == (row["data"] != "fresh")
    assert {int(r["tokens"]) / int(r["forward_tokens"]) for r in rows} == {1, 2}
    # Nothing is made twice; another value only adds rows.
    before = out.read_text()
    forward_backward.main(command)
    assert out.read_text() == before
    forward_backward.main([*command, "--p-bw", "0", "1", "0.5"])
    assert out.read_text().startswith(before) and len(read(out)[0]) == len(rows) + 2


def test_facts_are_what_the_text_says():
    finds = reversal.facts(chance())
    assert len({f.who for f in finds}) == len({f.what for f in finds}) == 100
    printed = [f.printed for f in finds]
    assert [printed.count(p) for p in (("name", "thing"), ("name",), ("thing",))] == [50, 25, 25]
    fact = finds[0]
    for order in ("name", "thing"):
        ids, begun, answer = fact.sentence(order)
        first, last = (fact.who, fact.what) if order == "name" else (fact.what, fact.who)
        assert tokenizer.decode(ids[begun - 2 : begun].tolist()) == " ".join(first)
        assert tokenizer.decode(ids[answer : answer + 2].tolist()) == " ".join(last)
        assert len(ids) == answer + 4  # the full stop and <eos>
    assert len(reversal.learned(finds)) == 150
    other = reversal.facts(chance(1))
    assert [f.what for f in other] != [f.what for f in finds]


class Memory:
    """Knows all sentences it is given, left to right: the next word of the first that fits."""

    def __init__(self, sentences):
        self.sentences = [s.tolist() for s in sentences]

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, 600)
        for row, given in enumerate(ids.tolist()):
            for text in self.sentences:
                if text[: len(given)] == given and len(text) > len(given):
                    logits[row, -1, text[len(given)]] = 9.0
        return logits


def test_questions_tell_who_knows_what():
    finds = reversal.facts(chance())[:30]
    name_first = [f for f in finds if f.printed == ("name",)]
    memory = Memory([f.sentence("name")[0] for f in name_first])
    assert reversal.completed(memory, name_first, "name") == len(name_first) > 0
    assert reversal.completed(memory, name_first, "thing") == 0
    backward = Memory([f.sentence("name")[0].flip(0) for f in name_first])
    assert reversal.begun_backward(backward, name_first, "name") == len(name_first)
    assert reversal.begun_backward(memory, name_first, "name") == 0


def test_reversal(tmp_path):
    out = tmp_path / "reversal.csv"
    command = ["--smoke", "--out", str(out)]
    reversal.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.reversal --smoke")
    asked: dict[str, set[str]] = {}
    for row in rows:
        asked.setdefault(row["learner"], set()).add(row["question"])
    assert asked == {
        "causal": {"known", "ranked", "turned"},
        "causal, twice": {"known", "ranked", "turned"},
        "dual": {"known", "ranked", "turned", "backward"},
        "masked": {"filled", "turned"},
        "diffusion": {"filled", "turned"},
    }
    assert all(0 <= int(row["right"]) <= int(row["of"]) for row in rows)
    assert {(r["printed"], r["of"]) for r in rows} == {
        ("name", "25"),
        ("thing", "25"),
        ("both", "50"),
    }
    before = out.read_text()
    reversal.main(command)
    assert out.read_text() == before


def test_the_committed_reversal_says_what_the_chapter_says():
    rows, _ = read(data_path("results/reversal.csv"))
    assert {row["seed"] for row in rows} == {"0", "1", "2"}

    def share(learner, question):
        some = [r for r in rows if (r["learner"], r["question"]) == (learner, question)]
        return sum(int(r["right"]) for r in some) / sum(int(r["of"]) for r in some)

    for learner in ("causal", "causal, twice"):
        assert share(learner, "known") > 0.95  # the control: it knows the facts forwards
        assert share(learner, "ranked") > 0.95  # and ranks the right beginning first
        assert share(learner, "turned") < 0.1
    assert share("dual", "known") > 0.95 and share("dual", "backward") > 0.95
    for learner in ("masked", "diffusion"):  # holes at one rate, and at every rate
        assert share(learner, "filled") > 0.95
        assert share(learner, "turned") < 0.25


def test_two_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(two_ways, "tiny_shakespeare", lambda: VERSES)
    out = tmp_path / "two_ways.csv"
    command = ["--smoke", "--out", str(out)]
    two_ways.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.two_ways --smoke")
    assert {(r["mask"], float(r["p_bw"])) for r in rows} == set(two_ways.SETTINGS)
    assert {row["read"] for row in rows} == {"forward", "backward", "difference"}
    for row in rows:
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    before = out.read_text()
    two_ways.main(command)
    assert out.read_text() == before


def test_both_readings_are_judged_on_the_same_words():
    class Sure:
        """One nat for every word but those at either end, which cost a hundred."""

        config, training = None, False

        def modules(self):
            return []

        def parameters(self):
            return iter([torch.zeros(1)])

        def answers(self, batch):
            ends = (batch.source == 0) | (batch.source == 7)
            cost = torch.where(ends, 100.0, 1.0)
            logits = torch.full((len(cost), 600), -1e4)
            logits[torch.arange(len(cost)), batch.targets] = -cost
            logits[:, 599] = torch.log1p(-(-cost).exp())
            return logits

    texts = list(torch.arange(10, 26).view(2, 8))
    for way in two_ways.both(Sure(), ForwardBackward(1.0, direction_tokens=False), texts):
        torch.testing.assert_close(way, torch.ones(2))
