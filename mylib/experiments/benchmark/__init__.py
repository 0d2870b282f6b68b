"""How fast this is, beside GPT-2's network as other packages have it: `make bench`.

    python -m mylib.experiments.benchmark            (25 to 50 minutes of one quiet core)
    python -m mylib.experiments.benchmark --table    (the README's table, from the file)

fp32, one thread, no dropout, processor time, everything in one run. Contestants hold the same
weights, and their losses are compared before their times. Who they are: `peers`; how they are
timed: `rounds`; what is measured: `training`, `uses`, `machine`, `floor`; what is made of it:
`report`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...files import data_path
from ..results import origin, write_json
from .floor import time_to_floor
from .machine import imports, matmul_peak, memory, processor
from .peers import packages
from .report import aims, table
from .rounds import same_network
from .training import training_step, useful_tokens
from .uses import generation, large_vocabulary, probe

PARTS: dict[str, Callable] = {
    "same network": same_network,
    "matmul peak": matmul_peak,
    "training step": training_step,
    "useful tokens": useful_tokens,
    "large vocabulary": large_vocabulary,
    "generation": generation,
    "influence probe": probe,
    "peak memory": memory,
    "imports": imports,
    "time to floor": time_to_floor,
}

TINY = dict(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)
SMALL = dict(vocab_size=830, n_positions=128, n_embd=128, n_layer=4, n_head=4)
MIDDLE = dict(vocab_size=5000, n_positions=128, n_embd=384, n_layer=6, n_head=6)
BATCH = dict(rows=16, tokens=128)
LARGE_VOCABULARY = {**SMALL, "vocab_size": 50257}
FULL = {
    "same network": dict(sizes=TINY, rows=2, tokens=16),
    "matmul peak": dict(sizes=[256, 512, 1024, 2048], repeats=8),
    "training step": dict(
        shapes=[{**SMALL, **BATCH}, {**MIDDLE, "rows": 4, "tokens": 128}], repeats=11, warmup=2
    ),
    "useful tokens": dict(
        sizes=SMALL,
        sources={
            "lengths 8 to 256": dict(documents=16, row=256, shortest=8),
            "small edition": dict(documents=64, row=128),
        },
        **dict(repeats=11, warmup=1),
    ),
    "large vocabulary": dict(sizes=LARGE_VOCABULARY, **BATCH, repeats=9, warmup=1),
    "generation": dict(
        sizes={**SMALL, "n_positions": 512},
        **dict(prompt=8, lengths=[32, 64, 128, 256], repeats=5, warmup=0),
    ),
    "influence probe": dict(sizes=SMALL, tokens=32, repeats=9, warmup=1),
    "peak memory": dict(
        steps={
            "training step": {**SMALL, **BATCH},
            "masked words": {**LARGE_VOCABULARY, **BATCH},
            "diffusion": {**LARGE_VOCABULARY, **BATCH},
        },
        repeats=3,
    ),
    "imports": dict(repeats=5),
    "time to floor": dict(
        sizes=SMALL,
        **dict(batch=64, judged=1000, ladder=[100, 140, 200, 280, 400, 560]),
        **dict(rates=[3e-3, 6e-3, 1e-2], tuned_at=200),
    ),
}

TINY_BATCH = dict(rows=2, tokens=8)
EDITION = {**TINY, "vocab_size": 830, "n_positions": 32}
SMOKE = {
    "same network": dict(sizes=TINY, rows=2, tokens=16),
    "matmul peak": dict(sizes=[8, 16], repeats=2),
    "training step": dict(shapes=[{**TINY, **TINY_BATCH}], repeats=3, warmup=1),
    "useful tokens": dict(
        sizes=EDITION,
        sources={
            "lengths 8 to 256": dict(documents=4, row=32, shortest=2),
            "small edition": dict(documents=4, row=32),
        },
        **dict(repeats=2, warmup=1),
    ),
    "large vocabulary": dict(sizes=TINY, **TINY_BATCH, repeats=2, warmup=1),
    "generation": dict(sizes=TINY, prompt=2, lengths=[2, 4], repeats=2, warmup=0),
    "influence probe": dict(sizes=TINY, tokens=6, repeats=2, warmup=1),
    "peak memory": dict(steps={"training step": {**TINY, **TINY_BATCH}}, repeats=1),
    "imports": dict(repeats=1),
    "time to floor": dict(
        sizes=EDITION,
        **dict(batch=4, judged=10, ladder=[1, 2], rates=[1e-3, 1e-2], tuned_at=1),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=results_file())
    parser.add_argument("--smoke", action="store_true", help="everything, tiny, in a minute")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--table", action="store_true", help="print the README's table, and end")
    options = parser.parse_args(argv)
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    torch.set_num_threads(1)
    versions, absent = packages()
    facts = {**origin("benchmark", argv), "processor": processor(), "seed": 0}
    facts |= {"clock": "processor time", "peers": versions, "absent": absent}
    facts |= {"settings": {}, "parts": {}}
    for part in options.parts:
        facts["settings"][part] = (SMOKE if options.smoke else FULL)[part]
        start = time.perf_counter()
        facts["parts"][part] = PARTS[part](**facts["settings"][part])
        facts["aims"] = aims(facts["parts"])
        write_json(options.out, facts)  # a run that is stopped leaves what it has
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    for aim in facts["aims"]:
        print("met:    " if aim["met"] else "not met:", aim["aim"], "|", aim["measured"])


def results_file() -> Path:
    return data_path("gazette.toml").parent / "results/benchmark.json"
