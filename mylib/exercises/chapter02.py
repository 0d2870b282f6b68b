"""Chapter 02: the plateau of a leaky loss, how deep a leak lies, and the line-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..leaks import prefix_invariance
from ..masks import Rule, bidirectional, causal, dense, hops, reach, sliding_window
from ..probes import influence
from . import check, expect
from .line_up import Suspect, documents_of_one_length, line_up, price

__all__ = [
    "FIVE_MASKS",
    "Suspect",
    "check_layers",
    "check_line_up",
    "check_plateau",
    "documents_of_one_length",
    "first_leak",
    "line_up",
    "price",
    "solve",
]

LAST = 1.6  # nats that the last word of a window costs in exercise 2.1

# Exercise 2.2. Output i names word i + 1; under E it names word i, which is in the input.
FIVE_MASKS = {
    "A": causal,
    "B": sliding_window(1, 1),
    "C": ~hops(1),
    "D": hops(-1, 0, 3),
    "E": ~hops(0),
}
SHIFT = {"A": 1, "B": 1, "C": 1, "D": 1, "E": 0}
DEEPEST = 6


def first_leak(mask: Rule, shift: int = 1, time: int = 12) -> int | None:
    """Fewest layers in which the word ``shift`` places on reaches an output; None for never."""
    visible = dense(mask, time)[0, 0]
    for layers in range(1, DEEPEST + 1):
        if reach(visible, layers).diagonal(shift).any():
            return layers
    return None


@check("2.1")
def check_plateau(answer: dict[int, float]) -> None:
    """``answer``: {8: nats, 16: nats, 32: nats}, the mean leaky loss in windows of that size."""
    expect(
        isinstance(answer, dict) and set(answer) == {8, 16, 32},
        "give one number for each length: {8: ..., 16: ..., 32: ...}",
    )
    if any(value is None or value is Ellipsis for value in answer.values()):
        raise NotImplementedError
    expect(
        all(isinstance(value, int | float) for value in answer.values()),
        "a loss is a number, in nats",
    )
    expect(
        any(value > 0 for value in answer.values()),
        "it does not go to zero: the last output of a window must name a word that stands outside "
        "it, and nobody can show it that",
    )
    expect(
        not all(abs(value - LAST) < 0.05 for value in answer.values()),
        "that is what the last word costs. All the others are shown, and cost nothing; the loss is "
        "the mean over the window",
    )
    expect(
        not all(abs(v - LAST * (n - 1) / n) < 0.05 for n, v in answer.items()),
        "you let the shown words pay and gave the last one away: it is the other way round",
    )
    expect(
        len({round(value, 3) for value in answer.values()}) == 3,
        "one word in a window still costs something: its share falls as the window grows",
    )
    for length, value in answer.items():
        expect(
            abs(value - LAST / length) < 0.06 * LAST / length,
            f"for windows of {length}: one word of {length} costs {LAST} nats, the others nothing; "
            "what is the mean?",
        )


@check("2.2")
def check_layers(answer: dict[str, int | None]) -> None:
    """``answer``: for each mask of `FIVE_MASKS` the fewest layers that leak, None for never."""
    expect(
        isinstance(answer, dict) and set(answer) == set(FIVE_MASKS),
        "give one answer for each mask: a number of layers, or None if it never leaks",
    )
    if any(value is Ellipsis for value in answer.values()):
        raise NotImplementedError
    numbers = [value for value in answer.values() if value is not None]
    expect(
        all(isinstance(value, int) and value > 0 for value in numbers),
        "an answer is a number of layers, from 1 on, or None (without quotes)",
    )
    expect(
        answer["C"] is not None,
        "C: no direct edge is not yet safe. Who may look at the next word, and who at them?",
    )
    expect(
        answer["D"] is not None,
        "D: one step back and three on can be joined: how do you get one place on?",
    )
    expect(
        answer["E"] == 1,
        "E: a closed diagonal does not make it blind to itself: the residual stream carries every "
        "word straight up, past the attention",
    )
    lines = {
        "A": "A: every step under the causal mask goes back or stays: no number of them goes on",
        "B": "B: the window opens one place to the right, and there the answer stands",
        "C": "C: two hops are needed, the first over the answer, the second back to it",
        "D": "D: count the hops to get one place on with steps of 0, -1 and +3",
    }
    for name, line in lines.items():
        expect(answer[name] == first_leak(FIVE_MASKS[name], SHIFT[name]), line)


CLEAN, LENGTH = "clean", "length"


def solve(suspect: Suspect, ids: Tensor) -> str | tuple[int, int]:
    """The verdict that the tools alone give: "clean", "length", or the first wrong pair."""
    next_word = suspect.task == "next word"
    # A hidden word is in no input, so that every input may be seen.
    allowed = dense(causal if next_word else bidirectional, len(ids))[0, 0]
    wrong = influence(suspect, ids) & ~allowed
    if wrong.any():
        return tuple(wrong.nonzero()[0].tolist())
    if next_word and prefix_invariance(suspect, ids).any():
        return LENGTH
    return CLEAN


@check("2.3")
def check_line_up(
    answer: dict[str, str | Sequence[int]], suspects: Sequence[Suspect] | None = None
) -> None:
    """``answer``: for each suspect "clean", "length", or the first wrong pair (output, input)."""
    suspects = line_up() if suspects is None else suspects
    names = {suspect.name for suspect in suspects}
    expect(
        isinstance(answer, dict) and set(answer) == names,
        f"give a verdict on each of {', '.join(sorted(names))}",
    )
    if any(verdict is None or verdict is Ellipsis for verdict in answer.values()):
        raise NotImplementedError
    for name, verdict in answer.items():
        pair = isinstance(verdict, tuple | list) and len(verdict) == 2
        expect(
            pair or verdict in (CLEAN, LENGTH),
            f'{name}: a verdict is "clean", "length" or a pair (output, input), not {verdict!r}',
        )
    truth = {s.name: solve(s, torch.arange(100, 120)) for s in suspects}
    by_name = {suspect.name: suspect for suspect in suspects}
    for name, verdict in answer.items():
        right = truth[name]
        verdict = tuple(verdict) if isinstance(verdict, tuple | list) else verdict
        if verdict == right:
            continue
        hidden = by_name[name].task == "hidden word"
        expect(
            not hidden,
            f"{name}: open influence is no leak. It names the word under [MASK], and that word is "
            "in no input: it may look wherever it likes",
        )
        expect(
            right != CLEAN,
            f"{name}: nothing ahead of an output moves it, at any length of text, and to see less "
            "than allowed is no crime. Its loss is no evidence: what do the tools say?",
        )
        expect(
            right != LENGTH,
            f"{name}: no single word moves what it must not move, and yet it is not clean: cut the "
            "text short, and earlier outputs change. Which tool sees that?",
        )
        expect(
            verdict != CLEAN,
            f"{name}: not clean, whatever its loss is: measure its influence on a text of at least "
            "twelve different words",
        )
        expect(
            verdict != right[::-1],
            f"{name}: rows and columns swapped: influence[i, j] says that input j moves output i, "
            "and a pair is (output, input)",
        )
        expect(False, f"{name}: another pair comes first: read the matrix row by row")
