"""Chapter 12: proposals to judge, a regime of one's own, and a note of five lines."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from ..auditing import pattern
from ..gazette import Gazette
from ..leaks import certificate, positions_tell
from ..masks import causal, hops, sliding_window
from ..objectives import AbsorbingDiffusion, Batch, NextToken, Objective, PreviousToken, Rows
from . import NotSolved, check, expect
from .capstone import (
    DEV,
    JUDGED,
    PASSES,
    ROOM,
    SCORE,
    VARIOUS,
    burnt,
    check_capstone,
    judge,
    score,
    trained,
)
from .note import Note, Run, check_note, runs
from .writers import KEPT, EndingFirst, Regime, compose, evening

__all__ = [
    "DEV",
    "JUDGED",
    "KEPT",
    "PASSES",
    "SCORE",
    "VARIOUS",
    "EndingFirst",
    "NotSolved",
    "Note",
    "Proposal",
    "Regime",
    "Run",
    "burnt",
    "check_capstone",
    "check_note",
    "check_verdict",
    "compose",
    "evening",
    "judge",
    "positions_tell",
    "runs",
    "score",
    "sealed_proposals",
    "trained",
]

# -- 12.1 --------------------------------------------------------------------------------------


class OneLine(NextToken):
    """Next token on packed rows, and no fence between their documents."""

    def passes(self, rows: Rows, generator: torch.Generator) -> tuple[Batch]:
        (batch,) = super().passes(rows, generator)
        return (replace(batch, mask=causal),)


@dataclass(frozen=True)
class Proposal:
    """A regime that somebody would like to train. All make one promise: no answer is told, nor the
    length of the page; stories do not see each other; the pages are drawn as the grammar draws.

    ``rows``: four documents in the layout of the proposal; ``together``: how many words the
    sampler draws in one pass, each from its own list of chances.
    """

    name: str
    says: str
    objective: Objective = field(repr=False)
    layers: int
    together: int = 1
    packed: bool = False

    @property
    def rows(self) -> Rows:
        documents = Gazette.load("small").sample(4, torch.Generator().manual_seed(12))
        return Rows.packed(documents, 96) if self.packed else self.objective.alone(documents, ROOM)


DESK = (
    Proposal("inside out", "The end is read before the beginning.", EndingFirst(), 3),
    Proposal("leapfrog", "Nobody sees the word that is asked.", NextToken(causal | hops(2)), 2),
    Proposal("inside out, again", "The page keeps its numbers.", EndingFirst("page"), 3),
)
STRIDES = sliding_window(1, 0) | hops(3)  # three ahead and twice one back: the next word
LATE = (
    Proposal("one line", "Stories in one row, no room lost.", OneLine(), 2, packed=True),
    Proposal("photograph", "All words at once.", AbsorbingDiffusion(), 3, together=32),
    Proposal("fenced", "Stories in one row, a fence between.", NextToken(), 2, packed=True),
    Proposal("any order", "Everybody sees everybody.", AbsorbingDiffusion(), 3),
    Proposal("three strides", "It looks one back and three ahead.", NextToken(STRIDES), 3),
    Proposal("reversed", "Backward, counted from the left.", PreviousToken("start"), 1),
)
REASONS = ("positions", "packing", "decoding")


def sealed_proposals() -> list[Proposal]:
    """The three proposals on the desk."""
    return list(DESK)


@check("12.1")
def check_verdict(verdict: Callable[[Proposal], object]) -> None:
    """``verdict(proposal)`` -> None (accept), the path of a leak (a tuple), or one of `REASONS`."""
    says = {p.name: _word(verdict(p), p) for p in (*DESK, *LATE)}
    expect(
        any(said is not None for said in says.values()),
        "you accept everything, also what leaks. Ask certificate(...) first",
    )
    expect(
        says["leapfrog"] is not None,
        "leapfrog: in one layer no answer is told, and it has two (proposal.layers). You judge by "
        "one layer only",
    )
    expect(says["leapfrog"] == "path", "leapfrog: an answer reaches its question; give the path")
    expect(
        says["three strides"] == "path",
        "three strides (by the late post): in two layers no answer is told, and it has three. "
        "Judge each proposal at its own depth (proposal.layers), and give the path",
    )
    expect(
        says["inside out"] is None,
        f"inside out: you refuse it ({says['inside out']}). It looks odd, and no hidden answer "
        "reaches its question: what is shown first is not asked",
    )
    for name in ("inside out, again", "reversed"):
        expect(
            says[name] is not None,
            f"{name}: the mask is right, and you forget the positions. What does the position of "
            "the last word tell a reader who has seen no other?",
        )
        expect(says[name] == "positions", f"{name}: the reason is not {says[name]!r}")
    expect(
        says["one line"] is not None,
        "one line (by the late post): you forget packing. Several stories stand in a row, and one "
        "reads the other: its mask has no documents(...)",
    )
    expect(
        says["photograph"] is not None,
        f"photograph (by the late post): you forget decoding. {LATE[1].together} words are drawn "
        "in one pass, and words of one pass do not know of each other",
    )
    for name in ("fenced", "any order"):
        expect(
            says[name] is None,
            f"{name} (by the late post): you refuse a sound proposal ({says[name]}). A packed row "
            "with a fence is fine, and an open mask, too, where what is asked is hidden",
        )
    for name, reason in (("one line", "packing"), ("photograph", "decoding")):
        expect(says[name] == reason, f"{name}: the reason is not {says[name]!r}")


def _word(said: object, proposal: Proposal) -> str | None:
    """A verdict as a word; a path must be one, layer by layer."""
    if said is None or said in REASONS:
        return said
    expect(
        isinstance(said, tuple),
        f"{proposal.name}: answer None, a path (a tuple) or one of {REASONS}, not {said!r}",
    )
    leaks = certificate(proposal.objective, proposal.rows, proposal.layers).leaks
    expect(leaks, f"{proposal.name}: you give a path, and no hidden answer reaches its question")
    (batch,) = proposal.objective.passes(proposal.rows, torch.Generator().manual_seed(0))
    seen = pattern(batch.mask, batch.inputs.shape[1], len(batch.inputs)).any(0)
    seen = seen | torch.eye(len(seen), dtype=torch.bool)
    ends = {(leak.output, leak.input) for leak in leaks}
    steps = all(bool(seen[a, b]) for a, b in itertools.pairwise(said))
    expect(
        len(said) == proposal.layers + 1 and steps and (said[0], said[-1]) in ends,
        f"{proposal.name}: {said} is no path of a leak: one position per layer boundary, from the "
        "output that is asked down to the input that shows its answer",
    )
    return "path"
