"""Masked language modelling: hide words, and ask for them where they stood or one place before."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..masks import Mask, bidirectional
from ..tokenizer import MASK, SPECIAL_TOKENS
from .base import Batch, Objective, ask, within
from .rows import Rows
from .wrong_words import other_words, replacement_range


class MaskedLM(Objective):
    """Name the hidden words: output i names word i, asked at a share ``rate`` of the words.

    ``split`` says what stands at an asked word: [MASK], another word, or the word itself; the last
    kind are declared copies. Padding and ``special`` tokens are never asked, so never hidden. A
    row in which chance would ask nothing is asked one word, so that there is always a loss.

    ``replacements``: ids of wrong words, by default the Gazette's lexicon. ``mask_token`` and
    ``special`` belong to the tokenizer; ``mask`` is there to be replaced. The end of a document is
    never hidden, so its length is given.

    Raises `ValueError` for rates and splits that are none, and for a batch without any word that
    could be asked.
    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding" (2019), section 3.1; source note 1, "Option 1".
    """

    length = "given"
    ahead = 0  # output i names word i + ahead

    def __init__(
        self,
        rate: float = 0.15,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        replacements: range | None = None,
        mask_token: int = MASK,
        special: Collection[int] = tuple(SPECIAL_TOKENS.values()),
        mask: Mask = bidirectional,
    ) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"a rate lies above 0 and is at most 1, got {rate}")
        if len(split) != 3 or not (min(split) >= 0 and abs(sum(split) - 1) <= 1e-6):
            raise ValueError(f"split is three shares (masked, replaced, kept) of 1, got {split}")
        self.rate, self.split, self.mask_token = rate, tuple(split), mask_token
        self.replacements = replacement_range(replacements, mask_token)
        self.special, self.mask = tuple(special), mask

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        return (self.hide(rows, self.choose(rows, generator), generator),)

    def eligible(self, rows: Rows) -> Tensor:
        """Words that may be hidden: bool (B, T). With ``ahead`` somebody must stand before them."""
        special = torch.isin(rows.tokens, torch.tensor(self.special, device=rows.tokens.device))
        return rows.valid & ~special & (rows.position >= self.ahead)

    def choose(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """Words that are asked: bool (B, T), at least one in each row that has one to ask."""
        eligible = self.eligible(rows)
        if not eligible.any():
            raise ValueError(
                "no word of this batch can be hidden: all are padding or special tokens"
                + (", or stand first, with no output before them" if self.ahead else "")
            )
        chance = torch.rand(rows.tokens.shape, generator=generator).masked_fill(~eligible, 2.0)
        least = chance.amin(1, keepdim=True)  # the word that is asked if no other is
        return eligible & ((chance < self.rate) | (chance == least))

    def hide(self, rows: Rows, chosen: Tensor, generator: torch.Generator) -> Batch:
        """The batch that asks the ``chosen`` words, bool (B, T).

        Raises `ValueError` where nothing is chosen, or something that may not be hidden.
        """
        if (chosen & ~self.eligible(rows)).any():
            row, place = (chosen & ~self.eligible(rows)).nonzero()[0].tolist()
            raise ValueError(f"token {place} of row {row} is no word that can be hidden")
        kind = torch.rand(chosen.shape, generator=generator)
        masked = chosen & (kind < self.split[0])
        wrong = chosen & ~masked & (kind < self.split[0] + self.split[1])
        inputs = torch.where(
            wrong, other_words(rows.tokens, self.replacements, generator), rows.tokens
        ).masked_fill(masked, self.mask_token)
        place = torch.arange(inputs.shape[1]).expand_as(inputs)
        asked = chosen.roll(-self.ahead, 1)  # the first word is never chosen then
        answers = ask(rows, asked, place + self.ahead)
        kept = (chosen & ~masked & ~wrong)[chosen]
        return Batch(
            inputs=inputs,
            mask=within(self.mask, rows),
            positions=rows.position,
            asked=asked,
            **{**answers, "copied": kept},
            shown=place.masked_fill(masked | wrong | ~rows.valid, -1),
        )


class NextMasked(MaskedLM):
    """Masked next-token prediction (MNTP): output i names the hidden word i + 1.

    A causal model has learnt to answer there, so a converted one starts nearer to its goal. The
    first token of a document has no output before it and is never asked.
    Source: BehnamGhader et al., "LLM2Vec: Large Language Models Are Secretly Powerful Text
    Encoders" (2024).
    """

    ahead = 1
