"""The Gazette's grammar: a TOML file, checked and flattened into templates.

A frame is a kind of brief. It declares draws (named, independent choices of one row of a table)
and slots (sentences, each with weighted variants). One variant per slot gives a *flat template*: a
sequence of cells, each a fixed word or a reference to a column of a draw. ``data/README.md``
describes the format for those who edit it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from .files import read_toml
from .tokenizer import pretokens

WORD = regex.compile(r"\p{L}+|\p{N}+")  # what stays one pre-token whatever follows it
REFERENCE = regex.compile(r"\{(\w+)\.(\w+)\}")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
SIDES = ("left", "right")
# Words of all flat templates at most, and words times rows: what the oracle holds in memory grows
# with them. The Sunday edition has 6,208 and 99,328.
MOST_WORDS, MOST_CELLS = 100_000, 10_000_000


class GrammarError(ValueError):
    """A mistake in a grammar file; the message names file, frame or table, and key."""


@dataclass(frozen=True)
class Cell:
    """One word of a flat template: fixed (``word``), or the ``column`` of a ``draw``."""

    word: str = ""
    draw: str = ""
    column: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of words that go together; ``weights`` sum to 1; ``tags`` of the tagged columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...]
    tags: dict[str, str]


@dataclass(frozen=True)
class Question:
    """A question that a frame answers: the cells of its sentence, and the answer's cell."""

    ask: tuple[Cell, ...]
    answer: Cell


@dataclass(frozen=True)
class Template:
    """One choice of variant per slot: a sequence of cells with its probability."""

    frame: str
    prior: float
    cells: tuple[Cell, ...]
    draws: dict[str, str]
    side: str | None
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Grammar:
    """One edition: its tables and its flat templates, whose priors sum to 1."""

    edition: str
    paper: str
    tables: dict[str, Table]
    templates: tuple[Template, ...]

    def units(self) -> list[str]:
        """Every word that a document or question can contain, as the tokenizer cuts it, sorted."""
        found = set()
        for template in self.templates:
            asked = [cell for question in template.questions for cell in question.ask]
            for cell in itertools.chain(template.cells, asked):
                found.update(self.choices(template, cell))
        return sorted(found)

    def choices(self, template: Template, cell: Cell) -> tuple[str, ...]:
        """The words that may stand in a cell, one for each row of its table."""
        if not cell.draw:
            return (cell.word,)
        table = self.tables[template.draws[cell.draw]]
        column = table.columns.index(cell.column)
        return tuple(" " + row[column] for row in table.rows)


def load_grammar(path: str | Path) -> Grammar:
    """Read and check a grammar file. Raises `GrammarError` for any mistake in it."""
    try:
        raw = read_toml(path)
    except ValueError as error:
        raise GrammarError(str(error)) from error
    return _Reader(str(path)).grammar(raw)


