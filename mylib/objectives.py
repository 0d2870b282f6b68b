"""Objectives: what is hidden, what is asked, at which positions.

An objective turns clean rows into batches. A `Batch` says not only what goes in and what must come
out, but also where each answer stands in the clean row (``source``), which clean word each input
shows (``shown``), and which answers are shown on purpose (``copied``). From these the leak check
(`mylib.leaks.certificate`) decides, before any training, whether an answer can reach its own
question.

Shapes: B rows, T positions, N asked outputs (all rows together, row by row).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import Mask, anticausal, causal, documents
from .tokenizer import PAD


@dataclass(frozen=True)
class Rows:
    """Clean text, laid out padded or packed; three int tensors (B, T).

    ``tokens``; ``document``: the number of the document within its row, -1 = pad; ``position``:
    the token's place in its document.
    """

    tokens: Tensor
    document: Tensor
    position: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in (self.tokens, self.document, self.position)}
        if len(shapes) > 1 or self.tokens.dim() != 2:
            raise ValueError(f"tokens, document and position are (B, T) alike, got {shapes}")

    @classmethod
    def padded(cls, texts: list[Tensor], length: int | None = None) -> Rows:
        """One document a row, padded on the right to ``length`` (by default the longest).

        >>> Rows.padded([torch.tensor([7, 8, 9]), torch.tensor([6])]).document.tolist()
        [[0, 0, 0], [0, -1, -1]]
        """
        _no_empty(texts)
        length = max(map(len, texts)) if length is None else length
        return cls._of([[text] for text in texts], length)

    @classmethod
    def packed(cls, texts: list[Tensor], length: int) -> Rows:
        """Several documents a row, none of them cut: first fit, longest first.

        >>> Rows.packed([torch.tensor([6]), torch.tensor([7, 8, 9])], length=5).tokens.tolist()
        [[7, 8, 9, 6, 0]]
        """
        _no_empty(texts)
        rows: list[list[Tensor]] = []
        room: list[int] = []
        for text in sorted(texts, key=len, reverse=True):
            place = next((i for i, free in enumerate(room) if free >= len(text)), len(rows))
            if place == len(rows):
                rows.append([])
                room.append(length)
            rows[place].append(text)
            room[place] -= len(text)
        return cls._of(rows, length)

    @classmethod
    def _of(cls, rows: list[list[Tensor]], length: int) -> Rows:
        longest = max(sum(map(len, row)) for row in rows)
        if longest > length:
            raise ValueError(f"a document of {longest} tokens does not fit rows of {length}")
        tokens = torch.full((len(rows), length), PAD)
        document, position = torch.full_like(tokens, -1), torch.zeros_like(tokens)
        for b, row in enumerate(rows):
            start = 0
            for number, text in enumerate(row):
                place = slice(start, start + len(text))
                tokens[b, place] = text
                document[b, place] = number
                position[b, place] = torch.arange(len(text))
                start += len(text)
        return cls(tokens, document, position)

    @property
    def valid(self) -> Tensor:
        """Where a real token stands: bool (B, T)."""
        return self.document >= 0

    @property
    def is_packed(self) -> bool:
        return bool((self.document > 0).any())

    @property
    def from_end(self) -> Tensor:
        """Tokens of the same document that follow: the position counted from the right end."""
        last = torch.zeros_like(self.position).scatter_reduce(
            1, self.document.clamp(min=0), self.position, "amax"
        )
        here = last.gather(1, self.document.clamp(min=0)) - self.position
        return here.masked_fill(~self.valid, 0)

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.tokens.to(device), self.document.to(device), self.position.to(device))


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

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        """Every forward pass this objective can make; all of them are certified."""
        raise NotImplementedError

    def rows(self, documents: list[Tensor], length: int) -> Rows:
        """How this objective wants its documents laid out; by default packed."""
        return Rows.packed(documents, length)

    def make(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        """The passes of one training step; their losses are added."""
        return self.passes(rows, generator)

    def nll(self, logits: Tensor, batch: Batch) -> Tensor:
        """-log p of every answer, nats (N,). ``logits``: (N, V), or (B, T, V) of all outputs."""
        if logits.dim() == 3:
            logits = logits[batch.asked]
        return F.cross_entropy(logits.float(), batch.targets, reduction="none")

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The weighted **sum** of -log p over the asked outputs, nats; divide by a denominator."""
        return (self.nll(logits, batch) * batch.weights).sum()

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class NextToken(Objective):
    """Causal language modelling: output i names token i + 1 of its document.

    ``mask`` is there to be replaced: `NextToken(bidirectional)` is the classical leak.
    Source: any GPT; source note 1, "Training Objective Mismatch".
    """

    def __init__(self, mask: Mask = causal) -> None:
        self.mask = mask

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        inside = rows.document[:, :-1]
        asked = (inside == rows.document[:, 1:]) & (inside >= 0)
        # On padded rows the causal mask alone hides the pads (they stand to the right of every
        # real token) and keeps the fast path.
        alone = self.mask is causal and not rows.is_packed
        clean = torch.arange(inside.shape[1]).expand_as(inside)
        return (
            Batch(
                inputs=rows.tokens[:, :-1],
                mask=causal if alone else self.mask & documents(inside),
                positions=rows.position[:, :-1],
                asked=asked,
                **_ask(rows, asked, clean + 1),
                shown=clean.masked_fill(inside < 0, -1),
            ),
        )


class PreviousToken(Objective):
    """The mirror of `NextToken`: output i names token i - 1 of its document, anticausal mask.

    ``positions="end"`` counts them from the right (<eos> = 0): the causal model of the reversed
    document, and its floor is the entropy. With ``positions="start"`` the last token knows where
    it stands, hence how long the document is: the length is given, and the floor is lower.
    ``mask`` is there to be replaced.
    Source: source note 4 ("dual masking"), with mask, labels and positions repaired.
    """

    def __init__(self, positions: Literal["end", "start"] = "end", mask: Mask = anticausal) -> None:
        if positions not in ("end", "start"):
            raise ValueError(f"positions count from the 'end' or the 'start', not {positions!r}")
        self.positions, self.mask = positions, mask

    @property
    def length(self) -> str:
        return "free" if self.positions == "end" else "given"

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        inside = rows.document[:, 1:]
        asked = (inside == rows.document[:, :-1]) & (inside >= 0)
        clean = torch.arange(inside.shape[1]).expand_as(inside)
        place = rows.from_end if self.positions == "end" else rows.position
        return (
            Batch(
                inputs=rows.tokens[:, 1:],
                mask=self.mask & documents(inside),
                positions=place[:, 1:],
                asked=asked,
                **_ask(rows, asked, clean),
                shown=(clean + 1).masked_fill(inside < 0, -1),
            ),
        )


def _ask(rows: Rows, asked: Tensor, source: Tensor) -> dict:
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


def _no_empty(texts: list[Tensor]) -> None:
    if not texts:
        raise ValueError("no documents")
    if empty := [i for i, text in enumerate(texts) if len(text) == 0]:
        raise ValueError(f"empty documents: number {', '.join(map(str, empty[:5]))}")
