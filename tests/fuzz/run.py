"""Read thousands of bad inputs: python tests/fuzz/run.py --examples 3000

Writes results.csv beside this file: for each reader how many inputs were accepted and refused, how
many ended otherwise (each kind once, on stderr; there should be none), the longest seconds for one
input, and the most memory (MiB) that the inputs added to the process. ``--seed`` draws others. The
folders of transformers, of which a hundred take seconds, are a tenth of the number.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools"), str(HERE.parent)]
COLUMNS = ("reader", "inputs", "accepted", "refused", "other", "longest_s", "peak_mib")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", help="these alone; the other lines stay")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.one:
        examples = options.examples // (10 if options.one == "gpt2" else 1)
        print(*fuzz(options.one, examples, options.seed), sep=",")
        return 0
    from readers import READERS

    again = [sys.executable, __file__, "--examples", str(options.examples)]
    found = []
    for name in options.readers or READERS:
        each = [*again, "--seed", str(options.seed), "--one", name]
        done = subprocess.run(each, stdout=subprocess.PIPE, text=True, check=True)
        found.append(done.stdout.splitlines()[-1].split(","))
        print(*found[-1], flush=True)
    rows = {line[0]: line for line in found}
    if options.readers and (HERE / "results.csv").exists():
        with open(HERE / "results.csv", newline="") as file:
            rows = {line[0]: line for line in list(csv.reader(file))[1:]} | rows
    with open(HERE / "results.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows.values()])
    return int(any(row[4] != "0" for row in found))


def fuzz(name: str, examples: int, seed: int) -> tuple:
    """The row of one reader."""
    import hypothesis
    import torch
    from judging import Undecided
    from readers import READERS, judged

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts, kinds, longest = Counter(), set(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples, deadline=None, database=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(READERS[name].inputs(folder))
        def read(given):
            nonlocal longest
            began = time.perf_counter()
            try:
                counts[judged(name, folder, given)] += 1
            except Undecided as error:
                counts["other"] += 1
                if (kind := str(error)[:70]) not in kinds:
                    kinds.add(kind)
                    print(f"{name}: {error}\n    {str(given)[:1500]}", file=sys.stderr)
            longest = max(longest, time.perf_counter() - began)

        before = peak()
        read()
    total = sum(counts.values())
    kept = (counts["accepted"], counts["refused"], counts["other"])
    return name, total, *kept, f"{longest:.2f}", round(peak() - before)


def peak() -> float:
    """The most memory that this process has had, MiB (on a Mac the system counts bytes)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    sys.exit(main())
