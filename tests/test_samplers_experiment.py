"""`experiments.samplers`: all three parts run small, and the committed tables say what is said."""

import math

import pytest
import torch
from tables import VERSES, read

from mylib.experiments import samplers
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.sampling import Trace


@pytest.mark.parametrize("part", samplers.PARTS)
def test_a_part_runs_and_goes_on(part, tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "tiny_shakespeare", lambda: VERSES)
    name = {"sunday": "samplers", "proofreader": "samplers_proofreader"}.get(part)
    out = tmp_path / f"{name or 'samplers_verses'}.csv"
    command = ["--smoke", "--part", part, "--out", str(tmp_path), "--folder", str(tmp_path / "w")]
    samplers.main(command)
    rows, about = read(out)
    assert about["command"].startswith("python -m mylib.experiments.samplers --smoke")
    if part == "verses":
        assert rows[0]["order"] == "text" and len(rows) == 3
        for row in rows:
            assert float(row["judge_low"]) <= float(row["judge"]) <= float(row["judge_high"])
            assert 0 < float(row["distinct_tokens"]) <= 1 and 0 <= float(row["repeated"]) < 1
    else:
        assert {row["n"] for row in rows} == {"4"}
        exact = [row for row in rows if row.get("model") == "oracle"]
        assert len(exact) == (3 if part == "sunday" else 0)
        careful = ("Certain(at=1.0, more=1)", "EveryDraw")
        assert all((float(row["valid"]) == 1) == (row["budget"] in careful) for row in exact)
        first = "seed" if part == "proofreader" else "model"
        keys = [tuple(row[name] for name in (first, *samplers.KEY)) for row in rows]
        assert len(set(keys)) == len(keys)
    before = out.read_text()
    samplers.main(command)  # nothing is trained or written twice
    assert out.read_text() == before


def test_what_is_judged():
    gazette = Gazette.load()
    ids = gazette.canvas(gazette.sample(50, torch.Generator().manual_seed(0)))
    ids[:10] = ids[10]  # eleven times one page
    spoiled = ids.clone()
    spoiled[40:, 1] = spoiled[40:, 2]
    passes = torch.arange(50)
    trace = Trace(spoiled, (spoiled,) * 3, spoiled, (ids > 0).long(), passes)
    found = samplers.judged(gazette, trace, 1.26)
    assert found["n"] == 50 and found["passes"] == 3 and found["seconds"] == 1.3
    assert found["row_passes"] == 24.5 and found["valid"] == 0.8
    assert found["distinct"] == 0.8 and found["fresh_distinct"] == 1
    nats = float(-gazette.log_prob(ids[:40]).mean()) / gazette.entropy
    assert found["diversity"] == pytest.approx(nats, abs=1e-4)
    assert found["revisions"] == pytest.approx(float((ids > 0).sum() / 50), abs=1e-3)


def test_repetition_is_heard(monkeypatch):
    nats = torch.tensor([3.0, 6.0, 9.0])
    monkeypatch.setattr(samplers, "evaluate", lambda judge, objective, rows: nats)
    windows = torch.tensor([[6, 7, 8, 9], [6, 7, 6, 7], [6, 6, 6, 6]])
    pairs = [0, 1 / 3, 2 / 3]
    found = samplers.heard(None, windows)
    assert found["judge"] == 2.0
    assert found["distinct_tokens"] == pytest.approx((1 + 0.5 + 0.25) / 3, abs=1e-4)
    assert found["repeated"] == pytest.approx(sum(pairs) / 3, abs=1e-4)
    assert math.isfinite(found["judge_low"])


def test_the_committed_frontier():
    rows, about = read(data_path("results/samplers.csv"))
    assert about["settings"]["n"] >= 1000 and {int(row["n"]) for row in rows} == {1000}
    assert {row["model"] for row in rows} == {"causal", "diffusion", "denoiser", "oracle"}
    asked = {
        (name, *map(str, setting.key.values()))
        for name, settings in samplers.sunday_settings(Gazette.load("sunday")).items()
        for setting in settings
    }
    found = {(row["model"], *(row[name] for name in samplers.KEY)) for row in rows}
    assert asked <= found
    for row in rows:
        careful = row["budget"] in ("Certain(at=1.0, more=1)", "EveryDraw")
        if row["model"] == "oracle" and careful:
            assert float(row["valid"]) == 1


def test_the_committed_second_thoughts():
    """At equal passes, for each of three networks, revision is worth more than chance."""
    rows, about = read(data_path("results/samplers_proofreader.csv"))
    assert {row["seed"] for row in rows} == {"0", "1", "2"}
    for seed in "012":
        for passes in (4, 8, 16):
            low, high = (
                next(
                    row
                    for row in rows
                    if (row["seed"], row["order"], row["revise"], row["passes"])
                    == (seed, "random", revise, str(passes))
                )
                for revise in ("none", "flagged")
            )
            assert float(low["valid_high"]) < float(high["valid_low"])
        assert float(about[f"flag_precision_{seed}"].split()[0]) > 0.95
        assert float(about[f"flag_recall_{seed}"].split()[0]) > 0.95
