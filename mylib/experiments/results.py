"""A table of results that a killed script can go on with, and how it was made."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..files import replacing
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

    ``key``: the columns that name a row; a row that is there is not measured again. Raises
    `ValueError` where the file was made with other ``settings``.
    """

    def __init__(
        self, path: Path, key: Sequence[str], values: Sequence[str], settings: dict, facts: dict
    ) -> None:
        self.path, self.key, self.columns = path, tuple(key), [*key, *values]
        self.about = path.with_suffix(".json")
        self.facts = {**facts, "settings": settings}
        self.rows: list[dict] = []
        if path.exists():
            self.facts = json.loads(self.about.read_text())
            if self.facts["settings"] != json.loads(json.dumps(settings)):
                raise ValueError(f"{path} was made with {self.facts['settings']}, not {settings}")
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
            return
        write_json(self.about, self.facts)
        with replacing(path) as aside:
            aside.write_text(",".join(self.columns) + "\n")

    def has(self, **key) -> bool:
        wanted = {name: str(value) for name, value in key.items()}
        return any(wanted.items() <= row.items() for row in self.rows)

    def add(self, **row) -> None:
        """Append one row, unless its key is there, and show it."""
        if self.has(**{name: row[name] for name in self.key}):
            return
        self.rows.append({name: str(row[name]) for name in self.columns})
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(self.rows[-1])
        print(" ".join(self.rows[-1].values()), flush=True)

    def note(self, **facts) -> None:
        """Add facts to the JSON file."""
        self.facts |= facts
        write_json(self.about, self.facts)
