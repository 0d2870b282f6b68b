"""The benchmark writes its file and its table; no speed is judged here, the machine may be busy."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from mylib.experiments import benchmark
from mylib.experiments.benchmark import peers, report, rounds, uses
from mylib.experiments.benchmark.floor import shortest
from mylib.experiments.benchmark.machine import imports, peak_of, resident
from mylib.model import GPT, GPTConfig

README = (Path(__file__).parents[1] / "README.md").read_text()
MEASURED = [part for part in benchmark.PARTS if part not in ("peak memory", "imports")]
SIZES = dict(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "benchmark.json"
    threads = torch.get_num_threads()
    benchmark.main(["--smoke", "--out", str(out), "--parts", *MEASURED])
    torch.set_num_threads(threads)
    return json.loads(out.read_text())


def test_the_file(facts):
    assert facts["command"].startswith("python -m mylib.experiments.benchmark --smoke")
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["threads"] == 1 and facts["clock"] == "processor time"
    assert facts["parts"].keys() == facts["settings"].keys() == set(MEASURED)
    assert facts["peers"].keys() | set(facts["absent"]) == set(peers.PACKAGES)
    assert "transformers" in facts["peers"]


def test_everything_is_measured_beside_ours(facts):
    parts = facts["parts"]
    timed = [run["results"] for run in parts["training step"]]
    timed += [part["results"] for part in parts["useful tokens"].values()]
    timed += [part["results"] for part in parts["large vocabulary"].values()]
    timed += [*parts["generation"]["results"].values(), parts["influence probe"]["results"]]
    for results in timed:
        assert {"ours", "ours again"} < results.keys()
        for name, found in results.items():
            assert 0 < found["milliseconds"]["low"] <= found["milliseconds"]["high"], name
            assert name == "ours" or found["times_as_fast"]["of_medians"] > 0
    for run in parts["training step"]:
        assert run["loss"] > 0 and run["flops"] > 0 and run["parameters"]["ours"] > 0
    assert parts["matmul peak"]["gigaflops"] > 0


def test_every_run_to_the_floor_is_kept(facts):
    part = facts["parts"]["time to floor"]
    assert {"ours", "transformers", "ours again"} <= {c["contestant"] for c in part["cells"]}
    for cell in part["cells"]:
        assert cell["counts"] == (cell["excess"] <= 0.05 * part["floor"])
        assert cell["low"] <= cell["excess"] <= cell["high"] and cell["seconds"] >= 0
    assert part["best"]["ours"] is None  # nobody reads after two steps
    ours, theirs = (
        [c for c in part["cells"] if c["contestant"] == n] for n in ("ours", "ours again")
    )
    assert theirs[0]["excess"] == ours[0]["excess"]  # one seed, one run


def test_the_summary():
    found = rounds.summary({"ours": [1.0, 2.0, 4.0], "other": [2.0, 6.0, 4.0]})
    assert found["ours"] == {"milliseconds": {"median": 2000.0, "low": 1500.0, "high": 3000.0}}
    assert found["other"]["times_as_fast"] == {
        **{"median": 2.0, "low": 1.5, "high": 2.5},
        "of_medians": 2.0,
    }


def test_each_round_begins_with_another_one():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = rounds.interleaved(steps, repeats=2, warmup=1)
    assert "".join(order) in {"cababcbca", "bcacababc", "abcbcacab"}
    assert [len(each) for each in seconds.values()] == [2, 2, 2]


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_the_same_network(name):
    ours = rounds.strong(SIZES, biases=name != "x-transformers")
    found = peers.load(ours, [name])
    if not found:
        pytest.skip(f"{name} is not installed (make bench installs it)")
    ids = rounds.words(SIZES, 2, 12)
    assert torch.allclose(found[name](ids), ours(ids), atol=1e-4)
    expected = uses.own(ours, ids[:1, :3], 8, True)()
    for cached in (True, False):
        assert torch.equal(found[name].eval().write(ids[:1, :3], 8, cached), expected)


@torch.no_grad()
def test_other_weights_are_noticed():
    ours = rounds.fresh(SIZES)
    ids = rounds.words(SIZES, 2, 12)
    other = peers.load(ours, ["transformers"])["transformers"]
    losses = {"ours": float(peers.loss_of(ours, ids)), "other": float(peers.loss_of(other, ids))}
    assert peers.same_loss(losses) == pytest.approx(losses["ours"], abs=1e-6)
    other.net.transformer.wpe.weight *= 2
    losses["other"] = float(peers.loss_of(other, ids))
    with pytest.raises(ValueError, match="do not compute the same"):
        peers.same_loss(losses)
    with pytest.raises(ValueError, match="do not compute the same"):
        peers.same_loss({"ours": 1.0, "other": float("nan")})
    with pytest.raises(ValueError, match="not of one size"):
        peers.same_size({"ours": 100, "other": 110})


def test_another_network_is_noticed(monkeypatch):
    """The exact GELU in place of its approximation: an equal loss would not show it."""
    where = dict(rows=2, tokens=12)
    assert rounds.same_network(SIZES, **where)["transformers"] < 1e-5
    like = peers.gpt2_like

    def other(*about):
        net = like(*about)
        for block in net.transformer.h:
            block.mlp.act = torch.nn.GELU()
        return net

    monkeypatch.setattr(peers, "gpt2_like", other)
    with pytest.raises(ValueError, match="another network"):
        rounds.same_network(SIZES, **where)


def test_a_peer_that_is_absent_is_left_out_and_named(monkeypatch):
    for module in ("llms_from_scratch", "llms_from_scratch.ch04", "x_transformers"):
        monkeypatch.setitem(sys.modules, module, None)  # so that its import fails
    assert set(peers.load(rounds.fresh(SIZES))) == {"transformers", "transformers, eager"}

    found, absent = peers.packages()
    assert list(found) == ["transformers"] and absent == ["llms-from-scratch", "x-transformers"]


def test_memory_sees_the_logits():
    """All logits of a large vocabulary show; measured in this process, so the order matters."""
    shape = dict(vocab_size=5000, n_positions=64, n_embd=8, n_layer=1, n_head=1, rows=64, tokens=64)
    before = resident("VmHWM")
    peak_of("masked words", "all logits", shape)
    assert resident("VmHWM") - before > 64 * 64 * 5000 * 4 / 2**20 / 2 or before > 1000


def test_importing_mylib_is_light():
    (found,) = imports(1, ["import mylib"]).values()
    assert found["loads"] == [] and found["milliseconds"]["median"] < 1000


def test_the_shortest_run_that_counts():
    tried = []

    def run(steps):
        tried.append(steps)
        return {"steps": steps, "counts": steps >= 115}

    assert shortest([100, 140, 200], 0, run)["steps"] == 120 and tried == [100, 140, 120]
    assert shortest([100, 140, 200], 0, run, halve=False)["steps"] == 140
    assert shortest([50, 60], 0, run) is None


def test_aims_can_be_missed():
    def results(theirs, again):
        spread = {"low": again, "high": 1 / again}
        return [
            {
                "results": {
                    "ours": {"milliseconds": {"median": 1.0}},
                    "ours again": {"times_as_fast": spread},
                    "transformers": {
                        "milliseconds": {"median": theirs},
                        "times_as_fast": {"median": theirs, "low": theirs, "high": theirs},
                    },
                }
            }
        ]

    assert report.training_aim(results(0.98, 0.97))["met"]
    assert not report.training_aim(results(0.96, 0.97))["met"]
    assert report.at_least("", results(1.5, 1)[0]["results"], 1.5)["met"]
    assert not report.at_least("", results(1.49, 1)[0]["results"], 1.5)["met"]
    assert not report.generation_aim({"doubling": {"ours": [2.0, 2.3]}})["met"]
    assert not report.floor_aim({"times_as_fast": {"transformers": None}})["met"]
    assert not report.floor_aim({"times_as_fast": {"transformers": 1.9}})["met"]


def test_table_of_the_readme_is_that_of_the_file(capsys):
    benchmark.main(["--table"])
    assert capsys.readouterr().out in README
    facts = json.loads(benchmark.results_file().read_text())
    assert facts["aims"] == report.aims(facts["parts"])


def test_a_median_lies_between_its_quartiles():
    facts = json.loads(benchmark.results_file().read_text())
    number = r"([\d,]+\.?\d*)"
    printed = re.findall(rf"{number} \({number}–{number}\)", report.table(facts))
    assert len(printed) > 50
    for middle, low, high in ([float(n.replace(",", "")) for n in each] for each in printed):
        assert low <= middle <= high


def test_table_of_a_run_without_some_peers(facts):
    facts = {**facts, "absent": ["x-transformers"]}
    assert "Absent: x-transformers" in report.table(facts)
    lines = [line for line in report.table(facts).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {7, 4}


def test_a_config_of_ours_fits_every_setting():
    for settings in (benchmark.FULL, benchmark.SMOKE):
        assert settings.keys() == benchmark.PARTS.keys()
        json.dumps(settings)
        assert GPT(GPTConfig(**settings["generation"]["sizes"])).config.n_layer > 0
