"""The ledger: what the four source notes claim in numbers, what was measured, and a verdict.

The rows are in `data/ledger.toml`; its head explains the fields. Numbers that rest on committed
results are looked up in these files when the ledger is read, and typed nowhere.
"""

from __future__ import annotations

import csv
import json
import re
import string
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from .files import data_path

CELL = "text-align:left;vertical-align:top;padding:0.3em 0.6em;white-space:normal"
TABLE = "font-size:90%;table-layout:fixed;width:100%;overflow-wrap:break-word"
COLUMNS = {  # and their widths
    "the note says": "20%",
    "measured here": "28%",
    "verdict": "10%",
    "the version that holds": "27%",
    "where": "15%",
}
HOW = {"mean": fmean, "sum": sum, "min": min, "max": max, "only": lambda found: found[0]}
REQUIRED = ("id", "note", "says", "measured", "verdict", "chapter", "heading", "evidence")


@dataclass(frozen=True)
class Row:
    """One claim. Fields as in `data/ledger.toml`; the numbers of ``measured`` are filled in."""

    id: str
    note: int
    says: str
    measured: str
    verdict: str
    chapter: str
    heading: str
    evidence: list[str]
    version: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Ledger:
    """All rows, the titles of notes and chapters, and what each verdict means."""

    rows: list[Row]
    notes: dict[int, dict[str, Any]]
    verdicts: dict[str, str]
    chapters: dict[str, str]

    def counts(self) -> str:
        """Rows per verdict (lines) and per note (columns), as text."""
        lines = [f"{'':<24}" + "".join(f"note {n:<4}" for n in self.notes) + "all"]
        for name in [*self.verdicts, "all"]:
            kept = [row.note for row in self.rows if name in (row.verdict, "all")]
            per_note = "".join(f"{kept.count(n):>6}   " for n in self.notes)
            lines.append(f"{name:<24}{per_note}{len(kept):>3}")
        return "\n".join(lines)

    def table(self, note: int | None = None) -> Table:
        """The rows of one note, or of all, as HTML; `print` gives one line."""
        if note is not None and note not in self.notes:
            raise ValueError(f"a note is one of {list(self.notes)}, not {note!r}")
        return Table(self, [note] if note else list(self.notes))


class Table:
    """The ledger as HTML, a folding table for each note; the repr says how many rows it has."""

    def __init__(self, ledger: Ledger, notes: list[int]) -> None:
        self.ledger, self.notes = ledger, notes

    def __repr__(self) -> str:
        rows = [row for row in self.ledger.rows if row.note in self.notes]
        return f"Ledger: {len(rows)} rows of note {', '.join(map(str, self.notes))}"

    def _repr_html_(self) -> str:
        return "".join(self._note(number) for number in self.notes)

    def _note(self, number: int) -> str:
        note = self.ledger.notes[number]
        rows = [row for row in self.ledger.rows if row.note == number]
        head = "".join(
            f'<th scope="col" style="{CELL};width:{width}">{name}</th>'
            for name, width in COLUMNS.items()
        )
        body = "".join(self._row(row) for row in rows)
        return (
            f"<details open><summary><b>Note {number}, {escape(note['title'])}</b> "
            f"({len(rows)} rows)</summary><p>What it gets right: {escape(note['right'])}</p>"
            f'<table style="{TABLE}"><tr>{head}</tr>{body}</table></details>'
        )

    def _row(self, row: Row) -> str:
        title = f"{self.ledger.chapters[row.chapter]} · {row.heading}"
        where = f'<a href="{link(row)}">{escape(title)}</a>'
        says = f"<i>{escape(row.says.replace('**', ''))}</i>"
        plain = (escape(text) for text in (row.measured, row.version or "as it stands"))
        measured, version = (re.sub(r"`([^`]+)`", r"<code>\1</code>", text) for text in plain)
        cells = (says, measured, f"<b>{escape(row.verdict)}</b>", version, where)
        return "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>"


def link(row: Row) -> str:
    """The address of the row's heading, as JupyterLab names it: spaces become hyphens.

    JupyterLab compares the heading with the address as it is written, so little is escaped.

    >>> link(Row("x", 1, "", "", "", "02-leakage.ipynb", "The floor", []))
    '02-leakage.ipynb#The-floor'
    """
    return f"{row.chapter}#" + quote(row.heading.replace(" ", "-"), safe="?'!,:")


def load_ledger(path: str | Path | None = None) -> Ledger:
    """Read and check the ledger, by default the shipped one.

    Raises `ValueError` naming row and field, with what was found and expected.
    """
    data = tomllib.loads(Path(path or data_path("ledger.toml")).read_text("utf-8"))
    notes = {note["number"]: note for note in data["notes"]}
    rows = [_row(raw, notes, data) for raw in data["row"]]
    if repeated := {row.id for row in rows if [r.id for r in rows].count(row.id) > 1}:
        raise ValueError(f"row {min(repeated)!r}: id: used twice")
    return Ledger(rows, notes, data["verdicts"], data["chapters"])


def _row(raw: dict[str, Any], notes: dict, data: dict) -> Row:
    name, numbers = raw.get("id", "without an id"), raw.get("numbers", {})
    if missing := [field for field in REQUIRED if not raw.get(field)]:
        raise ValueError(f"row {name!r}: {missing[0]}: missing or empty")
    if unknown := raw.keys() - {*Row.__dataclass_fields__, "numbers"}:
        raise ValueError(f"row {name!r}: {min(unknown)}: no field of a row")
    for field, allowed in (("note", notes), ("verdict", data["verdicts"])):
        if raw[field] not in allowed:
            raise ValueError(f"row {name!r}: {field}: {raw[field]!r}, expected {list(allowed)}")
    if raw["chapter"] not in data["chapters"]:
        raise ValueError(f"row {name!r}: chapter: {raw['chapter']!r} is not in [chapters]")
    if raw["verdict"] != "holds" and not raw.get("version"):
        raise ValueError(f"row {name!r}: version: needed where the verdict is not 'holds'")
    fields = {part[1] for part in string.Formatter().parse(raw["measured"]) if part[1]}
    if fields != numbers.keys():
        raise ValueError(f"row {name!r}: numbers: {sorted(numbers)}, measured has {sorted(fields)}")
    try:
        filled = {n: format(look_up(spec), spec["show"]) for n, spec in numbers.items()}
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise ValueError(f"row {name!r}: numbers: {error}") from None
    kept = {field: value for field, value in raw.items() if field != "numbers"}
    return Row(**kept | {"measured": raw["measured"].format(**filled)})


def look_up(spec: dict[str, Any]) -> float | int:
    """The number that a line of [row.numbers] asks for (see the head of `data/ledger.toml`).

    Raises `ValueError` where no row of a CSV file fits, or several fit and one is expected.
    """
    path = data_path(spec["file"].removeprefix("data/"))
    if path.suffix == ".json":
        value = json.loads(path.read_text())[spec["key"]]
    else:
        value = _of_rows(path, spec["where"], spec)
        if "minus" in spec:
            value -= _of_rows(path, spec["minus"], spec)
    return value * spec["times"] if "times" in spec else value


def _of_rows(path: Path, where: dict[str, str | list[str]], spec: dict[str, Any]) -> float:
    wanted = {key: value if isinstance(value, list) else [value] for key, value in where.items()}
    with open(path) as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if all(row[key] in some for key, some in wanted.items())]
    if not kept or (spec["how"] == "only" and len(kept) != 1):
        raise ValueError(f"{len(kept)} rows of {spec['file']} fit {where}")
    return HOW[spec["how"]]([float(row[spec["column"]]) for row in kept])
