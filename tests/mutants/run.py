"""Would a test notice? Applies the small bugs of mutants.toml one by one and runs their tests.

    python tests/mutants/run.py [ID ...] [--jobs N]      (all: seven minutes with two jobs)

Each bug goes into a copy of the tree; "killed" means that a test failed, "survived" that a test is
missing. `results.csv` keeps what was found; named ids change their own rows only. Nothing is
written into the tree but that file.
"""

import argparse
import ast
import csv
import hashlib
import json
import multiprocessing
import os
import queue
import re
import shutil
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = Path(__file__).with_name("mutants.toml")
RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ("id", "file", "what", "verdict", "by", "seconds", "mutant")
COPIED = ("mylib", "tests", "conftest.py", "pyproject.toml")  # the rest is linked
LEFT_OUT = (".git", ".venv", "build", "dist")
LIMIT = 300  # seconds; a mutant that never ends is noticed, too
OURS = (ROOT, Path(__file__).parent)
LOADED = ("torch", "torch._dynamo", "accelerate", "hypothesis", "matplotlib.pyplot", "nbval.plugin")
SERVER = multiprocessing.get_context("forkserver")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)


def load(path=MUTANTS):
    """The mutants, each a dictionary with id, file, old, new, what and tests."""
    return tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]


def digest(mutant):
    """Names a mutant as it was tried: another place, bug or choice of tests is another mutant."""
    said = [mutant[key] for key in ("id", "file", "old", "new", "tests")]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def mutated(text, mutant):
    """The source with the bug in it. Raises `ValueError` unless its place is there exactly once,
    the result is Python, and it is another program (not another comment)."""
    if (found := text.count(mutant["old"])) != 1:
        raise ValueError(f"{mutant['id']}: `old` is {found} times in {mutant['file']}")
    changed = text.replace(mutant["old"], mutant["new"])
    if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text)):
        raise ValueError(f"{mutant['id']}: the program is the same as before")
    return changed


def copy(root, folder):
    """A tree that can be spoiled: sources and tests copied, everything else linked."""
    folder.mkdir()
    for item in root.iterdir():
        if item.name in COPIED and item.is_dir():
            shutil.copytree(item, folder / item.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif item.name in COPIED:
            shutil.copy(item, folder)
        elif item.name not in LEFT_OUT:
            (folder / item.name).symlink_to(item)


def run_tests(folder, tests):
    """Exit code and output of pytest, stopped at the first failure; None if it took too long."""
    output = Path(f"{folder}.out")
    child = SERVER.Process(target=in_child, args=(folder, tests, output))
    child.start()
    child.join(LIMIT)
    code = child.exitcode
    child.kill()
    child.join()
    return code, output.read_text(errors="replace")


def in_child(folder, tests, output):
    """Pytest in a fork of a process that has loaded what all tests load, and nothing of ours."""
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(folder)
    sys.path[:] = [str(folder), *(place for place in sys.path if Path(place) not in OURS)]
    os.environ["PYTHONPATH"] = str(folder)
    # No bytecode: Python would take an old one for a source of the same size and second.
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    import pytest

    # A folder of its own for `tmp_path`: pytest sweeps the common one.
    flags = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}.tmp"]
    code = int(pytest.main([*flags, *tests]))
    sys.stdout.flush()
    os._exit(code)


def judge(folder, mutant):
    """One row of the results: the bug goes in, its tests run, the bug comes out again."""
    path = folder / mutant["file"]
    text = path.read_text(encoding="utf-8")
    path.write_text(mutated(text, mutant), encoding="utf-8")
    began = time.perf_counter()
    try:
        code, output = run_tests(folder, mutant["tests"])
    finally:
        path.write_text(text, encoding="utf-8")
    # 1: a test failed. Any other code says that pytest itself could not do its work.
    verdict = {0: "survived", 1: "killed", None: "killed"}.get(code, "broken")
    by = "" if code == 0 else "the time limit" if code is None else failure(output)
    if verdict == "broken":
        print(output, file=sys.stderr)
    row = {key: mutant[key] for key in ("id", "file", "what")}
    seconds = f"{time.perf_counter() - began:.0f}"
    return row | {"verdict": verdict, "by": by, "seconds": seconds, "mutant": digest(mutant)}


def failure(output):
    """The test that failed, without its parameters, whose names may hold anything."""
    found = FAILED.search(output)
    return found[1].partition("[")[0] if found else ""


def read_results(path=RESULTS):
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_results(rows, order, path=RESULTS):
    """Rows in the order of the mutants; those of mutants that are no more are left out."""
    rows = {row["id"]: row for row in rows}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[name] for name in order if name in rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("ids", nargs="*", help="mutants to try (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args(argv)
    mutants = load()
    order = [mutant["id"] for mutant in mutants]
    if unknown := set(options.ids) - set(order):
        parser.error(f"no mutant {sorted(unknown)[0]}")
    chosen = [mutant for mutant in mutants if not options.ids or mutant["id"] in options.ids]
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # what conftest.py sets too late
    SERVER.set_forkserver_preload(list(LOADED))
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        os.environ["TMPDIR"] = scratch  # a child ends without tidying up
        free, kept = queue.Queue(), threading.Lock()
        for number in range(options.jobs):
            copy(ROOT, Path(scratch, str(number)))
            free.put(Path(scratch, str(number)))
        every = sorted({test for mutant in chosen for test in mutant["tests"]})
        print(f"{len(chosen)} mutants; first their {len(every)} tests without any", flush=True)
        code, output = sound(Path(scratch, "0"), every)
        if code != 0:
            print(output, file=sys.stderr)
            sys.exit("the tests fail without a mutant: nothing can be said")

        def one(mutant):
            folder = free.get()
            row = judge(folder, mutant)
            free.put(folder)
            with kept:  # whatever happens to the others
                write_results([*read_results(), row], order)
            print(*(row[key] for key in COLUMNS[:-1] if key != "what"), flush=True)
            return row

        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(one, chosen))
    alive = [row["id"] for row in rows if row["verdict"] != "killed"]
    print(f"{len(rows) - len(alive)} of {len(rows)} killed; not killed: {', '.join(alive) or '-'}")
    return 1 if alive else 0


def sound(folder, tests):
    """The tests on the tree as it is, file by file, so that none is cut off by the time limit."""
    for file in sorted({test.partition("::")[0] for test in tests}):
        code, output = run_tests(folder, [test for test in tests if test.startswith(file)])
        if code != 0:
            return code, output or f"{file} took more than {LIMIT} seconds"
    return 0, ""


if __name__ == "__main__":
    sys.exit(main())
