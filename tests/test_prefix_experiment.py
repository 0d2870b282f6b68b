"""The experiment of chapter 07 runs (tiny) and resumes; its table is what the chapter says."""

import torch
from tables import VERSES, read

from mylib.experiments import prefix
from mylib.files import data_path
from mylib.leaks import certificate
from mylib.masks import causal, dense
from mylib.objectives import PrefixLM, Rows


def test_it_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(prefix, "tiny_shakespeare", lambda: VERSES)
    out = tmp_path / "prefix.csv"
    command = ["--smoke", "--out", str(out)]
    prefix.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.prefix --smoke")
    assert {row["trained"] for row in rows} == set(prefix.TRAINED)
    assert {row["read"] for row in rows} == {*prefix.READ, "open - closed"}
    for row in rows:
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        # One layer: the keys of the given tokens depend on the tokens alone.
        assert row["read"] != "open - closed" or abs(float(row["mean"])) < 1e-4
    before = out.read_text()
    prefix.main(command)  # all there: nothing is measured again
    assert out.read_text() == before


def test_closed_asks_what_open_asks():
    rows = Rows.packed([torch.arange(6, 14), torch.arange(20, 25)], 13)
    (opened,), (closed,) = (
        kind(3).passes(rows, torch.Generator()) for kind in (PrefixLM, prefix.Closed)
    )
    assert torch.equal(opened.asked, closed.asked) and torch.equal(opened.targets, closed.targets)
    looks, may = dense(closed.mask, 12)[0, 0], dense(opened.mask, 12)[0, 0]
    assert not (looks & ~dense(causal, 12)[0, 0]).any() and not (looks & ~may).any()
    assert (may & ~looks).sum() == 6  # above the diagonal of three given tokens, twice
    assert certificate(prefix.Closed(3), rows, 6).sound


def test_the_committed_runs_say_what_the_chapter_says():
    rows, _ = read(data_path("results/prefix.csv"))
    found = {(r["trained"], r["seed"]): r for r in rows if r["read"] == "open - closed"}
    assert {seed for _, seed in found} >= {"0"}
    for (trained, _), row in found.items():
        if trained == "prefix-LM":
            assert max(abs(float(row["low"])), abs(float(row["high"]))) < 0.01
        else:
            assert float(row["low"]) > 0.01
    closed = {(r["trained"], r["seed"]): float(r["mean"]) for r in rows if r["read"] == "closed"}
    for (trained, seed), mean in closed.items():
        if trained == "second half":
            assert closed["next", seed] < mean - 0.02
