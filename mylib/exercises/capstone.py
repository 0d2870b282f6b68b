"""The capstone of chapter 12: a regime that writes a page to a given ending, and its judge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..leaks import certificate, positions_tell
from ..masks import dense
from ..metrics import Interval, bootstrap
from ..model import GPT, GPTConfig
from ..objectives import Objective
from ..quality import Quality, quality
from ..sampling import Trace
from ..tokenizer import PAD
from ..train import fit
from . import check, expect
from .writers import KEPT, WRITERS, Regime, compose, evening, misfit, wrong_settings

__all__ = [
    "DEV",
    "JUDGED",
    "PASSES",
    "ROOM",
    "SCORE",
    "VARIOUS",
    "Score",
    "burnt",
    "check_capstone",
    "ends_as",
    "fingerprint",
    "judge",
    "score",
    "trained",
]

ROOM = 44  # tokens of a row in the checks
SCORE = 0.89  # share of valid pages: the best of data/results/capstone.csv, rounded up
VARIOUS = 0.95  # share of distinct pages
PASSES = 27  # one for each token that may be missing: 32 - KEPT
STEPS, BATCH, HEADS = 400, 32, 4
DEV, JUDGED = 11, 2026  # seeds of the endings to tune on, and of those to be judged by
ENDINGS, EACH = 100, 4  # pages to write to each ending

_networks: dict[tuple, GPT] = {}


def fingerprint(objective: Objective) -> str:
    """What an objective does with four fixed pages: its name may stay while its mask changes."""
    pages = evening().sample(4, torch.Generator().manual_seed(0))
    made = objective.passes(objective.alone(pages, ROOM), torch.Generator().manual_seed(0))
    found = hashlib.sha256()
    for batch in made:
        seen = dense(batch.mask, batch.inputs.shape[1], batch=len(batch.inputs), heads=HEADS)
        parts = (batch.inputs, batch.positions, batch.asked, batch.targets, batch.weights)
        for part in (seen, *parts):
            found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


def trained(objective: Objective, seed: int = 0, steps: int = STEPS) -> GPT:
    """The network of the capstone, trained on the Evening edition; once for each objective."""
    key = (type(objective), repr(objective), fingerprint(objective), seed, steps)
    if key not in _networks:
        config = GPTConfig(evening().vocab_size, n_positions=64, n_embd=64, n_layer=2, n_head=HEADS)
        model = GPT.init(config, torch.Generator().manual_seed(seed))
        row = evening().length if objective.layout == "canvas" else 64
        fit(model, objective, evening(), steps, batch=BATCH, row=row, seed=seed, progress=False)
        _networks[key] = model
    return _networks[key]


def ends_as(pages: list[Tensor], ids: Tensor) -> Tensor:
    """Do the written pages (N, C) end with the last `KEPT` tokens of these? bool (N,)."""
    found = [row[row != PAD][-KEPT:] for row in ids]
    return torch.tensor(
        [torch.equal(a, page[-KEPT:]) for a, page in zip(found, pages, strict=True)]
    )


def burnt(seed: int) -> list[Tensor]:
    """Fresh pages of which the ending is left, `EACH` copies of each: so many are to be written."""
    pages = evening().sample(ENDINGS, torch.Generator().manual_seed(seed))
    return [page for page in pages for _ in range(EACH)]


@dataclass(frozen=True)
class Score:
    """How good the pages written to some endings are.

    valid    share of valid pages that end as they should, with its interval over endings
    kept     share that ends as it should
    quality  of the pages as they are (`mylib.quality`): distinct, diversity
    passes   of the writer
    """

    valid: Interval
    kept: float
    quality: Quality
    passes: int


def score(pages: list[Tensor], trace: Trace) -> Score:
    """Score what `compose` has written to ``pages``, as `burnt` deals them."""
    kept = ends_as(pages, trace.ids)
    valid = (evening().is_valid(trace.ids) & kept).double().view(-1, EACH).mean(1)
    found = quality(evening(), trace.ids)
    return Score(bootstrap(valid), float(kept.double().mean()), found, trace.passes)


def judge(found: Score) -> None:
    """Refuse a score that does not beat `SCORE` with various pages."""
    valid, various = found.valid, found.quality
    expect(
        found.kept > 0.99,
        f"only {found.kept:.0%} of your pages end as they should: who heeds the ending?",
    )
    expect(found.passes <= PASSES, f"you take {found.passes} passes, and {PASSES} are allowed")
    expect(
        various.distinct >= VARIOUS,
        f"{valid.mean:.0%} of your pages are valid, and only {various.distinct:.0%} are different: "
        "a gain from repetition is none",
    )
    expect(
        valid.low > SCORE,
        f"{valid.mean:.0%} of your pages are valid, interval {valid.low:.2f} to {valid.high:.2f}: "
        f"it does not lie above the score of {SCORE:.2f}",
    )
    expect(
        various.diversity >= 0.9,
        f"your pages cost the oracle {various.diversity:.2f} of the entropy only: you write likely "
        "pages and leave out the rare ones",
    )


@check("12.2")
def check_capstone(design: Callable[[], Regime]) -> None:
    """``design()`` -> a `Regime`; checked, trained for `STEPS` steps, and judged on fresh pages."""
    regime = design()
    expect(isinstance(regime, Regime), f"return a Regime, not {type(regime).__name__}")
    expect(regime.writer in WRITERS, f"writer is one of {WRITERS}, not {regime.writer!r}")
    some = evening().sample(4, torch.Generator().manual_seed(0))
    found = certificate(regime.objective, regime.objective.alone(some, ROOM), layers=2)
    expect(found.sound, f"a leak in the objective: {found.leaks[:1] and found.leaks[0]}")
    expect(
        found.copied_share < 0.5,
        "a leak in the objective: it declares its answers to be copies, shown on purpose",
    )
    expect(
        regime.writer != "sheet",
        "the length is told for free: the sheet has as many holes as the burnt page had words, and "
        "of that page only the ending is left",
    )
    expect(
        regime.objective.length == "free" and not positions_tell(regime.objective),
        "the length is told for free: in training the positions (or the end) say how long the page "
        "is. Who says so when the page is to be written?",
    )
    unfit = misfit(regime, some, ROOM)
    expect(not unfit, f"objective and writer ({regime.writer}) do not fit: {unfit}")
    wrong = wrong_settings(regime)
    expect(not wrong, wrong)
    model = trained(regime.objective)
    pages = burnt(JUDGED)
    judge(score(pages, compose(regime, model, pages, JUDGED)))
