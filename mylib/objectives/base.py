"""What every objective is: clean rows in, batches out, a loss on what comes back.

A `Batch` says not only what goes in and what must come out, but also where each answer stands in
the clean row (``source``), which clean word each input shows (``shown``), and which answers are
shown on purpose (``copied``). From these the leak check (`mylib.leaks.certificate`) decides,
before any training, whether an answer can reach its own question.

Shapes: B rows, T positions, N asked outputs (all rows together, row by row).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import Mask, documents, padding
from .rows import Rows


@dataclass(frozen=True)
class Batch:
    """One forward pass: what the network is given, and what it is asked.

    inputs      int (B, T)    token ids that go in
    mask        Mask          who may look at whom
    positions   int (B, T)
    asked       bool (B, T)   outputs that must answer; N of them are `True`
    targets     int (N,)      the answers, row by row
    weights     float (N,)    of the answers' losses
    denominator float         what the summed loss is divided by, over the whole global batch
    source      int (N,)      the clean position each answer stands at (-1: no clean word)
    shown       int (B, T)    the clean position whose word each input shows (-1: none)
    copied      bool (N,)     answers that are shown on purpose
    """

    inputs: Tensor
    mask: Mask
    positions: Tensor
    asked: Tensor
    targets: Tensor
    weights: Tensor
    denominator: float
    source: Tensor
    shown: Tensor
    copied: Tensor

    def __post_init__(self) -> None:
        count = int(self.asked.sum())
        sizes = {len(t) for t in (self.targets, self.weights, self.source, self.copied)}
        if sizes != {count}:
            raise ValueError(f"{count} outputs are asked, but there are {sizes} answers")
        if count == 0:
            raise ValueError("nothing is asked in this batch: there would be no loss")

    def take(self, rows: slice) -> Batch | None:
        """The part of the batch in these rows, with the denominator of the whole; None if nothing
        is asked there."""
        owner = self.asked.nonzero()[:, 0]
        inside = torch.zeros(len(self.inputs), dtype=torch.bool)
        inside[rows] = True
        kept = inside[owner]
        if not kept.any():
            return None
        return replace(
            self,
            mask=self.mask.take(rows),
            **{n: getattr(self, n)[rows] for n in ("inputs", "positions", "asked", "shown")},
            **{n: getattr(self, n)[kept] for n in ("targets", "weights", "source", "copied")},
        )

    def to(self, device: torch.device | str) -> Batch:
        moved = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, mask=self.mask.to(device), **moved)


class Objective:
    """The interface. A new objective is one class with `passes`.

    ``length`` says who knows the length of the document: "free" (nobody: the floor is the entropy)
    or "given" (the network: the floor is the entropy less H(length)).
    """

    length: Literal["free", "given"] = "free"
    layout: Literal["packed", "padded", "canvas"] = "packed"

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        """Every forward pass this objective can make; all of them are certified."""
        raise NotImplementedError

    def rows(self, documents: list[Tensor], length: int) -> Rows:
        """Documents in the layout this objective is trained on, in rows of ``length``."""
        if self.layout == "packed":
            return Rows.packed(documents, length)
        return self.alone(documents, length)

    def alone(self, documents: list[Tensor], length: int | None = None) -> Rows:
        """One document a row, as objectives are evaluated, padded to ``length``.

        Raises `ValueError` where an objective needs a canvas and no ``length`` says how large.
        """
        if self.layout != "packed" and length is None:
            raise ValueError(f"{self} works on a canvas: say how many tokens it has (row=)")
        padded = Rows.padded(documents, length)
        return padded.canvas if self.layout == "canvas" else padded

    def make(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        """The passes of one training step; their losses are added."""
        return self.passes(rows, generator)

    def nll(self, logits: Tensor, batch: Batch) -> Tensor:
        """-log p of every answer, nats (N,). ``logits``: (N, V), or (B, T, V) of all outputs."""
        if logits.dim() == 3:
            logits = logits[batch.asked]
        return F.cross_entropy(in_full(logits), batch.targets, reduction="none")

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The weighted **sum** of -log p over the asked outputs, nats; divide by a denominator."""
        return (self.nll(logits, batch) * batch.weights).sum()

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def in_full(logits: Tensor) -> Tensor:
    """Logits as their losses are computed: float64 as it is, anything coarser in float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def within(mask: Mask, rows: Rows) -> Mask:
    """``mask`` within each document of the rows: other documents and padding are seen by nobody."""
    if rows.is_packed:
        return mask & documents(rows.document)
    return mask if rows.valid.all() else mask & padding(rows.valid)


def ask(rows: Rows, asked: Tensor, source: Tensor) -> dict:
    """Targets, weights and sources of asked outputs whose answers are clean words, none copied."""
    owner = asked.nonzero()[:, 0]
    source = source[asked]
    return dict(
        targets=rows.tokens[owner, source],
        weights=torch.ones(len(source)),
        denominator=float(len(source)),
        source=source,
        copied=torch.zeros(len(source), dtype=torch.bool),
    )
