"""Runs tests or notebooks under a named setting and keeps one line a run: tests/portability.csv.

    python tests/tools/portability.py --capability avx2 --threads 2 notebooks/01-*.ipynb
    python tests/tools/portability.py --python /tmp/old/bin/python --what unit tests/test_*.py

``--capability``: the instructions that torch may use, ``ATEN_CPU_CAPABILITY`` (default, avx2,
avx512). ``--threads``: ``OMP_NUM_THREADS``. ``--python``: that of another environment, which needs
the course's packages and not the course itself. A line says when nothing could be run, too. A run
of a setting that the table has takes the place of its old line.
"""

import argparse
import csv
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "portability.csv"
VERSIONS = ("torch", "transformers", "numpy", "jupyterlab", "matplotlib")
SETTING = ("what", "capability", "threads", "python", *VERSIONS)
COLUMNS = (*SETTING, "passed", "failed", "skipped", "seconds", "date", "which")
ASK = (
    "import json, platform; from importlib.metadata import version;"
    "print(json.dumps({'python': platform.python_version(),"
    f"**{{n: version(n).split('+')[0] for n in {VERSIONS!r}}}}}))"
)


def versions(python: str) -> dict[str, str]:
    """What an environment has: its Python's version and those of the packages in the table."""
    return json.loads(subprocess.check_output([python, "-c", ASK], text=True))


def outcome(printed: str) -> dict:
    """What pytest's last lines say: how many passed, failed and were skipped, and which failed.

    >>> outcome("FAILED a.py::b - x\\nERROR c.py\\n= 1 failed, 2 passed, 1 error in 3.21s =")
    {'passed': 2, 'failed': 2, 'skipped': 0, 'which': 'a.py::b c.py'}
    """
    ends = [line for line in printed.splitlines() if re.search(r"\w+ in [\d.:]+s\b", line)]
    if not ends:
        raise ValueError(f"pytest did not come to its end: {printed[-500:]}")
    counts = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (\w+)", ends[-1])}
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", printed, re.MULTILINE)
    return {
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "skipped": counts.get("skipped", 0),
        "which": " ".join(failed),
    }


def run(python: str, capability: str, threads: int, paths: list[str], more: list[str]) -> dict:
    """One run of pytest under a setting, and what came of it."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    env.pop("ATEN_CPU_CAPABILITY", None)
    if capability:
        env["ATEN_CPU_CAPABILITY"] = capability
    # This checkout and no other, and the kernels of this environment before all others.
    env["PYTHONPATH"] = str(ROOT)
    env["PATH"] = os.pathsep.join([str(Path(python).parent), env["PATH"]])
    command = [python, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *more, *paths]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    seconds = round(time.monotonic() - start)
    print(done.stdout[-3000:], done.stderr[-2000:], file=sys.stderr)
    return {**outcome(done.stdout), "seconds": seconds}


def keep(row: dict, table: Path = TABLE) -> None:
    """Write a run into the table, in the place of an earlier one of the same setting."""
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    same = [str(row[name]) for name in SETTING]
    rows = [old for old in rows if [old[name] for name in SETTING] != same]
    rows = sorted([*rows, row], key=lambda each: [str(each[name]) for name in SETTING])
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", help="test files and notebooks")
    parser.add_argument("--capability", default="", help="ATEN_CPU_CAPABILITY; the best if not set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="of the environment to run in")
    parser.add_argument("--what", help="a name for the line; by default the names of the files")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--pytest", default="", help="more arguments for pytest")
    options = parser.parse_args(arguments)
    paths = sorted(str(Path(path).resolve().relative_to(ROOT)) for path in options.paths)
    names = [Path(path).stem for path in paths]
    setting = {
        "what": options.what or " ".join(name.split("-")[0] for name in names),
        "capability": options.capability or "best",
        "threads": options.threads,
        **versions(options.python),
    }
    more = options.pytest.split()
    found = run(options.python, options.capability, options.threads, paths, more)
    row = {**setting, **found, "date": datetime.date.today().isoformat()}
    keep(row, options.table)
    print(", ".join(f"{name} {row[name]}" for name in COLUMNS))
    return int(found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
