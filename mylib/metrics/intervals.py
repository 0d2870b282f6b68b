"""Intervals by bootstrap over documents.

Comparisons are paired: both sides score the same documents, and the interval is that of the
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Measure = Callable[[Tensor], Tensor]  # summed counts (D, K) -> values (D,)
AT_ONCE = 2**20  # resampled documents held in memory at a time, whatever N and D are


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval.

    For a measure that is no mean (`bootstrap_over`), ``mean`` is its value on the documents as
    they are.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Tensor, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of independent values (N,) and the 2.5 % and 97.5 % quantiles of resampled means.

    Of few values it is narrow: of three normal ones it holds the true mean three times in four.

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


def bootstrap_over(counts: Tensor, measure: Measure, draws: int = 2000, seed: int = 0) -> Interval:
    """A measure of summed counts, and the 2.5 % and 97.5 % quantiles over resampled documents.

    ``counts`` (N, K): K numbers for each of N independent documents, for example entities right,
    predicted and gold. ``measure`` takes sums over documents, float64 (D, K), one row a draw, and
    returns (D,). `Interval.mean` is its value on all documents, not the mean of the draws. Raises
    `ValueError` for fewer than two documents, counts or measured values that are not finite,
    ``draws`` below 1, and a measure that returns another shape.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), on ratios.

    >>> hits_and_words = torch.tensor([[1, 2], [3, 4], [0, 5]])
    >>> print(bootstrap_over(hits_and_words, lambda sums: sums[:, 0] / sums[:, 1]))
    0.364 [0.000, 0.750]
    """
    if draws < 1:
        raise ValueError(f"the bootstrap needs at least one draw, got {draws}")
    counts = _counts(counts)
    whole = _measured(measure, counts.sum(0, keepdim=True), "all documents")
    drawn = _measured(measure, _resampled(counts, draws, seed), "resampled documents")
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(whole), low, high)


def paired_difference(
    first: Tensor, second: Tensor, measure: Measure, draws: int = 2000, seed: int = 0
) -> Interval:
    """How much more the first system measures than the second, on the same documents.

    ``first`` and ``second`` (N, K): the counts of both, row by row the same document; each draw
    takes the same documents from both. ``measure`` and errors: as in `bootstrap_over`, and
    `ValueError` for different shapes.

    Source: Berg-Kirkpatrick, Burkett and Klein, "An Empirical Investigation of Statistical
    Significance in NLP" (2012).

    >>> one, other = torch.tensor([[1, 1], [1, 2]]), torch.tensor([[1, 1], [0, 2]])
    >>> paired_difference(one, other, lambda sums: sums[:, 0] / sums[:, 1]).low
    0.0
    """
    if first.shape != second.shape:
        raise ValueError(
            f"both systems score the same documents, got counts {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )

    def difference(sums: Tensor) -> Tensor:
        ours, theirs = sums.chunk(2, dim=1)
        return _measured(measure, ours, "the first") - _measured(measure, theirs, "the second")

    both = torch.cat([_counts(first), _counts(second)], dim=1)
    return bootstrap_over(both, difference, draws, seed)


def _counts(counts: Tensor) -> Tensor:
    """Finite counts of at least two documents, float64 (N, K)."""
    if counts.dim() != 2 or counts.shape[0] < 2 or counts.shape[1] < 1:
        raise ValueError(
            "the bootstrap needs counts (N, K) of at least two documents, got "
            f"{tuple(counts.shape)}"
        )
    if not torch.isfinite(counts).all():
        raise ValueError("the bootstrap needs finite counts")
    return counts.double()


def _resampled(counts: Tensor, draws: int, seed: int) -> Tensor:
    """Sums over N documents taken with replacement, (draws, K).

    How often each is taken, times the counts: a matrix product, so that nothing of size N K D is
    ever held. The documents of each draw do not depend on how many draws are held at a time.
    """
    n = len(counts)
    chance = torch.Generator().manual_seed(seed)
    sums = []
    for begin in range(0, draws, at_once := max(1, AT_ONCE // n)):
        rows = min(at_once, draws - begin)
        taken = torch.randint(n, (rows, n), generator=chance)
        times = torch.zeros(rows, n, dtype=torch.float64)
        times.scatter_add_(1, taken, torch.ones_like(times))
        sums.append(times @ counts)
    return torch.cat(sums)


def _measured(measure: Measure, sums: Tensor, of: str) -> Tensor:
    """What the measure says, float64 (D,), or why it is no measure."""
    values = measure(sums)
    if not isinstance(values, Tensor) or values.shape != sums.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"a measure turns sums {tuple(sums.shape)} into {(len(sums),)}, got {got}")
    if not torch.isfinite(values).all():
        raise ValueError(f"the measure is not finite on {of}: decide what 0/0 is")
    return values.double()
