"""Chapter 00: the price of a story, a doubled table, a mask by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor

from ..gazette import Gazette
from ..masks import dense, sliding_window
from . import NotSolved, check, expect


@check("0.2")
def check_prices(answer: Sequence[float], gazette: Gazette, story: Tensor) -> None:
    """``answer``: nats for every word of ``story`` after <bos>, <eos> among them."""
    words = len(story) - 1
    if any(value is Ellipsis or value is None for value in answer):
        raise NotImplementedError
    expect(len(answer) == words, f"{words} words are to be priced, found {len(answer)} prices")
    try:
        found = torch.tensor([float(value) for value in answer], dtype=torch.float64)
    except (TypeError, ValueError):
        raise NotSolved("a price is a number, in nats") from None
    true = gazette.surprise(story[None])[0, 1:]
    expect(bool((found >= 0).all()), "a surprise is -log p, never below 0")
    expect(
        not bool((found > 0.01).all()),
        "not every word costs something: which of them follow from what stands before them?",
    )
    expect(
        not torch.allclose(found, true / math.log(2), atol=0.01),
        "these are bits: nats use the natural logarithm, ln",
    )
    free = true < 1e-9
    paid = (found > 0.01) & free
    if paid.any():
        place = int(paid.nonzero()[0])
        line = "the row was drawn, and paid for, when its first word was printed"
        expect(False, f"word {place + 1} costs nothing. An agreeing word is free: {line}")
    total = float(true.sum())
    expect(
        not math.isclose(float(found.sum()), total, abs_tol=0.02)
        or torch.allclose(found, true, atol=0.03),
        "the total is right, but a choice is paid at the first word that tells it, not before",
    )
    wrong = ((found - true).abs() > 0.03).nonzero()
    if len(wrong):
        place = int(wrong[0])
        kind = "the first word tells the kind of the story as well: its probability is that of the "
        kind += "kind times that of the row"
        rows = "among how many equally likely rows is this word chosen? The price is ln(number)"
        expect(False, f"word {place + 1}: {kind if place == 0 else rows}")


@check("0.3")
def check_doubling(answer: float, before: Gazette, after: Gazette) -> None:
    """``answer``: the entropy that ``after`` will have, nats per document."""
    if answer is Ellipsis or answer is None:
        raise NotImplementedError
    expect(isinstance(answer, Real), "an entropy is a number, in nats per document")
    h, truth = before.entropy, after.entropy
    near = [
        math.isclose(float(answer), value, abs_tol=0.01) for value in (2 * h, h + math.log(2), h)
    ]
    expect(not near[0], "it does not double: twice as many rows add ln 2 to one draw, no more")
    expect(
        not near[1] or math.isclose(truth, h + math.log(2), abs_tol=0.01),
        "ln 2 for each draw from the table, but is there one in every story? Weigh it by how often",
    )
    expect(not near[2], "more rows, more to be surprised by: it cannot stay the same")
    expect(
        not math.isclose(float(answer), truth - h, abs_tol=0.01),
        f"that is the increase: add it to the {h:.4f} nats of before",
    )
    expect(
        not math.isclose(float(answer) - h, (truth - h) / math.log(2), abs_tol=0.01),
        "you added bits to nats: one doubling is ln 2 = 0.69 nats",
    )
    expect(
        math.isclose(float(answer), truth, abs_tol=0.01),
        "one draw from twice as many equally likely rows costs ln 2 more. How often is it drawn?",
    )


@check("0.1")
def check_mask(write: Callable) -> None:
    """``write()`` -> bool (5, 5): each word sees itself and the two before it."""
    answer = write()
    kind = type(answer).__name__
    expect(isinstance(answer, Tensor), f"give a torch tensor (5, 5), not a {kind}")
    expect(answer.shape == (5, 5), f"give a tensor (5, 5), not {tuple(answer.shape)}")
    expect(
        answer.dtype == torch.bool,
        f"a mask is boolean, True = may look; this one is {answer.dtype}",
    )
    right = dense(sliding_window(2, 0), 5)[0, 0]
    lines = [
        (right.T, "rows and columns are swapped: rows are queries (who looks), columns are keys"),
        (~right, "True was read as hidden: in this course True means may look"),
        (~right.T, "swapped and inverted: rows are queries, and True means may look"),
        (
            dense(sliding_window(1, 0), 5)[0, 0],
            "one before, not two: count without the word itself",
        ),
        (dense(sliding_window(3, 0), 5)[0, 0], "three before, not two"),
        (dense(sliding_window(2, 2), 5)[0, 0], "this looks both ways: nothing after itself"),
        (
            right & ~torch.eye(5, dtype=torch.bool),
            "each word sees itself, too: the diagonal is True",
        ),
    ]
    for wrong, line in lines:
        expect(not torch.equal(answer, wrong), line)
    places = (answer != right).nonzero()
    if len(places):
        q, k = places[0].tolist()
        verb = "may not look" if answer[q, k] else "may look"
        expect(False, f"counted from 0, word {q} {verb} at word {k}; your mask says otherwise")
