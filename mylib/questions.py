"""Questions about documents of the Gazette, each with its answer span or none.

A frame of the grammar may hold questions; their placeholders and their answer refer to its draws.
A variant with a ``side`` says where the words stand that decide the answer: left or right of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .grammar import Cell, Question, Template
from .templates import Templates

SHARES = ("left", "right", "none")


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, its document, and where the answer stands.

    ``question`` int (Q,), no special tokens; ``document`` int (T,), ``<bos> ... <eos>``;
    ``answer`` first and last index in the document, None if it holds no answer; ``side`` "left"
    or "right", where the deciding words stand, None without an answer.
    """

    question: Tensor
    document: Tensor
    answer: tuple[int, int] | None
    side: str | None


class Pair(NamedTuple):
    """A flat template with one of its questions.

    ``words`` of the question: ids where they are fixed, else -position of the same cell in the
    document (<bos> is position 0). ``answer`` is a position, None if the template has none.
    """

    template: int
    words: tuple[int, ...]
    answer: int | None
    side: str | None


def questions(
    templates: Templates, n: int, generator: torch.Generator, right: float, none: float
) -> list[Asked]:
    """``n`` draws of a question with its document; see `Gazette.questions`.

    Shares: ``none`` without an answer, (1 - none) * right with the evidence to its right,
    (1 - none) * (1 - right) to its left. Within a share, templates come by their prior. A question
    that names what the document does not is never asked of it. Raises `ValueError` for shares
    outside [0, 1], and for a positive share of what the grammar does not have.
    """
    if not (0 <= right <= 1 and 0 <= none <= 1):
        raise ValueError(f"shares lie in [0, 1], got right={right} and none={none}")
    shares = torch.tensor([(1 - none) * (1 - right), (1 - none) * right, none])
    found = pairs(templates)
    for share, name in zip(shares.tolist(), SHARES, strict=True):
        if share > 0 and not found[name]:
            edition = templates.grammar.edition
            raise ValueError(f"edition {edition} has no question with evidence {name!r}")
    if n == 0:
        return []
    kinds = torch.multinomial(shares, n, replacement=True, generator=generator).tolist()
    chosen = [_pick(templates, found[SHARES[kind]], generator) for kind in kinds]
    rows = templates.draw_rows(n, generator)
    ids = templates.write(torch.tensor([pair.template for pair in chosen]), rows)
    ends = [int(templates.lengths[pair.template]) + 2 for pair in chosen]
    return [_asked(pair, row[:end]) for pair, row, end in zip(chosen, ids, ends, strict=True)]


def pairs(templates: Templates) -> dict[str, list[Pair]]:
    """Every question that can be asked of every flat template, by the side of the evidence."""
    found: dict[str, list[Pair]] = {name: [] for name in SHARES}
    for k, template in enumerate(templates.grammar.templates):
        for question in template.questions:
            pair = _pair(templates, k, template, question)
            if pair is not None and (pair.answer is None or pair.side):
                found["none" if pair.answer is None else pair.side].append(pair)
    return found


def _pair(templates: Templates, k: int, template: Template, question: Question) -> Pair | None:
    # A cell that stands in a document more than once is taken where it stands first.
    place = {cell: i for i, cell in reversed([*enumerate(template.cells, start=1)]) if cell.draw}
    if any(cell.draw and cell not in place for cell in question.ask):
        return None

    def word(cell: Cell) -> int:
        return -place[cell] if cell.draw else templates.word_id(cell.word)

    words = tuple(word(cell) for cell in question.ask)
    answer = place.get(question.answer)
    return Pair(k, words, answer, template.side if answer is not None else None)


def _pick(templates: Templates, among: list[Pair], generator: torch.Generator) -> Pair:
    weights = templates.prior[[pair.template for pair in among]]
    return among[int(torch.multinomial(weights, 1, generator=generator))]


def _asked(pair: Pair, document: Tensor) -> Asked:
    words = [word if word > 0 else int(document[-word]) for word in pair.words]
    answer = None if pair.answer is None else (pair.answer, pair.answer)
    return Asked(torch.tensor(words), document, answer, pair.side)
