"""Kill writers at random moments, fill their disks, write at once: python tests/faults/run.py

Writes results.csv beside this file, a line for each fault and writer: the rounds; in how many of
them the fault met a writer at work (a kill can come too late, a full disk can have room enough);
how often a file that was saved was lost or went back, how often half of one stood there, how often
a part stayed behind after the next run, and how often the words did not name the file. ``--rounds``
for each writer (a fifth of them where a round takes seconds); ``--seed`` other moments.
"""

from __future__ import annotations

import argparse
import csv
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "tools"), str(HERE.parent), str(ROOT)]

import notebook_env  # noqa: E402

COLUMNS = ("fault", "writer", "rounds", "met", "lost", "half_written", "left_behind", "wordless")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--faults", nargs="*", help="these alone; the other lines stay")
    options = parser.parse_args()
    notebook_env.enter()
    import torch

    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    if options.disk:
        found = on_disk(options.disk, options.rounds, chance)
    else:
        found = []
        for fault in options.faults or FAULTS:
            found += FAULTS[fault](options.rounds, chance)
    for row in found:
        print(*row, sep=",", flush=True)
    if not options.disk:
        write(found, keep=bool(options.faults))
    return int(any(count for row in found for count in row[4:]))


def write(found: list[tuple], keep: bool) -> None:
    """The table; with ``keep`` the lines that were not run this time stay in their places."""
    path, rows = HERE / "results.csv", {tuple(line[:2]): line for line in found}
    if keep and path.exists():
        with open(path, newline="") as file:
            before = {tuple(line[:2]): line for line in list(csv.reader(file))[1:]}
        rows = before | rows
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows.values()])


def row(fault: str, writer: str, rounds: int, counts: Counter) -> tuple:
    return fault, writer, rounds, *(counts[name] for name in COLUMNS[3:])


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """A fork that works and says into a pipe how far it is; its id, and the end to read."""
    out, into = os.pipe()
    if pid := os.fork():
        os.close(into)
        return pid, out
    try:
        os.close(out)
        work(into)
    finally:
        os._exit(0)


def said(pid: int, out: int) -> int:
    """The last number that a child said, once it is dead; 0 for none."""
    os.waitpid(pid, 0)
    with os.fdopen(out) as lines:
        return max(map(int, lines.read().split()), default=0)


# -- SIGKILL -----------------------------------------------------------------------------------


def killed_writers(rounds: int, chance: random.Random) -> list[tuple]:
    from writers import WRITERS, left

    found = []
    for name, writer in WRITERS.items():
        counts, n = Counter(), 1
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            writer.write(folder, n)
            for _ in range(rounds):

                def work(into, start=n, writer=writer, folder=folder):
                    for number in range(start + 1, start + 10_000):
                        writer.write(folder, number)
                        os.write(into, b"%d\n" % number)

                pid, out = in_child(work)
                time.sleep(chance.uniform(0, 0.15))
                os.kill(pid, 9)
                counts["met"] += 1  # nobody writes ten thousand versions in that time
                saved = max(n, said(pid, out))
                n = judge(writer, folder, saved, saved + 1, counts)
                n = 1 if n > 400 else n + 1  # not for ever larger
                if n == 1 and writer.grows:
                    shutil.rmtree(folder)
                    folder.mkdir()
                if n == 1 and name == "checkpoint":
                    (folder / writer.name).unlink()  # it never goes back by itself
                writer.write(folder, n)
                counts["left_behind"] += len(left(folder))
        found.append(row("killed", name, rounds, counts))
    return found


def judge(writer, folder: Path, least: int, most: int, counts: Counter) -> int:
    """The version that stands, counted as half written or lost where it should not stand."""
    try:
        version = writer.version(folder)
    except Exception as error:
        print(f"{writer.name}: {error!r}", file=sys.stderr)
        counts["half_written"] += 1
        return least
    if not least <= version <= most:
        print(f"{writer.name}: {version}, expected {least} to {most}", file=sys.stderr)
        counts["lost"] += 1
    return version


def killed_fit(rounds: int, chance: random.Random) -> list[tuple]:
    """Training that dies and goes on ends with the weights of an unbroken run."""
    import json

    import killed

    found = []
    for case in ("packed", "dropout"):
        counts, deaths = Counter(), 0
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            began = time.perf_counter()
            killed.ended(killed.start(folder / "unbroken.json", None, case))
            seconds = time.perf_counter() - began
            unbroken = json.loads((folder / "unbroken.json").read_text())
            while deaths < rounds:
                try:
                    deaths += killed.killed(case, folder, seconds, chance) or 1
                except Exception as error:
                    print(repr(error), file=sys.stderr)
                    counts["half_written"] += 1
                path = folder / f"{case}.killed.json"
                counts["lost"] += json.loads(path.read_text()) != unbroken
                counts["left_behind"] += sum(p.suffix == ".part" for p in folder.iterdir())
                path.unlink()
                (folder / f"{case}.safetensors").unlink()
        counts["met"] = deaths
        found.append(row("killed", f"fit ({case})", deaths, counts))
    return found


