"""Chapter 07: leaks by depth, how far a stack of windows sees, two stories in one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..masks import (
    block_causal,
    causal_head,
    dense,
    documents,
    hops,
    prefix_lm,
    reach,
    sliding_window,
)
from . import check, expect

__all__ = ["FIVE_MASKS", "check_depths", "check_row", "check_windows", "leaks_by_depth"]

# Exercise 7.1: eight tokens, output i must name token i + 1; the last answer stands outside.
TOKENS, DEPTHS = 8, (1, 2, 3)
FIVE_MASKS = {
    "A": causal_head(6),
    "B": prefix_lm(4),
    "C": block_causal(2),
    "D": hops(-1, 0, 3),
    "E": sliding_window(3, 0),
}


def leaks_by_depth(name: str) -> tuple[int, ...]:
    """How many of the seven answers leak through 1, 2 and 3 layers."""
    visible = dense(FIVE_MASKS[name], TOKENS)[0, 0]
    return tuple(int(reach(visible, layers).diagonal(1).sum()) for layers in DEPTHS)


@check("7.1")
def check_depths(answer: dict[str, Sequence[int]]) -> None:
    """``answer``: for each of `FIVE_MASKS` the number of leaks in 1, 2 and 3 layers."""
    expect(
        isinstance(answer, dict) and set(answer) == set(FIVE_MASKS),
        "give three numbers for each mask: {'A': (one layer, two layers, three layers), ...}",
    )
    for name, counts in answer.items():
        line = f"{name}: three whole numbers, the leaks in 1, 2 and 3 layers (`int(...)` makes one "
        expect(isinstance(counts, list | tuple), line + "of a tensor)")
        if any(each is Ellipsis for each in counts):
            raise NotImplementedError
        expect(
            len(counts) == len(DEPTHS) and all(type(each) is int for each in counts),
            line + "of a tensor)",
        )
        expect(
            max(counts) < TOKENS,
            f"{name}: eight outputs, but only seven answers stand in the row: the last output's "
            "is outside, and nobody can show it",
        )
        expect(
            list(counts) == sorted(counts),
            f"{name}: more layers never close a way. Each word is carried straight up, so what is "
            "reached in two layers is reached in three",
        )
    wanted = {name: leaks_by_depth(name) for name in FIVE_MASKS}
    flat = [name for name in "AD" if tuple(answer[name]) == (wanted[name][0],) * 3]
    if flat:
        expect(
            False,
            f"{' and '.join(flat)}: one layer is not enough to check. The count of one layer is "
            "right, and the mask gets worse with depth: follow two steps, then three",
        )
    lines = {
        "A": "A: in one layer a leak needs an open entry one place right of the diagonal; in two, "
        "the first six may go by way of the tokens behind them",
        "B": "B: every word is asked here, and the given words see each other. What prefix_lm "
        "never shows are the words behind the prefix",
        "C": "C: the first of each pair sees the second, and no way leads into a later block",
        "D": "D: three on and twice one back, in any order that stays inside the row: how many "
        "layers is that, and for which outputs is there such an order?",
        "E": "E: no step leads to the right, in any number of layers",
    }
    for name, line in lines.items():
        expect(tuple(answer[name]) == wanted[name], line)


# -- 7.2 ---------------------------------------------------------------------------------------

STACKS = ([4], [4, 4], [4, 4, 4], [1, 1, 1], [2, 5], [5, 2], [3, 3, 3, 3], [7, 1, 2])


def seen_back(windows: Sequence[int]) -> int:
    """How many places before itself an output can see through layers of these windows."""
    time = 1 + sum(windows)
    seen = reach([dense(sliding_window(w - 1, 0), time)[0, 0] for w in windows])
    return time - 1 - int(seen[-1].nonzero()[0])


@check("7.2")
def check_windows(how_far: Callable[[Sequence[int]], int]) -> None:
    """``how_far(windows)``: W of each layer, itself counted -> places before itself, an int."""
    said = {tuple(stack): how_far(list(stack)) for stack in STACKS}
    expect(
        all(isinstance(each, int) for each in said.values()),
        "return a whole number: how many places back (`int(...)` makes one of a tensor)",
    )
    three = said[4, 4, 4]
    expect(
        three != 4 and three != 3,
        f"[4, 4, 4]: {three} is what one layer sees. Layer 2 looks at states that have looked back "
        "themselves, and layer 3 at those: the window moves on with each layer",
    )
    expect(
        three != 12,
        "[4, 4, 4]: 12 counts the token itself in every layer. A window of 4 is itself and three "
        "before it, so a layer adds three places",
    )
    expect(
        three != 10,
        "[4, 4, 4]: 10 counts the token itself once. Asked is how many places back it sees",
    )
    expect(
        said[1, 1, 1] == 0,
        "[1, 1, 1]: a window of 1 is the token itself; no number of layers leads anywhere",
    )
    expect(
        said[2, 5] == said[5, 2],
        "[2, 5] and [5, 2] see equally far: each layer adds its own step",
    )
    for stack, far in said.items():
        expect(far == seen_back(stack), f"{list(stack)}: reach says {seen_back(stack)}, you {far}")


# -- 7.3 ---------------------------------------------------------------------------------------

ROWS = (((5, 6), (2, 3)), ((4, 4), (1, 2)), ((7, 3), (4, 2)))


@check("7.3")
def check_row(row: Callable[[Sequence[int], Sequence[int]], tuple[Tensor, Tensor]]) -> None:
    """``row(lengths, given)`` -> who may look bool (T, T), positions int (T,)."""
    for lengths, given in ROWS:
        total, first = sum(lengths), lengths[0]
        found = row(lengths, given)
        expect(
            isinstance(found, tuple) and len(found) == 2,
            "return two things: who may look, and the positions",
        )
        visible, positions = found
        expect(
            isinstance(visible, Tensor)
            and visible.dtype == torch.bool
            and visible.shape == (total, total),
            f"for stories of {lengths} tokens: a bool tensor ({total}, {total}), True = may look",
        )
        _check_mask(visible, lengths, given)
        positions = torch.as_tensor(positions)
        expect(
            not positions.is_floating_point(),
            "positions are whole numbers: they choose rows of an embedding",
        )
        expect(
            positions.tolist() != list(range(total)),
            "positions run on through the row: the second story would begin in the middle. They "
            "are re-based, 0 at the first token of each story",
        )
        expect(
            positions.tolist() == [*range(first), *range(lengths[1])],
            "positions are 0, 1, 2, ... in each story",
        )


def _check_mask(visible: Tensor, lengths: Sequence[int], given: Sequence[int]) -> None:
    ids = torch.tensor([[0] * lengths[0] + [1] * lengths[1]])
    both, cut = dense(documents(ids), ids.shape[1])[0, 0], lengths[0]
    if (visible & ~both).any():
        expect(
            not bool((visible | ~both)[both].all()),
            "a story sees the other one, and all of itself: `|` lets through what either mask "
            "allows. Both have to allow it: `&`",
        )
        q, k = (visible & ~both).nonzero()[0].tolist()
        expect(False, f"token {q} may look at token {k}, which stands in another story")
    marks = []
    for number, here in enumerate((slice(0, cut), slice(cut, None))):
        inside, n = visible[here, here], given[number]
        wanted = dense(prefix_lm(n), lengths[number])[0, 0]
        wrong = (inside != wanted).nonzero().tolist()
        marks.append(wrong[0] if wrong else None)
    whole = dense(documents(ids) & prefix_lm(given[0]), ids.shape[1])[0, 0]
    expect(
        marks[1] is None or not torch.equal(visible, whole),
        "the prefix counts from the beginning of the row: only the first story's given words see "
        "each other, the second is causal throughout. The prefix is each story's own",
    )
    for number, wrong in enumerate(marks):
        if wrong is not None:
            q, k = (place + number * cut for place in wrong)
            may = "looks at" if visible[q, k] else "does not look at"
            expect(
                False,
                f"story {number + 1} of {lengths[number]} tokens, {given[number]} of them given: "
                "the given ones see each other and nothing behind them, the rest sees itself and "
                f"what is before it; yours: token {q} of the row {may} token {k}",
            )
