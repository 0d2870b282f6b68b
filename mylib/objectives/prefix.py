"""Given the beginning, read both ways, write the rest left to right: `PrefixLM`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..masks import documents, prefix_lm
from ..tokenizer import PAD
from .base import Batch, Objective, ask
from .rows import Rows


class PrefixLM(Objective):
    """The first tokens of each document are given and seen by everybody, the rest is asked.

    ``prefix``: how many tokens are given, <bos> among them, or None: in each document a number
    drawn anew at every step, from 1 (<bos> alone: `NextToken`) to all but one. ``after``: the given
    part ends with the first token of this id instead (a full stop: the first sentence is given);
    documents in which it does not occur, or ends, ask nothing. The last given token names the first
    word that is asked, and each word the next one. Nobody knows the length.

    Raises `ValueError` for a prefix that leaves a document nothing to ask.
    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (2020), section 3.2.
    """

    def __init__(self, prefix: int | None = None, after: int | None = None) -> None:
        if prefix is not None and after is not None:
            raise ValueError("a prefix ends at a place or after a token: give one of the two")
        if prefix is not None and prefix < 0:
            raise ValueError(f"a prefix is a whole number of tokens, 0 or more; got {prefix}")
        self.prefix, self.after = prefix, after

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        given = rows.valid & (rows.position < self._given(rows, generator))
        here = rows.document[:, :-1]
        follows = (here == rows.document[:, 1:]) & (here >= 0)
        # A document's last word is an answer and no input: see `NextToken`.
        inside = here.masked_fill(~follows, -1)
        # The token before the first that is not given answers; <bos>, of no prefix, answers too.
        asked = follows & ~given[:, 1:]
        clean = torch.arange(inside.shape[1]).expand_as(inside)
        return (
            Batch(
                inputs=rows.tokens[:, :-1].masked_fill(~follows, PAD),
                mask=prefix_lm(given[:, :-1]) & documents(inside),
                positions=rows.position[:, :-1],
                asked=asked,
                **ask(rows, asked, clean + 1),
                shown=clean.masked_fill(~follows, -1),
            ),
        )

    def _given(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """How many tokens of its document are given, for every token: int (B, T)."""
        length = rows.position + rows.from_end + 1
        if self.prefix is not None:
            short = rows.valid & (length <= self.prefix)
            if short.any():
                raise ValueError(
                    f"a prefix of {self.prefix} tokens leaves nothing to ask of a document of "
                    f"{int(length[short].min())} tokens"
                )
            return torch.full_like(length, self.prefix)
        number = rows.document.clamp(min=0)
        if self.after is not None:
            beyond = rows.tokens.shape[1]
            ends = (rows.tokens == self.after) & rows.valid
            place = rows.position.masked_fill(~ends, beyond)
            first = torch.full_like(place, beyond).scatter_reduce(1, number, place, "amin")
            return first.gather(1, number) + 1
        chance = torch.rand(length.shape, generator=generator).gather(1, number)
        return 1 + (chance * (length - 1)).long()
