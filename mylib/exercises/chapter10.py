"""Chapter 10: pairs drawn at once, better settings within ten passes, revising within a budget."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..files import data_path
from ..gazette import Gazette
from ..metrics import bootstrap
from ..model import GPT
from ..quality import quality
from ..sampling import Passes, Trace, write
from ..tokenizer import MASK
from . import check, expect

__all__ = ["check_at_once", "check_revise", "check_settings"]


# -- 10.1 --------------------------------------------------------------------------------------

Table = dict[tuple[str, str], float]

COIN: Table = {("mist", "wet"): 0.5, ("frost", "cold"): 0.5}
TRADES: Table = {("baker", "bread"): 0.6, ("grocer", "jam"): 0.3, ("chemist", "soap"): 0.1}
PEOPLE: Table = {("Maud", "her"): 0.5, ("Ruth", "her"): 0.25, ("Hugo", "his"): 0.25}
NINE: Table = {("tide", "rises"): 0.9, ("goose", "sits"): 0.1}
MANY: Table = {("a", "x"): 0.4, ("a", "y"): 0.1, ("b", "y"): 0.2, ("c", "x"): 0.3}


def _met(table: Table) -> float:
    first: dict[str, float] = {}
    second: dict[str, float] = {}
    for (a, b), p in table.items():
        first[a] = first.get(a, 0.0) + p
        second[b] = second.get(b, 0.0) + p
    return math.fsum(first[a] * second[b] for a, b in table)


def _same(said: float, true: float) -> bool:
    return math.isclose(said, true, abs_tol=1e-9)


@check("10.1")
def check_at_once(at_once: Callable[[list[Table]], float]) -> None:
    """``at_once(tables)`` -> the chance that words drawn apart make a valid page."""
    ask = lambda *tables: float(at_once([dict(table) for table in tables]))  # noqa: E731
    one = ask(TRADES)
    expect(
        not _same(one, 1.0),
        "you say 1: each word is drawn from its right chances. But a baker's soap is drawn, too; "
        "right words do not make a right pair",
    )
    expect(
        not _same(one, 1 / len(TRADES)),
        "1 over the number of pairs holds only if all are equally likely",
    )
    expect(
        not _same(one, max(TRADES.values())),
        "that is the chance of the likeliest pair's word; every pair can be hit",
    )
    expect(
        not _same(one, 1 - sum(p * p for p in TRADES.values())),
        "that is the chance that the two do *not* agree",
    )
    expect(
        _same(one, _met(TRADES)),
        f"for one table of three pairs, each with its own words, the chance is the sum of p "
        f"squared, {_met(TRADES):.2f}; you say {one:.4g}",
    )
    two, alone = ask(NINE, NINE), _met(NINE)
    expect(
        not _same(two, alone),
        "ninety per cent words do not make ninety per cent stories: with a second pair the chance "
        "must fall, for both have to agree. Multiply; no mean, and not the first table alone",
    )
    expect(not _same(two, 2 * alone), "chances of independent pairs are multiplied, not added")
    expect(
        _same(two, alone**2) and _same(ask(COIN, NINE, TRADES), 0.5 * alone * _met(TRADES)),
        "independent tables: the chances multiply",
    )
    her = ask(PEOPLE)
    expect(
        not _same(her, sum(p * p for p in PEOPLE.values())),
        'Maud and Ruth share "her": Maud with a "her" that was drawn for Ruth is a fine pair. '
        "The chance of a word is the sum over all pairs that it stands in",
    )
    expect(
        _same(her, _met(PEOPLE)) and _same(ask(MANY), _met(MANY)),
        "sum p(first) times p(second) over the pairs of the table, where p(first) and p(second) "
        "are summed over all pairs with that word",
    )
    expect(_same(ask({("sad", "goose"): 1.0}), 1.0), "a pair without a choice always agrees")


# -- 10.2 --------------------------------------------------------------------------------------

PAGES = 100
PASSES = 10
ALLOWED = {
    *("order", "budget", "revise", "block", "max_passes"),
    *("temperature", "top_k", "top_p"),
}


def _write(**how: object) -> Trace:
    gazette, model = _sunday()
    canvas = torch.full((PAGES, gazette.length), MASK)
    return write(model, canvas, generator=torch.Generator().manual_seed(10), **how)


@functools.cache
def _sunday() -> tuple[Gazette, GPT]:
    return Gazette.load("sunday"), GPT.load(data_path("checkpoints/denoiser.safetensors"))


@functools.cache
def _baseline() -> Tensor:
    ids = _write(order="confidence", budget=Passes(PASSES)).ids
    return _sunday()[0].is_valid(ids).double()


@check("10.2")
def check_settings(settings: Callable[[], dict]) -> None:
    """``settings()`` -> arguments for `write`."""
    how = settings()
    expect(isinstance(how, dict), "return a dictionary of arguments for write")
    expect(
        set(how) <= ALLOWED,
        f"by settings only: {sorted(set(how) - ALLOWED)} are not among {sorted(ALLOWED)}",
    )
    budget = how.get("budget", 1)
    planned = budget.passes if isinstance(budget, Passes) and not how.get("block") else None
    expect(
        planned is None or planned <= PASSES,
        f"you plan {planned} passes, and {PASSES} are allowed: extra passes are no skill",
    )
    judge_settings(_write(**how), _sunday()[0], _baseline())


def judge_settings(trace: Trace, gazette: Gazette, baseline: Tensor) -> None:
    """Refuse pages (N, T) that do not beat ``baseline``, 1.0 for each of its valid pages (N,)."""
    expect(
        trace.passes <= PASSES,
        f"you take {trace.passes} passes, and {PASSES} are allowed (max_passes is a setting, too)",
    )
    found = quality(gazette, trace.ids)
    expect(
        found.distinct >= 0.95,
        f"{found.valid.mean:.0%} of your pages are valid, and only {found.distinct:.0%} are "
        "different: validity alone rewards a writer that repeats one good page",
    )
    ahead = bootstrap(gazette.is_valid(trace.ids).double() - baseline)
    expect(
        ahead.low > 0,
        f"{found.valid.mean:.0%} of your pages are valid, {float(baseline.mean()):.0%} of those of "
        f"confidence order: the interval of the difference, {ahead.low:+.2f} to {ahead.high:+.2f}, "
        "does not lie above zero",
    )
    expect(
        found.diversity >= 0.9,
        f"your pages are valid and different, but cost the oracle {found.diversity:.2f} of the "
        "entropy only: you write likely pages and leave out the rare ones",
    )


# -- 10.3 --------------------------------------------------------------------------------------

SIZE = 12
TRUTH = torch.arange(10, 10 + SIZE)


@dataclass
class Reader:
    """Knows the page `TRUTH`. It says a wrong word for the holes in ``slips`` while fewer than
    ``enough`` words are shown, and flags wrong words; or everything, if it is ``nervous``."""

    slips: tuple[int, ...] = ()
    enough: int = 3
    nervous: bool = False
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(ids.clone())
        shown = ids != MASK
        words = TRUTH.clone()
        if shown.sum() < self.enough:
            words[list(self.slips)] += 100
        flags = shown & ((ids != TRUTH) | self.nervous)
        return words, flags


def _page(*given: int, wrong: tuple[int, ...] = ()) -> Tensor:
    page = torch.full((SIZE,), MASK)
    page[list(given)] = TRUTH[list(given)]
    page[list(wrong)] = TRUTH[list(wrong)] + 200
    return page


@check("10.3")
def check_revise(revise: Callable[[Callable, Tensor, int], Tensor]) -> None:
    """``revise(read, canvas, passes)`` -> a page (T,) without holes."""
    plain, page = Reader(), _page(0)
    done = _run(revise, plain, page, 4)
    expect(torch.equal(done, TRUTH), "a reader that is always right is not written down as it says")
    # Within the budget, and evenly.
    shares = [int((a == MASK).sum() - (b == MASK).sum()) for a, b in _steps(plain.seen)]
    expect(
        len(plain.seen) > 1,
        "you fill all holes in the first pass: nothing is left to look back from. An even share "
        "of the holes in each pass",
    )
    expect(
        shares == [3, 3, 3],
        f"eleven holes in 4 passes are 3, 3, 3 and 2; you fill {shares} before the last pass",
    )
    # What was given stays.
    wrong = _page(0, wrong=(1, 2))
    done = _run(revise, Reader(), wrong, 4)
    expect(
        torch.equal(done[:3], wrong[:3]),
        "the canvas held two words that the reader flags, and you overwrote them: prompt words are "
        "the author's",
    )
    # Flagged words are taken back.
    slips = Reader(slips=(1, 2, 3))
    done = _run(revise, slips, _page(0), 4)
    expect(
        not (done[1:4] > 100).all(),
        "the wrong words of the first pass, flagged ever since, still stand: take back what is "
        "flagged while there are passes left",
    )
    expect(torch.equal(done, TRUTH), "a flagged word was taken back, and the page is wrong still")
    # It must come to an end.
    nervous = Reader(nervous=True)
    done = _run(revise, nervous, _page(0, 5), 4)
    expect(
        torch.equal(done, TRUTH),
        "a reader that flags everything: your page does not come out as it reads it",
    )


def _run(revise: Callable, reader: Reader, page: Tensor, passes: int) -> Tensor:
    calls = 0

    def read(ids: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        expect(
            calls <= 10 * passes,
            "you do not come to an end: a nervous reader flags for ever, and you go on hiding",
        )
        return reader(ids)

    done = revise(read, page.clone(), passes)
    expect(isinstance(done, Tensor) and done.shape == page.shape, f"return the page, int ({SIZE},)")
    expect(
        calls <= passes,
        f"you called the reader {calls} times in {passes} passes: a look at the flags is a pass, "
        "too. One reading gives the words and the flags",
    )
    expect(
        not (done == MASK).any(),
        "the page still has holes: a word that is hidden after the last reading stays hidden",
    )
    return done


def _steps(seen: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.pairwise(seen))
