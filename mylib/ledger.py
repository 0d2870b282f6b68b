"""The ledger: what the four source notes claim in numbers, what was measured, and a verdict.

The rows are in `data/ledger.toml`; its head explains the fields. Numbers that rest on committed
results are looked up in these files when the ledger is read, and typed nowhere.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from .files import data_path, read_json, read_toml

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
KINDS = dict.fromkeys((*REQUIRED, "version"), str)
KINDS |= dict(note=int, evidence=list, headline=bool, numbers=dict)
NOTE = dict(number=int, title=str, right=str)
NUMBER = dict(file=str, where=dict, minus=dict, column=str, how=str, show=str, times=int, key=str)
FIELD = re.compile(r"\{(\w+)\}")  # of ``measured``
SHOW = re.compile(r",?(\.\d)?[defg%]?")  # how a number is printed


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
    path = Path(path or data_path("ledger.toml"))
    data = read_toml(path)
    try:
        parts = dict(verdicts=dict, chapters=dict, notes=list, row=list)
        _kinds(data, parts, parts, "the ledger")
        for name in ("verdicts", "chapters"):
            _kinds(data[name], dict.fromkeys(data[name], str), (), f"[{name}]")
        for note in data["notes"]:
            _kinds(note, NOTE, NOTE, "a note")
        notes = {note["number"]: note for note in data["notes"]}
        rows = [_row(raw, notes, data) for raw in data["row"]]
        if repeated := {row.id for row in rows if [r.id for r in rows].count(row.id) > 1}:
            raise ValueError(f"row {min(repeated)!r}: id: used twice")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Ledger(rows, notes, data["verdicts"], data["chapters"])


def _kinds(raw: Any, kinds: dict[str, type], required: Iterable[str], where: str) -> None:
    """Raise `ValueError` unless ``raw`` is a table with the required fields, each of its kind."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: {raw!r:.99} is no table of fields")
    if missing := [field for field in required if not raw.get(field)]:
        raise ValueError(f"{where}: {missing[0]}: missing or empty")
    if unknown := raw.keys() - kinds.keys():
        raise ValueError(f"{where}: {min(unknown):.99}: no field of a row")
    for field, value in raw.items():
        if type(value) is not kinds[field]:
            said = f"{value!r:.99}, expected {kinds[field].__name__}"
            raise ValueError(f"{where}: {field}: {said}")


def _row(raw: Any, notes: dict, data: dict) -> Row:
    name = raw.get("id", "without an id") if isinstance(raw, dict) else raw
    where = f"row {name!r:.99}"
    _kinds(raw, KINDS, REQUIRED, where)
    numbers, measured = raw.get("numbers", {}), raw["measured"]
    for field, allowed in (("note", notes), ("verdict", data["verdicts"])):
        if raw[field] not in allowed:
            raise ValueError(f"{where}: {field}: {raw[field]!r:.99}, expected {list(allowed)}")
    if raw["chapter"] not in data["chapters"]:
        raise ValueError(f"{where}: chapter: {raw['chapter']!r:.99} is not in [chapters]")
    if raw["verdict"] != "holds" and not raw.get("version"):
        raise ValueError(f"{where}: version: needed where the verdict is not 'holds'")
    fields = set(FIELD.findall(measured))
    if fields != numbers.keys() or re.search("[{}]", FIELD.sub("", measured)):
        found = f"{sorted(numbers)!r:.200}, measured has {sorted(fields)!r:.200}"
        raise ValueError(f"{where}: numbers: {found}")
    kept = {field: value for field, value in raw.items() if field != "numbers"}
    filled = {field: _shown(spec, f"{where}: numbers") for field, spec in numbers.items()}
    return Row(**kept | {"measured": FIELD.sub(lambda found: filled[found[1]], measured)})


def _shown(spec: Any, where: str) -> str:
    """A number of [row.numbers] as it is printed, or what is wrong with its line."""
    _kinds(spec, NUMBER, ("file", "show"), where)
    if not SHOW.fullmatch(spec["show"]):
        raise ValueError(f"{where}: show: {spec['show']!r:.99}, expected such as '.2f'")
    try:
        value = look_up(spec)
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
        return format(value, spec["show"])
    except (ValueError, TypeError, KeyError, OSError, ArithmeticError, csv.Error) as error:
        raise ValueError(f"{where}: {error!s:.300} (of {spec['file']:.99})") from None


def look_up(spec: dict[str, Any]) -> float | int:
    """The number that a line of [row.numbers] asks for (see the head of `data/ledger.toml`).

    Raises `ValueError` where no row of a CSV file fits, or several fit and one is expected.
    """
    path = data_path(spec["file"].removeprefix("data/"))
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    if path.suffix == ".json":
        value = read_json(path)[spec["key"]]
        if type(value) not in (int, float):
            raise ValueError(f"{spec['key']!r} is {value!r:.99}, expected a number")
    else:
        value = _of_rows(path, spec["where"], spec)
        if "minus" in spec:
            value -= _of_rows(path, spec["minus"], spec)
    return value * spec["times"] if "times" in spec else value


def _of_rows(path: Path, where: dict[str, str | list[str]], spec: dict[str, Any]) -> float:
    wanted = {key: value if isinstance(value, list) else [value] for key, value in where.items()}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if all(row[key] in some for key, some in wanted.items())]
    if not kept or (spec["how"] == "only" and len(kept) != 1):
        raise ValueError(f"{len(kept)} rows of {spec['file']} fit {where}")
    return HOW[spec["how"]]([float(row[spec["column"]]) for row in kept])
