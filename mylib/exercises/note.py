"""Exercise 12.3: a note of five lines on runs that are committed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..files import data_path
from . import check, expect


class Run(NamedTuple):
    """A trained network's price above the floor, reading backward: nats a document, 95 %."""

    mask: str
    size: str
    seed: int
    mean: float
    low: float
    high: float


def runs(size: str = "2x32") -> list[Run]:
    """Runs of ``data/results/forward_backward.csv``: both directions at every step, fresh pages."""
    with open(data_path("results/forward_backward.csv")) as file:
        table = [r for r in csv.DictReader(file) if (r["size"], r["p_bw"]) == (size, "1.0")]
    columns = ("backward", "backward_low", "backward_high")
    return [
        Run(r["mask"], size, int(r["seed"]), *(float(r[c]) for c in columns))
        for r in table
        if r["data"] == "fresh" and r["told"] == "True"
    ]


@dataclass(frozen=True)
class Note:
    """A claim in five lines.

    claim      a sentence
    holds      the claim for one `Run`: bool, as a rule
    control    runs for which the rule must not hold
    seeds      of the runs that are judged
    interval   (low, high) that holds all their intervals, nats a document
    threshold  where the rule says yes, nats a document
    tuned_on   seeds of the runs from which the threshold was chosen
    """

    claim: str
    holds: Callable[[Run], bool]
    control: list[Run]
    seeds: tuple[int, ...]
    interval: tuple[float, float] | None
    threshold: float
    tuned_on: tuple[int, ...]


@check("12.3")
def check_note(note: Callable[[], Note]) -> None:
    """``note()`` -> a `Note` on the published mask of two directions."""
    mine = note()
    expect(isinstance(mine, Note), f"return a Note, not {type(mine).__name__}")
    expect(isinstance(mine.claim, str), f"the claim is a sentence, not {mine.claim!r}")
    expect(len(mine.claim.split()) >= 5, "the claim is a sentence: what, of what, against what")
    judged = [run for run in runs() if run.mask == "published" and run.seed in mine.seeds]
    expect(
        len(set(mine.seeds)) >= 2 and len(judged) == len(set(mine.seeds)),
        f"the claim rests on one seed, or on seeds that are not in the table: {mine.seeds}. Two "
        "runs that agree are the least",
    )
    expect(mine.tuned_on, "nothing says on what the threshold was chosen: tuned_on is empty")
    expect(
        not set(mine.seeds) & set(mine.tuned_on),
        f"the threshold is tuned on what it judges: seeds {sorted(set(mine.seeds))}, tuned on "
        f"{sorted(set(mine.tuned_on))}",
    )
    _check_control(mine, judged)
    expect(all(mine.holds(run) for run in judged), "your rule does not hold for all your seeds")
    _check_rule(mine)
    _check_interval(mine, judged)


def _run(threshold: float, mean: float, low: float, high: float) -> Run:
    """A run that was never made, this far from the threshold."""
    return Run("published", "2x32", 0, threshold + mean, threshold + low, threshold + high)


def _check_control(mine: Note, judged: list[Run]) -> None:
    expect(mine.control, "there is no control")
    far = _run(mine.threshold, 5, 4, 6)
    for run in (*judged, *mine.control, far):
        says = {bool(mine.holds(run._replace(mask=mask))) for mask in ("right", "published")}
        expect(
            len(says) == 1,
            "your rule reads run.mask: the same numbers with the name of the other mask get "
            "another answer. It says what was trained, not what was measured",
        )
    expect(
        all(run.mask == "right" for run in mine.control) and not mine.holds(far),
        "a control that cannot fail: it is measured where the claim is true, too, or the rule says "
        "yes to everything. Take the runs with the right mask, and let the rule look at the number",
    )
    other = {run.size for run in mine.control} - {run.size for run in judged}
    expect(
        not other,
        f"the control has another size than the judged runs: {', '.join(sorted(other))} beside "
        f"{judged[0].size}. Let them differ in the mask alone",
    )
    expect(
        not any(mine.holds(run) for run in mine.control),
        "the control does not fail: your rule says yes to a run with the right mask",
    )


def _check_rule(mine: Note) -> None:
    below = mine.holds(_run(mine.threshold, -0.1, -0.15, -0.05))
    above = mine.holds(_run(mine.threshold, 0.1, 0.05, 0.15))
    expect(
        below and not above,
        f"the threshold is not that of your rule: around {mine.threshold} it says "
        f"{'yes' if below else 'no'} just below and {'yes' if above else 'no'} just above",
    )
    expect(
        not mine.holds(_run(mine.threshold, -0.1, -1, 1)),
        "your rule looks at the mean alone: a run whose interval crosses the threshold is no proof",
    )


def _check_interval(mine: Note, judged: list[Run]) -> None:
    expect(
        mine.interval is not None,
        "there is no interval: a number without one cannot be told from luck",
    )
    low, high = mine.interval
    expect(low < high, f"an interval has low before high, not ({low}, {high})")
    inside = all(low <= run.low + 0.01 and run.high - 0.01 <= high for run in judged)
    expect(inside, f"the interval [{low}, {high}] does not hold the intervals of your own runs")
    expect(
        high < min(mine.threshold, 0.0),
        f"the interval [{low}, {high}] crosses the value that is claimed ({mine.threshold}), or "
        "zero: the claim is not shown",
    )