def killed_download(rounds: int, chance: random.Random) -> list[tuple]:
    """A slow server on this machine; what stands in the cache is whole, or nothing stands there."""
    import hashlib
    import http.server
    import threading

    import pooch  # noqa: F401  once, before the children are made

    from mylib.datasets import CORPORA, Corpus, fetch

    content, counts = os.urandom(400_000), Counter()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for i in range(0, len(content), 40_000):
                self.wfile.write(content[i : i + 40_000])
                time.sleep(0.01)

        def log_message(self, *_):
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/x"
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        CORPORA["x"] = Corpus("x/x.txt", address, digest, len(content))
        os.environ["MYLIB_CACHE"] = folder
        path = Path(folder) / "x" / "x.txt"
        for _ in range(rounds):
            pid, out = in_child(lambda into: fetch("x", progress=False))
            time.sleep(chance.uniform(0, 0.25))
            os.kill(pid, 9)
            said(pid, out)
            counts["met"] += not path.exists()
            counts["half_written"] += path.exists() and path.read_bytes() != content
            fetch("x", progress=False)
            counts["lost"] += path.read_bytes() != content
            counts["left_behind"] += len(list(path.parent.iterdir())) - 1
            path.unlink()
        server.shutdown()
    return [row("killed", "download", rounds, counts)]


def killed_notebooks(rounds: int, chance: random.Random) -> list[tuple]:
    """`make notebooks` on a chapter of two cells, killed: the old text or the new one stands."""
    import execute
    import nbformat

    counts, rounds = Counter(), max(2, rounds // 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "01.ipynb"
        cells = [nbformat.v4.new_code_cell(f"print({n} * 'word ')", id=f"c{n}") for n in (7, 9)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        old = path.read_text()
        began = time.perf_counter()
        assert execute.execute(path) == 0
        seconds, new = time.perf_counter() - began, path.read_text()
        for _ in range(rounds):
            path.write_text(old)
            pid, out = in_child(lambda into: execute.execute(path))
            time.sleep(seconds * chance.uniform(0.3, 1.05))
            os.kill(pid, 9)
            said(pid, out)
            counts["met"] += path.read_text() == old
            counts["half_written"] += path.read_text() not in (old, new)
            assert execute.execute(path) == 0
            counts["lost"] += path.read_text() != new
            counts["left_behind"] += len(list(path.parent.iterdir())) - 1
    return [row("killed", "make notebooks", rounds, counts)]


# -- two at once -------------------------------------------------------------------------------


def two_at_once(rounds: int, chance: random.Random) -> list[tuple]:
    """Two processes save the same file again and again: the last whole one of either stands."""
    from writers import WRITERS, left

    found = []
    for name, writer in WRITERS.items():
        counts = Counter()
        for _ in range(max(2, rounds // 5)):
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)

                def work(into, writer=writer, folder=folder):
                    end = time.perf_counter() + 0.15
                    number = 0
                    while time.perf_counter() < end:
                        number += 1
                        writer.write(folder, number)
                        os.write(into, b"%d\n" % number)

                counts["met"] += 1
                both = [in_child(work) for _ in range(2)]
                last = [said(*one) for one in both]
                ahead = name in ("checkpoint", "results table")  # these never go back
                judge(writer, folder, max(last) if ahead else min(last), max(last), counts)
                counts["left_behind"] += len(left(folder))
        found.append(row("two at once", name, max(2, rounds // 5), counts))
    return found


# -- disks -------------------------------------------------------------------------------------


def disks(rounds: int, chance: random.Random) -> list[tuple]:
    """In a process that may mount: a file system of its own, full and read-only."""
    from disks import own_mounts

    command = own_mounts()
    if not command:
        print("this system allows no mounts: no full and no read-only disk", file=sys.stderr)
        return []
    script = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" "$3" --rounds "$4" --disk "$1"'
    with tempfile.TemporaryDirectory() as folder:
        more = [folder, sys.executable, __file__, str(rounds)]
        done = subprocess.run(
            [*command, "sh", "-c", script, "sh", *more], stdout=subprocess.PIPE, text=True
        )
    rows = [line.split(",") for line in done.stdout.splitlines()]
    return [(*line[:2], *map(int, line[2:])) for line in rows if len(line) == len(COLUMNS)]


def on_disk(disk: Path, rounds: int, chance: random.Random) -> list[tuple]:
    from disks import filled, read_only, room
    from writers import WRITERS

    found = []
    for fault, number in (("full", errno.ENOSPC), ("read-only", errno.EROFS), ("cut", errno.EFBIG)):
        for name, writer in WRITERS.items():
            counts, tried = Counter(), rounds if fault != "read-only" else 2
            for _ in range(tried):
                folder = disk / "desk"
                folder.mkdir()
                writer.write(folder, 3)
                size = (folder / writer.name).stat().st_size
                free = chance.randrange(0, max(size, 8192) if fault == "full" else size)
                refusing = {
                    "full": lambda free=free: filled(disk, free),
                    "read-only": lambda: read_only(disk),
                    "cut": lambda free=free: room(free),
                }[fault]
                refused(writer, folder, refusing, number, counts)
                shutil.rmtree(folder)
            found.append(row(fault, name, tried, counts))
    return found


def refused(writer, folder: Path, refusing: Callable, number: int, counts: Counter) -> None:
    """Version 4 on a disk that refuses: it says so, and version 3 stands; or it finds its room."""
    try:
        with refusing():
            writer.write(folder, 4)
        done = True
    except OSError as error:
        done = False
        if error.errno != number or writer.name not in str(error) or ".part" in str(error):
            print(f"{writer.name}: {error!r}", file=sys.stderr)
            counts["wordless"] += 1
    except Exception as error:
        done = False
        print(f"{writer.name}: {error!r}", file=sys.stderr)
        counts["wordless"] += 1
    counts["met"] += not done
    judge(writer, folder, 3 + done, 3 + done, counts)
    counts["left_behind"] += sum(path.name.endswith(".part") for path in folder.rglob("*"))


FAULTS = {
    "writers": killed_writers,
    "fit": killed_fit,
    "download": killed_download,
    "notebooks": killed_notebooks,
    "two": two_at_once,
    "disks": disks,
}

if __name__ == "__main__":
    sys.exit(main())
