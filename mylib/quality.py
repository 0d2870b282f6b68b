"""How good written documents are, judged by the oracle: valid, various, and like the grammar's.

Validity alone rewards a writer that repeats one good document. Two measures stand beside it: what
the valid documents cost the oracle on average (the entropy, if they are drawn as the grammar draws
them; less, if likely ones are favoured), and how many are distinct (beside as many fresh ones).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gazette import Gazette
from .metrics import Interval, bootstrap


@dataclass(frozen=True)
class Quality:
    """What `quality` finds in N documents.

    valid          share that the grammar can write, with its interval
    surprise       mean -log p of the valid ones by the oracle, nats; None for fewer than two
    entropy        of the grammar: what ``surprise`` is for its own documents
    distinct       share of different documents among all N
    fresh_distinct the same of N documents drawn from the grammar
    """

    valid: Interval
    surprise: Interval | None
    entropy: float
    distinct: float
    fresh_distinct: float

    @property
    def diversity(self) -> float:
        """``surprise`` over the entropy: 1 for the grammar's own documents; nan for none valid."""
        return self.surprise.mean / self.entropy if self.surprise else float("nan")


def quality(gazette: Gazette, ids: Tensor, seed: int = 0) -> Quality:
    """Judge documents (N, T), N at least 2, as `sampling.write` or `generate` leave them.

    ``seed``: of the fresh documents and the bootstrap.
    """
    log_p = gazette.log_prob(ids)
    valid = log_p > -torch.inf
    fresh = gazette.canvas(gazette.sample(len(ids), torch.Generator().manual_seed(seed)))
    return Quality(
        bootstrap(valid.double(), seed=seed),
        bootstrap(-log_p[valid], seed=seed) if valid.sum() > 1 else None,
        gazette.entropy,
        distinct(ids),
        distinct(fresh),
    )


def distinct(ids: Tensor) -> float:
    """Share of different rows among rows (N, T).

    >>> distinct(torch.tensor([[1, 2], [1, 2], [1, 3], [4, 4]]))
    0.75
    """
    return len(ids.unique(dim=0)) / len(ids)


@dataclass(frozen=True)
class Fit:
    """A chi-square test of one choice of the grammar: its name, cells, statistic, p and Holm's p.

    ``p_holm``: p, corrected for the number of tests made together; below 0.05 the documents are
    told from the grammar's.
    """

    name: str
    cells: int
    statistic: float
    p: float
    p_holm: float


def fit_to_grammar(gazette: Gazette, ids: Tensor, least: float = 5.0) -> list[Fit]:
    """Are these documents (N, T) drawn as the grammar draws them? One test for every choice.

    The templates, and the rows of every draw among the documents of its template. Cells that
    expect fewer than ``least`` are pooled, the smallest first, until they expect as much; choices
    with a single cell left are not tested. Holm's correction over all tests. Documents are taken
    for independent. Raises `ValueError` for invalid documents.
    Source: Pearson (1900); Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    t = gazette._templates
    template, rows = gazette.choices(ids)
    counts = template.bincount(minlength=len(t.prior)).double()
    names, tests = ["template"], [_chi_square(counts, len(ids) * t.prior, least)]
    for draw, (k, weights) in enumerate(zip(t.draw_template, t.draw_weights, strict=True)):
        mine = rows[template == k, draw]
        seen = mine.bincount(minlength=len(weights)).double()
        names.append(f"template {int(k)}, draw {draw}")
        tests.append(_chi_square(seen, len(mine) * weights, least))
    made = [(name, *test) for name, test in zip(names, tests, strict=True) if test]
    made.sort(key=lambda one: one[3])
    fits, worst = [], 0.0
    for rank, (name, cells, statistic, p) in enumerate(made):
        worst = max(worst, min(1.0, (len(made) - rank) * p))
        fits.append(Fit(name, cells, statistic, p, worst))
    return fits


def _chi_square(seen: Tensor, expected: Tensor, least: float) -> tuple[int, float, float] | None:
    """Cells, statistic and p of counts against expected counts; None with fewer than two cells."""
    order = expected.argsort()
    cells: list[list[float]] = []
    for s, e in zip(seen[order].tolist(), expected[order].tolist(), strict=True):
        if cells and cells[-1][1] < least:
            cells[-1][0] += s
            cells[-1][1] += e
        else:
            cells.append([s, e])
    if len(cells) > 1 and cells[-1][1] < least:
        s, e = cells.pop()
        cells[-1][0] += s
        cells[-1][1] += e
    if len(cells) < 2:
        return None
    statistic = sum((s - e) ** 2 / e for s, e in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return len(cells), statistic, float(torch.special.gammaincc(*half))