class _Reader:
    """Checks as it reads; every complaint says where it stands."""

    def __init__(self, path: str) -> None:
        self.path = path

    def fail(self, where: str, what: str) -> GrammarError:
        return GrammarError(f"{self.path}: {where}: {what}")

    def bound(self, where: str, templates: int, words: int) -> None:
        rows = max(len(table.rows) for table in self.tables.values())
        if templates * words > MOST_WORDS or templates * words * rows > MOST_CELLS:
            raise self.fail(
                where,
                f"{templates} texts of up to {words} words, from tables of up to {rows} rows: at "
                f"most {MOST_WORDS} words, and {MOST_CELLS} words times rows",
            )

    def section(
        self, raw: Any, where: str, required: set[str], optional: set[str] = frozenset()
    ) -> dict:
        if not isinstance(raw, dict):
            raise self.fail(where, f"expected a table of keys, found {type(raw).__name__}")
        if missing := required - raw.keys():
            raise self.fail(where, f"missing {', '.join(sorted(missing))}")
        if unknown := raw.keys() - required - optional:
            raise self.fail(where, f"unknown key {', '.join(sorted(unknown))}")
        return raw

    def typed(self, value: Any, where: str, kind: type) -> Any:
        if not isinstance(value, kind):
            wanted = {dict: "a table of keys", list: "a list", str: "a text"}[kind]
            raise self.fail(where, f"expected {wanted}, found {value!r:.200}")
        return value

    def weight(self, value: Any, where: str) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not 1e-9 <= value <= 1e9:  # further apart, products and sums lose them
            raise self.fail(
                where, f"a weight is a positive number (1e-9 to 1e9), found {value!r:.99}"
            )
        return float(value)

    def grammar(self, raw: dict) -> Grammar:
        self.section(raw, "file", {"edition", "paper", "tables", "frames"})
        for key in ("edition", "paper"):
            self.typed(raw[key], key, str)
        for key in ("tables", "frames"):
            if not self.typed(raw[key], key, dict):
                raise self.fail(key, "is empty")
        self.tables = {name: self.table(name, table) for name, table in raw["tables"].items()}
        frames = {name: self.frame(name, frame) for name, frame in raw["frames"].items()}
        flat = [len(template.cells) for _, templates in frames.values() for template in templates]
        self.bound("frames", len(flat), max(flat))
        total = sum(weight for weight, _ in frames.values())
        templates = tuple(
            Template(**{**vars(template), "prior": template.prior * weight / total})
            for weight, flat in frames.values()
            for template in flat
        )
        return Grammar(raw["edition"], raw["paper"], self.tables, templates)

    def table(self, name: str, raw: Any) -> Table:
        where = f"tables.{name}"
        self.section(raw, where, {"columns", "rows"}, {"tags", "weights"})
        columns = tuple(self.typed(raw["columns"], f"{where}.columns", list))
        for i, column in enumerate(columns):
            self.typed(column, f"{where}.columns[{i}]", str)
        if not columns or len(set(columns)) < len(columns):
            raise self.fail(
                f"{where}.columns", f"columns are named once each, found {columns!r:.200}"
            )
        rows = self.typed(raw["rows"], f"{where}.rows", list)
        if not rows:
            raise self.fail(f"{where}.rows", "no rows")
        for number, row in enumerate(rows):
            self.row(row, f"{where}.rows[{number}]", columns)
        weights = self.typed(raw.get("weights", [1] * len(rows)), f"{where}.weights", list)
        if len(weights) != len(rows):
            raise self.fail(f"{where}.weights", f"{len(weights)} weights for {len(rows)} rows")
        weights = [self.weight(w, f"{where}.weights[{i}]") for i, w in enumerate(weights)]
        tags = dict(self.typed(raw.get("tags", {}), f"{where}.tags", dict))
        for column, tag in tags.items():
            if column not in columns or tag not in TAGS:
                raise self.fail(
                    f"{where}.tags.{column}", f"no such column, or tag {tag!r:.99} not in {TAGS}"
                )
        return Table(
            columns,
            tuple(tuple(row) for row in rows),
            tuple(w / sum(weights) for w in weights),
            tags,
        )

    def row(self, row: Any, where: str, columns: tuple[str, ...]) -> None:
        if len(self.typed(row, where, list)) != len(columns):
            raise self.fail(where, f"{len(row)} words for {len(columns)} columns: {row!r:.200}")
        for column, word in zip(columns, row, strict=True):
            if not isinstance(word, str) or not WORD.fullmatch(word):
                raise self.fail(f"{where}.{column}", f"{word!r:.99} is not one single word")

    def frame(self, name: str, raw: Any) -> tuple[float, list[Template]]:
        where = f"frames.{name}"
        self.section(raw, where, {"weight", "slots"}, {"draws", "questions"})
        weight = self.weight(raw["weight"], f"{where}.weight")
        draws = self.typed(raw.get("draws", {}), f"{where}.draws", dict)
        for draw, table in draws.items():
            if self.typed(table, f"{where}.draws.{draw}", str) not in self.tables:
                raise self.fail(f"{where}.draws.{draw}", f"unknown table {table!r}")
        if not self.typed(raw["slots"], f"{where}.slots", list):
            raise self.fail(f"{where}.slots", "a frame has at least one slot")
        slots = [
            self.slot(slot, f"{where}.slots[{i}]", draws) for i, slot in enumerate(raw["slots"])
        ]
        questions = self.typed(raw.get("questions", []), f"{where}.questions", list)
        questions = tuple(
            self.question(question, f"{where}.questions[{i}]", draws)
            for i, question in enumerate(questions)
        )
        used = {cell.draw for slot in slots for _, cells, _ in slot for cell in cells}
        if unused := draws.keys() - used:
            raise self.fail(f"{where}.draws", f"never used: {', '.join(sorted(unused))}")
        count = math.prod(map(len, slots))
        self.bound(where, count, sum(max(len(cells) for _, cells, _ in slot) for slot in slots))
        flat = []
        for variants in itertools.product(*slots):
            sides = [side for _, _, side in variants if side]
            if len(sides) > 1:
                raise self.fail(where, "two variants with a side can meet in one document")
            flat.append(
                Template(
                    name,
                    math.prod(prior for prior, _, _ in variants),
                    tuple(cell for _, cells, _ in variants for cell in cells),
                    dict(draws),
                    sides[0] if sides else None,
                    questions,
                )
            )
        return weight, flat

    def slot(self, raw: Any, where: str, draws: dict) -> list[tuple[float, list[Cell], str | None]]:
        if not isinstance(raw, list) or not raw:
            raise self.fail(where, "an empty slot: it needs at least one variant")
        found = []
        for number, variant in enumerate(raw):
            here = f"{where}[{number}]"
            variant = {"text": variant} if isinstance(variant, str) else variant
            self.section(variant, here, {"text"}, {"weight", "side"})
            side = variant.get("side")
            if side not in (None, *SIDES):
                raise self.fail(f"{here}.side", f"a side is one of {SIDES}, found {side!r:.99}")
            weight = self.weight(variant.get("weight", 1), f"{here}.weight")
            found.append((weight, list(self.cells(variant["text"], here, draws)), side))
        total = sum(weight for weight, _, _ in found)
        return [(weight / total, cells, side) for weight, cells, side in found]

    def question(self, raw: Any, where: str, draws: dict) -> Question:
        self.section(raw, where, {"ask", "answer"})
        wanted = "{" + self.typed(raw["answer"], f"{where}.answer", str) + "}"
        if not REFERENCE.fullmatch(wanted):
            raise self.fail(f"{where}.answer", f"expected draw.column, found {raw['answer']!r}")
        answer = list(self.cells(wanted, f"{where}.answer", draws))
        return Question(tuple(self.cells(raw["ask"], f"{where}.ask", draws)), answer[0])

    def cells(self, text: Any, where: str, draws: dict) -> Iterator[Cell]:
        """Cut a variant into cells, the way the tokenizer will cut the finished text."""
        if not isinstance(text, str) or not text.strip():
            raise self.fail(where, f"a text has at least one word, found {text!r:.99}")
        if text.split() != text.split(" "):
            raise self.fail(where, f"one space between words and none at the ends: {text!r:.200}")
        here, spaced = 0, f" {text}"
        for match in REFERENCE.finditer(spaced):
            draw, column = match.groups()
            if draw not in draws:
                raise self.fail(where, f"unknown draw {draw!r} in {match[0]}")
            if column not in self.tables[draws[draw]].columns:
                raise self.fail(
                    where, f"table {draws[draw]!r} has no column {column!r}: {match[0]}"
                )
            before, after = spaced[match.start() - 1], spaced[match.end() : match.end() + 1]
            if before != " " or after.isalnum() or after == "{":
                raise self.fail(where, f"{match[0]} must stand as a word of its own")
            yield from self.fixed(spaced[here : match.start() - 1], where)
            yield Cell(draw=draw, column=column)
            here = match.end()
        yield from self.fixed(spaced[here:], where)

    def fixed(self, text: str, where: str) -> Iterator[Cell]:
        if "{" in text or "}" in text:
            raise self.fail(where, f"a reference is written {{draw.column}}, found {text!r}")
        for unit in pretokens(text):
            yield Cell(word=unit)
