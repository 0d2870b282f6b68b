"""Absorbing diffusion: words vanish at random, at every rate, and are named again."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..masks import bidirectional
from ..tokenizer import MASK
from .base import Batch, Objective, ask, within
from .rows import Rows


class AbsorbingDiffusion(Objective):
    """Name the hidden words of a row of which a random share is hidden: output i names word i.

    With its default weights the loss of a row is an unbiased estimate of an upper bound of
    -log p(row), nats. The bound is what the row costs a reader to whom its words are revealed one
    by one in a random order, each asked before it is shown; no order is better than another to a
    perfect reader, so a perfect reader meets the bound. Two ways to draw, one mean:

    - ``hide="count"``: of the T words of a row k are hidden, k uniform in 1..T, and each answer
      weighs T / k. The estimate of least variance.
    - ``hide="each"``: each word is hidden with probability t, uniform in (0, 1), and each answer
      weighs 1 / t: the continuous-time form that papers print. Rows may then have nothing hidden.

    ``times``: "antithetic" spreads the rows of a batch evenly over the times, one uniform draw in
    each of as many equal intervals; "independent" draws each by itself. Same mean, less variance.
    ``weighting="none"`` gives every answer weight 1 (no bound: a masked LM with a random rate).
    ``average``: what the sum of a batch is divided by. "document": its rows, so that the loss is
    nats per document; "token": all their words, hidden or not; "hidden": the hidden words.

    On a canvas (`Rows.canvas`, the default layout) the padding is hidden and asked like words: the
    length is free, and the floor of the bound is the entropy.

    Raises `ValueError` for settings it does not know.
    Sources: Sahoo et al., "Simple and Effective Masked Diffusion Language Models" (2024), for the
    weights 1 / t and the even spread; Ou et al., "Your Absorbing Discrete Diffusion Secretly Models
    the Conditional Distributions of Clean Data" (2024), for the form by counts.
    """

    layout = "canvas"

    def __init__(
        self,
        hide: Literal["count", "each"] = "count",
        times: Literal["antithetic", "independent"] = "antithetic",
        weighting: Literal["bound", "none"] = "bound",
        average: Literal["document", "token", "hidden"] = "document",
        mask_token: int = MASK,
    ) -> None:
        for name, value, known in (
            ("hide", hide, ("count", "each")),
            ("times", times, ("antithetic", "independent")),
            ("weighting", weighting, ("bound", "none")),
            ("average", average, ("document", "token", "hidden")),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {known}, got {value!r}")
        self.hide, self.times = hide, times
        self.weighting, self.average, self.mask_token = weighting, average, mask_token

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        times = self._times(len(rows.tokens), generator)
        chance = torch.rand(rows.tokens.shape, generator=generator)
        size = rows.valid.sum(1)
        if self.hide == "each":
            hidden = rows.valid & (chance < times[:, None])
            weight = 1 / times
            # A batch asks something: where chance hides nothing at all, a word that weighs nothing.
            if rows.valid.any() and not hidden.any():
                hidden.view(-1)[chance.masked_fill(~rows.valid, 2.0).argmin()] = True
                weight = torch.zeros_like(times)
        else:
            # Times lie in (0, 1], so counts in 1..T, all equally likely.
            count = (times * size).ceil().clamp(min=1)
            rank = chance.masked_fill(~rows.valid, 2.0).argsort(1).argsort(1)
            hidden = rows.valid & (rank < count[:, None])  # a row of pads alone hides nothing
            weight = size / count
        place = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
        answers = ask(rows, hidden, place)
        owner = hidden.nonzero()[:, 0]
        if self.weighting == "bound":
            answers["weights"] = weight[owner].float()
        whole = {"document": len(size), "token": int(size.sum()), "hidden": len(owner)}
        answers["denominator"] = float(whole[self.average])
        return (
            Batch(
                inputs=rows.tokens.masked_fill(hidden, self.mask_token),
                mask=within(bidirectional, rows),
                positions=rows.position,
                asked=hidden,
                shown=place.masked_fill(hidden | ~rows.valid, -1),
                **answers,
            ),
        )

    def _times(self, rows: int, generator: torch.Generator) -> Tensor:
        """A time in (0, 1] for each row, float64 (rows,)."""
        times = 1 - torch.rand(rows, dtype=torch.float64, generator=generator)
        if self.times == "antithetic":  # any interval for any row: no row is always the fullest
            times = (torch.randperm(rows, generator=generator) + times) / rows
        return times
