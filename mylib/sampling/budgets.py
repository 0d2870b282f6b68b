"""How many holes of a canvas are filled in one pass, and which.

A budget is a number of words a row, or a callable that looks at a `Round` and says which holes are
filled: bool (B, T). Letters: B rows, T positions, N open holes (all rows together, row by row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..tokenizer import MASK
from .drawing import settled

if TYPE_CHECKING:
    from ..gazette import Gazette


@dataclass(frozen=True)
class Round:
    """One pass as a budget sees it: everything is drawn, nothing is written.

    ids     int (B, T)    the canvas that the model has read
    holes   bool (B, T)   the holes that may be filled now
    turn    int (B,)      how many passes this row has had in its block, this one included
    tokens  int (N,)      the word drawn for every hole
    logits  float (N, V)  the model's answers there
    forbid  tuple         tokens that are never written
    generator
    order   callable      this round -> scores (N,): the greatest come first
    """

    ids: Tensor
    holes: Tensor
    turn: Tensor
    tokens: Tensor
    logits: Tensor
    forbid: tuple[int, ...]
    generator: torch.Generator | None
    order: Callable[[Round], Tensor]

    @cached_property
    def rank(self) -> Tensor:
        """The place of every hole in the order of its row, 0 is first: int (B, T)."""
        score = self.spread(self.order(self).double(), -torch.inf)
        return score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)

    @cached_property
    def log_p(self) -> Tensor:
        """The model's own log p at every hole, float64 (N, V): temperature 1, nothing cut off."""
        return settled(self.logits, forbid=self.forbid)

    @cached_property
    def certainty(self) -> Tensor:
        """The probability of the likeliest word of every hole, float64 (B, T); 0 elsewhere."""
        return self.spread(self.log_p.amax(-1).exp(), 0.0)

    def sure(self, at: float) -> Tensor:
        """Holes whose likeliest word has probability ``at`` or more: bool (B, T)."""
        # Probabilities sum to 1 only to rounding: "certain" must not ask for the last digit.
        return self.holes & (self.certainty >= at - 1e-9)

    def spread(self, values: Tensor, elsewhere: float) -> Tensor:
        """Values of the holes (N,) in their places (B, T)."""
        found = torch.full(self.ids.shape, elsewhere, dtype=values.dtype, device=values.device)
        return found.masked_scatter(self.holes, values)

    def first(self, count: Tensor | int, among: Tensor | None = None) -> Tensor:
        """The first ``count`` holes of every row in the order, of those ``among``: bool (B, T)."""
        among = self.holes if among is None else among
        place = self.rank.masked_fill(~among, self.rank.shape[1]).argsort(1).argsort(1)
        return among & (place < torch.as_tensor(count, device=place.device).view(-1, 1))

    def random(self) -> Tensor:
        """Uniform numbers in [0, 1) for every hole, float64 (N,)."""
        # On the CPU, where the generator is: the same on every device.
        found = torch.rand(len(self.tokens), generator=self.generator, dtype=torch.float64)
        return found.to(self.ids.device)


Budget = int | Callable[[Round], Tensor]


@dataclass(frozen=True)
class Passes:
    """All holes in ``passes`` passes (of each block, if there are blocks), evenly."""

    passes: int

    def __post_init__(self) -> None:
        at_least_one("passes", self.passes)

    def __call__(self, round: Round) -> Tensor:
        left = (self.passes - round.turn + 1).clamp(min=1)
        return round.first((round.holes.sum(1) + left - 1) // left)


@dataclass(frozen=True)
class Ancestral:
    """Every hole by itself, with the probability that leaves none after ``passes`` passes.

    The reverse process of absorbing diffusion on an even grid of times: with m passes to go, this
    one included, a hole is filled with probability 1 / m. The order is not asked.
    Source: Sahoo et al., "Simple and Effective Masked Diffusion Language Models" (2024).
    """

    passes: int

    def __post_init__(self) -> None:
        at_least_one("passes", self.passes)

    def __call__(self, round: Round) -> Tensor:
        left = (self.passes - round.turn + 1).clamp(min=1)
        return round.holes & (round.spread(round.random(), 1.0) < 1 / left[:, None])


@dataclass(frozen=True)
class Certain:
    """All holes whose likeliest word has probability ``at`` or more, and ``more`` others.

    The others are the first of the order; where there would be none at all, the first one. With
    order "confidence" and ``more=0`` this is the threshold sampler; with order "uncertain" and
    ``more=1``, a question for the most uncertain word at every pass.
    Source: Wu et al., "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache
    and Parallel Decoding" (2025), for the threshold.
    """

    at: float = 0.9
    more: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.at <= 1:
            raise ValueError(f"a certainty lies above 0 and is at most 1, got {self.at}")
        if self.more < 0:
            raise ValueError(f"more is a number of words, 0 or more, got {self.more}")

    def __call__(self, round: Round) -> Tensor:
        sure = round.sure(self.at)
        least = (~sure.any(1)).long().clamp(min=self.more)
        return sure | round.first(least, among=round.holes & ~sure)


class EveryDraw:
    """All certain words, and one word of every independent draw: the grammar tells which.

    Words of different draws are independent once the template is known, so nothing is lost by
    drawing them together. For the oracle: a trained model does not know the draws.
    """

    def __init__(self, gazette: Gazette) -> None:
        self.gazette = gazette

    def __call__(self, round: Round) -> Tensor:
        sure = round.sure(1.0)
        open_ = round.holes & ~sure
        group = self.gazette.groups(round.ids, round.ids != MASK)
        index = group.clamp(min=0)
        beyond = round.rank.shape[1]
        rank = round.rank.masked_fill(~open_, beyond)
        best = torch.full_like(rank, beyond).scatter_reduce(1, index, rank, "amin")
        return sure | (open_ & (rank == best.gather(1, index)))


def at_least_one(name: str, value: int) -> None:
    """Raise `ValueError` for a number below 1."""
    if value < 1:
        raise ValueError(f"{name}: at least 1, got {value}")
