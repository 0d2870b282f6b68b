"""The step benchmark writes its file; no speed is judged here, the machine may be busy."""

import json

import torch

from mylib.experiments import step_benchmark


def test_the_file(tmp_path):
    out = tmp_path / "step_benchmark.json"
    step_benchmark.main(["--smoke", "--out", str(out)])
    facts = json.loads(out.read_text())
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["threads"] == 1 and facts["repeats"] == 2
    assert [run["step"] for run in facts["runs"]] == [
        "forward, loss, backward",
        "forward, loss, backward, AdamW",
    ]
    for run in facts["runs"]:
        assert {"vocab_size", "n_layer", "n_embd", "rows", "tokens"} <= run["shape"].keys()
        for name in ("ours", "transformers sdpa", "transformers eager", "ours again"):
            assert 0 < run[name]["milliseconds"]["low"] <= run[name]["milliseconds"]["high"]
            if name != "ours":
                spread = run[name]["pairwise_ratios"]
                assert run[name]["ratio_of_medians"] > 0
                assert 0 < spread["low"] <= spread["median"] <= spread["high"]
