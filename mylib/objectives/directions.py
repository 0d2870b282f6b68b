"""Left to right, right to left, and both: `NextToken`, `PreviousToken`, `ForwardBackward`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from ..masks import Mask, anticausal, causal, documents
from ..tokenizer import BOS, BW, EOS, FW, PAD
from .base import Batch, Objective, ask
from .rows import Rows


class NextToken(Objective):
    """Causal language modelling: output i names token i + 1 of its document.

    ``mask`` is there to be replaced: `NextToken(bidirectional)` is the classical leak.
    Source: any GPT; source note 1, "Training Objective Mismatch".
    """

    def __init__(self, mask: Mask = causal) -> None:
        self.mask = mask

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        here = rows.document[:, :-1]
        asked = (here == rows.document[:, 1:]) & (here >= 0)
        # A document's last word is an answer and no input, in every layout: packed or shorter
        # than its neighbours, too, it must not stand there for an open mask to find.
        inside = here.masked_fill(~asked, -1)
        # On padded rows the causal mask alone hides the pads (they stand to the right of every
        # real token) and keeps the fast path.
        alone = self.mask is causal and not rows.is_packed
        clean = torch.arange(inside.shape[1]).expand_as(inside)
        return (
            Batch(
                inputs=rows.tokens[:, :-1].masked_fill(~asked, PAD),
                mask=causal if alone else self.mask & documents(inside),
                positions=rows.position[:, :-1],
                asked=asked,
                **ask(rows, asked, clean + 1),
                shown=clean.masked_fill(~asked, -1),
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
        here = rows.document[:, 1:]
        asked = (here == rows.document[:, :-1]) & (here >= 0)
        inside = here.masked_fill(~asked, -1)  # the first word is an answer and no input
        clean = torch.arange(inside.shape[1]).expand_as(inside)
        place = rows.from_end if self.positions == "end" else rows.position
        return (
            Batch(
                inputs=rows.tokens[:, 1:].masked_fill(~asked, PAD),
                mask=self.mask & documents(inside),
                positions=place[:, 1:],
                asked=asked,
                **ask(rows, asked, clean),
                shown=(clean + 1).masked_fill(~asked, -1),
            ),
        )


class ForwardBackward(Objective):
    """`NextToken` at every step, and with probability ``p_bw`` `PreviousToken` in addition.

    Both read the same documents and their losses are added. With ``direction_tokens`` the network
    is told which way it reads: <fw> stands in <bos>'s place when it reads forward, <bw> in
    <eos>'s when it reads backward. Each is the one token of its reading that all others see.
    ``either=True`` makes one pass a step instead, backward with probability ``p_bw``.

    Raises `ValueError` for direction tokens on documents without <bos> and <eos>.
    Source: source note 4 ("dual masking"), with mask, labels and positions repaired.
    """

    def __init__(
        self, p_bw: float = 0.5, direction_tokens: bool = True, either: bool = False
    ) -> None:
        if not 0 <= p_bw <= 1:
            raise ValueError(f"p_bw is a probability, got {p_bw}")
        self.p_bw, self.direction_tokens, self.either = p_bw, direction_tokens, either

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, Batch]:
        (forward,) = NextToken().passes(rows, generator)
        (backward,) = PreviousToken().passes(rows, generator)
        if not self.direction_tokens:
            return forward, backward
        first, last = rows.valid & (rows.position == 0), rows.valid & (rows.from_end == 0)
        if (rows.tokens[first] != BOS).any() or (rows.tokens[last] != EOS).any():
            raise ValueError(
                "direction tokens stand in the places of <bos> and <eos>, and a document of this "
                "batch does not have both; give whole documents, or direction_tokens=False"
            )
        first, last = first[:, :-1], last[:, 1:]
        return (
            replace(
                forward,
                inputs=forward.inputs.masked_fill(first, FW),
                shown=forward.shown.masked_fill(first, -1),
            ),
            replace(
                backward,
                inputs=backward.inputs.masked_fill(last, BW),
                shown=backward.shown.masked_fill(last, -1),
            ),
        )

    def make(self, rows: Rows, generator: torch.Generator) -> tuple[Batch, ...]:
        forward, backward = self.passes(rows, generator)
        # rand lies in [0, 1): an exact coin, never heads at 0 and always at 1.
        heads = bool(torch.rand((), generator=generator) < self.p_bw)
        if self.either:
            return (backward,) if heads else (forward,)
        return (forward, backward) if heads else (forward,)
