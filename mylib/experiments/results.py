"""A table of results that a killed script can go on with, and how it was made."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..files import alone, read_json, replacing
from ..metrics import Interval


def origin(script: str, argv: Sequence[str] | None) -> dict:
    """What every results file says about itself: the command and the versions behind it."""
    words = sys.argv[1:] if argv is None else argv
    return {
        "command": " ".join(["python -m mylib.experiments." + script, *words]),
        "torch": torch.__version__.split("+")[0],
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, facts: dict) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n")


def rounded(interval: Interval) -> dict[str, float]:
    """Mean and bounds of an interval by name, to four places."""
    return {name: round(value, 4) for name, value in interval._asdict().items()}


def log_frequencies(ids: Tensor, tokens: int) -> Tensor:
    """log p of each of so many tokens by its frequency among ``ids``, one added to each count;
    nats, float64 (tokens,)."""
    counts = torch.bincount(ids, minlength=tokens).double() + 1
    return (counts / counts.sum()).log()


class Table:
    """A CSV file that grows row by row, beside a JSON file of the same name with ``facts``.

    ``key``: the columns that name a row; a row that is there is not measured again. Each row is
    appended in one write, and what a killed writer left of a row is taken off. Two scripts may fill
    one table: neither loses a row of the other, and what both measure stands there once or twice.

    Raises `ValueError` where the file was made with other ``settings``, and with its name for files
    of another form.
    """

    def __init__(
        self, path: Path, key: Sequence[str], values: Sequence[str], settings: dict, facts: dict
    ) -> None:
        self.path, self.key, self.columns = path, tuple(key), [*key, *values]
        self.about = path.with_suffix(".json")
        self.facts = {**facts, "settings": settings}
        self.rows: list[dict] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent):
            self._begin(settings)

    def _begin(self, settings: dict) -> None:
        """Go on with the files that are there, or make them."""
        if not (self.path.exists() and self.path.stat().st_size):
            write_json(self.about, self.facts)
            self._append(self.columns)
            return
        self.facts = read_json(self.about)
        before = self.facts.get("settings") if isinstance(self.facts, dict) else self.facts
        if before != json.loads(json.dumps(settings)):
            raise ValueError(f"{self.path} was made with {before!r:.500}, not {settings}")
        self._read()

    def has(self, **key) -> bool:
        wanted = {name: str(value) for name, value in key.items()}
        return any(wanted.items() <= row.items() for row in self.rows)

    def add(self, **row) -> None:
        """Append one row, unless its key is there, and show it."""
        if self.has(**{name: row[name] for name in self.key}):
            return
        written = {name: str(row[name]) for name in self.columns}
        with alone(self.path.parent):
            self._append(written.values())
        self.rows.append(written)
        print(" ".join(written.values()), flush=True)

    def _append(self, values: Iterable[str]) -> None:
        """One line in one write; where the disk is full, nothing of it."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        data = line.getvalue().encode()
        with open(self.path, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if (done := file.write(data)) != len(data):
                    file.write(data[done:])  # it says why not all of them were written
            except OSError as error:
                file.truncate(size)
                error.filename = str(self.path)  # a full disk names no file
                raise

    def _read(self) -> None:
        """The rows that are there, each of them whole."""
        with self.path.open("r+b") as file:
            data = file.read()
            if not data.endswith(b"\n"):  # half a row of a killed writer: it is measured again
                data = data[: data.rfind(b"\n") + 1]
                file.truncate(len(data))
        try:
            lines = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path}: not a table: {error}") from error
        for number, line in enumerate(lines, start=1):
            if len(line) != len(self.columns) or (number == 1 and line != self.columns):
                raise ValueError(
                    f"{self.path}, line {number}: {line!r:.200}, expected columns {self.columns}"
                )
        self.rows = [dict(zip(self.columns, line, strict=True)) for line in lines[1:]]

    def note(self, **facts) -> None:
        """Add facts to the JSON file."""
        self.facts |= facts
        write_json(self.about, self.facts)
