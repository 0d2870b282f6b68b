"""Wrong words: what a corrupted word becomes."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import tokenizer


def replacement_range(replacements: range | None, mask_token: int) -> range:
    """The ids that wrong words are drawn from, by default the Gazette's lexicon.

    Raises `ValueError` for fewer than two, for ids with gaps, and for a range with [MASK] in it.
    """
    replacements = tokenizer.lexicon() if replacements is None else replacements
    if len(replacements) < 2:
        raise ValueError("a wrong word needs at least 2 replacements to choose from")
    if replacements.step != 1 or mask_token in replacements:
        raise ValueError(f"replacements are consecutive ids without [MASK], not {replacements}")
    return replacements


def other_words(tokens: Tensor, replacements: range, generator: torch.Generator) -> Tensor:
    """For every token another one of ``replacements``, each equally likely; never itself."""
    first, size = replacements.start, len(replacements)
    place = tokens - first
    inside = (place >= 0) & (place < size)
    step = torch.randint(1, size, tokens.shape, generator=generator)
    free = torch.randint(size, tokens.shape, generator=generator)
    return first + torch.where(inside, (place + step) % size, free)
