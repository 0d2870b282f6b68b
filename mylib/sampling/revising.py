"""Second thoughts: which words that were written are hidden again.

A reviser looks at the words that were `Written`, never at those that were given, and says which of
them become holes again: bool (M,). It costs no pass: it uses what the model answered anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .budgets import at_least_one


@dataclass(frozen=True)
class Written:
    """The M words written so far in rows (in their blocks) that are not finished, row by row.

    row        int (M,)
    flag       float (M,)   the model's p([MASK]) there: the proofreader's flag
    log_p      float (M,)   log p of the word when it was drawn
    revisions  int (M,)     how often a word in this place was hidden again
    """

    row: Tensor
    flag: Tensor
    log_p: Tensor
    revisions: Tensor


@dataclass(frozen=True)
class Flagged:
    """Words that the model flags, p([MASK]) > ``at``; at most ``times`` in one place.

    For models that have learnt to say [MASK] at wrong words (`Denoising`).
    """

    at: float = 0.5
    times: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ValueError(f"a flag's threshold is a probability, got {self.at}")
        at_least_one("times", self.times)

    def __call__(self, written: Written) -> Tensor:
        return (written.flag > self.at) & (written.revisions < self.times)


@dataclass(frozen=True)
class LowConfidence:
    """The ``words`` words of a row that were least likely when drawn; ``times`` in one place.

    For any model: it asks nothing of outputs at words that are shown.
    Source, in spirit: Wang et al., "Remasking Discrete Diffusion Models with Inference-Time
    Scaling" (2025), whose confidence-based schedule hides words by what they were drawn with.
    """

    words: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        at_least_one("words", self.words)
        at_least_one("times", self.times)

    def __call__(self, written: Written) -> Tensor:
        score = written.log_p.masked_fill(written.revisions >= self.times, torch.inf)
        order = score.argsort(stable=True)
        order = order[written.row[order].argsort(stable=True)]  # by row, least likely first
        row = written.row[order]
        first = torch.searchsorted(row, row)  # where each row begins
        place = torch.arange(len(row), device=row.device) - first
        chosen = torch.zeros_like(row, dtype=torch.bool)
        chosen[order] = place < self.words
        return chosen & (score < torch.inf)


# By name, for commands and tables.
REVISERS = {"none": None, "flagged": Flagged(), "low confidence": LowConfidence()}
