"""How often an answer can be pointed at by a reader who looks only to the left: exact ceilings.

A pointer gives a score to each span of a text, and to "no answer", and names the greatest. A
causal reader's score of a span is a function of the text up to the span's last token: it may
change its mind in favour of a later span, and never in favour of an earlier one. So the best that
such a reader can do follows by going through the texts that begin alike, token by token. "No
answer" is said at the last token, where everything has been read.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

from .gazette import Gazette
from .grammar import Cell, Grammar, Template
from .objectives import Asking
from .questions import SHARES, Pair, pairs
from .templates import Templates


class Text(NamedTuple):
    """A text (question included) with its answer, first and last token, and its probability."""

    tokens: tuple[Hashable, ...]
    answer: tuple[int, int] | None
    weight: float


def best_pointer(texts: Sequence[Text]) -> float:
    """The greatest expected share of right answers that scores to the left can reach.

    Exact where answers are single tokens; with longer ones it is an upper bound, since the scores
    of start and end are then given at different places.

    >>> early = Text(("first", "ache", "bell"), (1, 1), 0.5)
    >>> late = Text(("second", "ache", "bell"), (2, 2), 0.5)
    >>> best_pointer([early, late])
    1.0
    >>> early, late = (t._replace(tokens=(*t.tokens[1:], t.tokens[0])) for t in (early, late))
    >>> best_pointer([early._replace(answer=(0, 0)), late._replace(answer=(1, 1))])
    0.5
    """
    # A share: weights that sum to 1 may sum to a last digit more (Python 3.12 sums otherwise).
    return min(_best(list(texts), 0, None), 1.0)


def _best(alike: list[Text], place: int, named: tuple[int, int] | None) -> float:
    """Texts that are alike up to ``place``, and the span with the greatest score so far."""
    if len({text.answer for text in alike}) == 1:
        # One answer, or none: reached if it is named already, can still be, or is none.
        answer = alike[0].answer
        if answer is None or answer == named or answer[1] >= place:
            return sum(text.weight for text in alike)
    total, split = 0.0, defaultdict(list)
    for text in alike:
        split[text.tokens[place : place + 1]].append(text)
    for token, some in split.items():
        if not token:  # the end: a span was named, or none is given
            score: dict[object, float] = defaultdict(float)
            for text in some:
                score[text.answer] += text.weight
            total += max(score.get(named, 0.0), score.get(None, 0.0))
            continue
        ending = {text.answer for text in some if text.answer and text.answer[1] == place}
        total += max(_best(some, place + 1, span) for span in (named, *ending))
    return total


def causal_ceiling(askings: Sequence[Asking]) -> float:
    """The share of these questions that a causal reader can answer at most; each counts alike.

    It may know all of them beforehand: what it cannot do is to look right. Raises `ValueError`
    for no questions.
    """
    if not askings:
        raise ValueError("no questions")
    return best_pointer(
        [Text(tuple(each.ids.tolist()), each.answer, 1 / len(askings)) for each in askings]
    )


def letters_ceiling(
    gazette: Gazette,
    right: float = 0.5,
    none: float = 0.2,
    question: Literal["first", "last", "none"] = "first",
) -> float:
    """The share of `Gazette.questions` that a causal reader answers at most, from the grammar.

    ``right`` and ``none`` as in `Gazette.questions`, ``question`` as in `tasks.asking`. Words that
    are drawn say nothing about each other here, so they are taken as one word a column; raises
    `ValueError` for a grammar in which that is not so.
    """
    grammar, texts = gazette.grammar, []
    shares = ((1 - none) * (1 - right), (1 - none) * right, none)
    found = pairs(Templates(grammar))
    for share, name in zip(shares, SHARES, strict=True):
        total = sum(grammar.templates[pair.template].prior for pair in found[name])
        for pair in found[name] if share > 0 else ():
            text = _text(grammar, pair, question)
            prior = grammar.templates[pair.template].prior
            texts.append(text._replace(weight=share * prior / total))
    for one, other in itertools.combinations(texts, 2):
        _check_apart(one, other, grammar)
    return best_pointer(texts)


def _text(grammar: Grammar, pair: Pair, question: str) -> Text:
    template = grammar.templates[pair.template]
    drawn = [cell.draw for cell in template.cells if cell.draw]
    if len(drawn) != len(set(drawn)) or any(word < 0 for word in pair.words):
        raise ValueError(f"frame {template.frame!r}: a drawn word stands in two places")
    words = tuple(_seen(cell, template) for cell in template.cells)
    before = pair.words if question == "first" else ()
    after = pair.words if question == "last" else ()
    answer = None if pair.answer is None else (len(before) + pair.answer - 1,) * 2
    return Text((*before, *words, *after), answer, 0.0)


def _seen(cell: Cell, template: Template) -> Hashable:
    """A fixed word as itself, a drawn one as its table and column."""
    return (template.draws[cell.draw], cell.column) if cell.draw else cell.word


def _check_apart(one: Text, other: Text, grammar: Grammar) -> None:
    """Where two texts part, no word may fit both."""
    for left, right in zip(one.tokens, other.tokens, strict=False):
        if left != right:
            if shared := _words(left, grammar) & _words(right, grammar):
                raise ValueError(f"{left} and {right} share words, {sorted(shared)[0]!r} for one")
            return


def _words(token: Hashable, grammar: Grammar) -> set:
    if not isinstance(token, tuple):
        return {token}
    table = grammar.tables[token[0]]
    column = table.columns.index(token[1])
    return {" " + row[column] for row in table.rows}
