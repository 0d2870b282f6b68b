"""Several objectives over one set of weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from .base import Batch, Objective
from .rows import Rows


@dataclass(frozen=True)
class _Owned(Batch):
    """A batch that remembers which objective made it."""

    owner: int = 0


class Mixed(Objective):
    """Several objectives read the same documents at every step; their losses are added.

    Nothing tells the network which of them asks, unless an objective's inputs do (the direction
    tokens of `ForwardBackward`, the [MASK]s of `Denoising`). One that wants a canvas gets the
    padding as text, the others do not.
    """

    def __init__(self, *parts: Objective) -> None:
        if not parts:
            raise ValueError("Mixed needs at least one objective")
        if wrong := [part for part in parts if not isinstance(part, Objective)]:
            raise TypeError(f"Mixed takes objectives one by one, not {type(wrong[0]).__name__}")
        nested = [part.parts if isinstance(part, Mixed) else (part,) for part in parts]
        self.parts = tuple(chain.from_iterable(nested))

    @property
    def layout(self) -> str:
        canvas = any(part.layout == "canvas" for part in self.parts)
        return "padded" if canvas else "packed"  # a canvas holds one document

    @property
    def length(self) -> str:
        return "given" if any(part.length == "given" for part in self.parts) else "free"

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        return self._all("passes", rows, generator)

    def make(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        return self._all("make", rows, generator)

    def nll(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.parts[batch.owner].nll(logits, batch)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.parts[batch.owner].loss(logits, batch)

    def _all(self, method: str, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        found: list[Batch] = []
        for number, part in enumerate(self.parts):
            laid_out = rows.canvas if part.layout == "canvas" else rows
            for batch in getattr(part, method)(laid_out, generator):
                found.append(_Owned(**vars(batch), owner=number))
        return tuple(found)

    def __repr__(self) -> str:
        return f"Mixed({', '.join(map(repr, self.parts))})"
