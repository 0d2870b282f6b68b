"""Measures, each with its interval.

Comparisons are paired: both sides score the same documents, and the interval is that of the
difference, by bootstrap over documents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Tensor, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of independent values (N,) and the 2.5 % and 97.5 % quantiles of resampled means.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979).
    """
    values = values.double()
    if values.dim() != 1 or len(values) < 2:
        raise ValueError(f"the bootstrap needs at least two values (N,), got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError("the bootstrap needs finite values")
    chance = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [
            values[torch.randint(len(values), (len(values),), generator=chance)].mean()
            for _ in range(draws)
        ]
    )
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high)


def paired_excess(model: Tensor, oracle: Tensor) -> Interval:
    """Nats per document that a model needs beyond the oracle, on the same documents (N,), (N,).

    An interval that lies wholly below zero is "below the floor": impossible on fresh documents
    without a leak.
    """
    if model.shape != oracle.shape:
        raise ValueError(
            f"model and oracle score the same documents, got {tuple(model.shape)} and "
            f"{tuple(oracle.shape)} values"
        )
    return bootstrap(model.double() - oracle.double())
