"""Denoising: repair a page of which words are missing or wrong."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..masks import bidirectional
from ..tokenizer import MASK
from .base import Batch, Objective, within
from .rows import Rows
from .wrong_words import other_words, replacement_range


class Denoising(Objective):
    """Name the word under each [MASK], say [MASK] at each wrong word, repeat all others.

    Each row draws two rates: ``rate_mask`` uniform in [0, 0.99) of its tokens become [MASK], and
    ``rate_random`` uniform in [0, 0.99 - rate_mask) become another word of ``replacements`` (by
    default the Gazette's lexicon). ``rates="total"`` takes the second rate of all tokens, as the
    note's code does; "remaining" of those not masked, as its text says. Untouched words are
    declared copies.

    An answer [MASK] is discounted where the network is unsure: a loss is multiplied by
    ``keep_mask`` where input and likeliest output are [MASK] but a word is wanted, and by
    ``mask_correct`` where a right word is flagged. The likeliest output decides, so no gradient
    flows through the decision.

    On a canvas (`Rows.canvas`, the default layout) the padding is text: hidden, replaced and asked
    like a word, and the length stays free.
    Source: source note 3 ("diffusion extension of nanoGPT"), sections 2.2 and 3.
    """

    layout = "canvas"
    mask_token = MASK  # its usual value is not part of the repr, which checkpoints are known by

    def __init__(
        self,
        keep_mask: float = 0.25,
        mask_correct: float = 0.5,
        rates: Literal["total", "remaining"] = "total",
        replacements: range | None = None,
        mask_token: int = MASK,
    ) -> None:
        if rates not in ("total", "remaining"):
            raise ValueError(f"rates are of the 'total' or the 'remaining' tokens, not {rates!r}")
        for name, value in (("keep_mask", keep_mask), ("mask_correct", mask_correct)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} multiplies a loss: a number, 0 or more, got {value}")
        self.keep_mask, self.mask_correct, self.rates = keep_mask, mask_correct, rates
        if mask_token != MASK:
            self.mask_token = mask_token
        self.replacements = replacement_range(replacements, mask_token)

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        masked, wrong = self._noise(rows.valid, generator)
        inputs = torch.where(
            wrong, other_words(rows.tokens, self.replacements, generator), rows.tokens
        )
        inputs = inputs.masked_fill(masked, self.mask_token)
        asked, clean = rows.valid, rows.valid & ~masked & ~wrong
        place = torch.arange(inputs.shape[1]).expand_as(inputs)
        count = int(asked.sum())
        return (
            Batch(
                inputs=inputs,
                mask=within(bidirectional, rows),
                positions=rows.position,
                asked=asked,
                targets=rows.tokens.masked_fill(wrong, self.mask_token)[asked],
                weights=torch.ones(count),
                denominator=float(count),
                source=place.masked_fill(wrong, -1)[asked],
                shown=place.masked_fill(~clean, -1),
                copied=clean[asked],
            ),
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The weighted sum of -log p, nats, with the note's two discounts."""
        logits = logits[batch.asked] if logits.dim() == 3 else logits
        unsure, nervous = self.discounts(logits, batch)
        discount = torch.ones_like(batch.weights).masked_fill(unsure, self.keep_mask)
        discount = discount.masked_fill(nervous, self.mask_correct)
        return (self.nll(logits, batch) * batch.weights * discount).sum()

    def discounts(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Where each discount applies, for logits (N, V) of the asked outputs: two bool (N,).

        The first: input and likeliest output are [MASK], and a word is wanted ("I don't know").
        The second: a right word is flagged ("nervous").
        """
        given, flagged = batch.inputs[batch.asked], logits.argmax(-1) == self.mask_token
        unsure = flagged & (given == self.mask_token) & (batch.targets != self.mask_token)
        return unsure, flagged & (given == batch.targets) & (given != self.mask_token)

    def _noise(self, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which tokens of ``valid`` (B, T) are masked, and which are replaced: two bool (B, T)."""
        size = valid.sum(1, keepdim=True)
        rate_mask = 0.99 * torch.rand(len(valid), 1, generator=generator)
        rate_random = (0.99 - rate_mask) * torch.rand(len(valid), 1, generator=generator)
        masks = (size * rate_mask).long()
        whole = size if self.rates == "total" else size - masks
        randoms = (whole * rate_random).long()
        chance = torch.rand(valid.shape, generator=generator).masked_fill(~valid, 2.0)
        rank = chance.argsort(1).argsort(1)  # a random order of the real tokens, pads last
        return rank < masks, (rank >= masks) & (rank < masks + randoms)
