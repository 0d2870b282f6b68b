"""When to give no answer, and contexts that are longer than the model's window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..objectives import Asking
from .reading import Span


def choose_threshold(margins: Tensor, answered: Tensor, silent: Tensor) -> float:
    """The margin above which answering pays, chosen on development data.

    ``margins`` (N,): those of the best spans, nats; ``answered`` (N,): what each text scores if the
    span is given, ``silent`` (N,) if none is. An answer is given where margin > threshold; the
    threshold is the middle of the best gap between two margins (-inf: always answer, inf: never).
    Choose it on texts that are neither trained on nor judged on. Of equally good thresholds the
    lowest is given. Raises `ValueError` for sizes that differ, no text, and NaN or inf.

    Source: the best-threshold search of SQuAD 2.0 (Rajpurkar, Jia and Liang, "Know What You Don't
    Know: Unanswerable Questions for SQuAD", 2018).

    >>> margins = torch.tensor([-2.0, 1.0, 3.0])
    >>> choose_threshold(margins, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    -0.5
    """
    if not margins.shape == answered.shape == silent.shape or margins.dim() != 1:
        raise ValueError(
            f"margins and scores are (N,) alike, got {tuple(margins.shape)}, "
            f"{tuple(answered.shape)} and {tuple(silent.shape)}"
        )
    if len(margins) == 0:
        raise ValueError("a threshold is chosen on development data; there is none")
    if not all(t.isfinite().all() for t in (margins, answered, silent)):
        raise ValueError("margins and scores are finite numbers, found NaN or inf")
    order = margins.argsort()
    margins, answered, silent = margins[order], answered.double()[order], silent.double()[order]
    zero = torch.zeros(1, dtype=torch.float64)
    # Score if the first n are silent and the others answered, n = 0 ... N.
    rest = answered.flip(0).cumsum(0).flip(0)
    score = torch.cat([zero, silent.cumsum(0)]) + torch.cat([rest, zero])
    edge = torch.full((1,), torch.inf, dtype=torch.float64)
    below, above = margins[:-1], margins[1:]
    middle = below / 2 + above / 2
    middle = middle.where(middle < above, below)  # neighbours with no number between them
    between = torch.cat([-edge, middle.double(), edge])
    # Equal margins cannot be told apart.
    same = torch.cat([zero, (above == below).double(), zero]).bool()
    return float(between[score.masked_fill(same, -torch.inf).argmax()])


def windows(
    before: Sequence[int],
    context: Tensor,
    after: Sequence[int],
    size: int,
    stride: int,
    answer: tuple[int, int] | None = None,
) -> list[tuple[Asking, int]]:
    """A long context in windows of at most ``size`` tokens, each with the same surroundings.

    A window is ``before`` (such as <bos> question <bos>), part of the ``context`` (N,), ``after``
    (such as <eos>, whose last token is the null). ``stride``: how many tokens further the next one
    begins; what overlaps is the rest. ``answer``: first and last token in the context; a window
    that does not hold all of it has no answer. Returns the windows and, for each, what is to be
    added to a token of the window to get one of the context.

    Raises `ValueError` for an empty context, a size with no room for one token of it, a stride
    that leaves tokens out, no token after it, and an answer outside the context.
    """
    room = size - len(before) - len(after)
    if len(context) == 0:
        raise ValueError("an empty context")
    if not after:
        raise ValueError("the last token of `after` stands for no answer: give at least one")
    if room < 1:
        raise ValueError(
            f"windows of {size} tokens have no room for the context: {len(before)} before it and "
            f"{len(after)} after it"
        )
    if not 1 <= stride <= room:
        raise ValueError(f"a stride lies between 1 and the {room} tokens of a window, got {stride}")
    if answer is not None and not 0 <= answer[0] <= answer[1] < len(context):
        raise ValueError(f"the answer {answer} lies outside a context of {len(context)} tokens")
    found, start = [], 0
    while True:
        part = context[start : start + room]
        shift = len(before) - start
        ids = torch.cat([torch.tensor([*before]).long(), part, torch.tensor([*after]).long()])
        candidates = torch.zeros(len(ids), dtype=torch.bool)
        candidates[len(before) : len(before) + len(part)] = True
        here = None
        if answer is not None and start <= answer[0] and answer[1] < start + len(part):
            here = (answer[0] + shift, answer[1] + shift)
        found.append((Asking(ids, candidates, len(ids) - 1, here), -shift))
        if start + room >= len(context):
            return found
        start += stride


def best_of_windows(spans: Sequence[Span], offsets: Sequence[int]) -> Span:
    """The span of the window with the greatest margin, in tokens of the context.

    Windows are compared by their margins: each window has its own softmax, so a raw score or
    probability of one says nothing next to that of another.
    """
    if len(spans) != len(offsets) or not spans:
        raise ValueError(f"{len(spans)} spans for {len(offsets)} windows")
    best, offset = max(zip(spans, offsets, strict=True), key=lambda pair: pair[0].margin)
    return Span(best.first + offset, best.last + offset, best.margin)
