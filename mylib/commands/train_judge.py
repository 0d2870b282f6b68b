"""What a model costs on held-out documents, in the units of its objective, and what that means."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation import Model, paid
from ..objectives import (
    AbsorbingDiffusion,
    ForwardBackward,
    NextToken,
    Objective,
    PreviousToken,
)
from .train_data import Material

ROWS = 16  # at once: as many rows of logits are held


@dataclass(frozen=True)
class Judged:
    """Summed -log p of one pass over all judged documents, nats, and the number of its answers."""

    nats: float
    answers: int


def judge(model: Model, objective: Objective, material: Material, row: int) -> list[Judged]:
    """One `Judged` for each pass of the objective; the noise is the same at every call."""
    nats: list[float] = []
    answers: list[int] = []
    for number, _, each in paid(model, objective, material.judged, batch=ROWS, row=row):
        if number == len(nats):
            nats.append(0.0)
            answers.append(0)
        nats[number] += float(each.sum())
        answers[number] += len(each)
    return [Judged(*both) for both in zip(nats, answers, strict=True)]


def meaning(objective: Objective) -> str:
    """Whether the numbers are -log p of the document ("exact"), above it, or something else."""
    if isinstance(objective, NextToken | PreviousToken | ForwardBackward):
        given = isinstance(objective, PreviousToken) and objective.length == "given"
        return "exact, the length given" if given else "exact"
    if isinstance(objective, AbsorbingDiffusion) and objective.weighting == "bound":
        return "an upper bound"
    return "not comparable"


def told(objective: Objective, judged: list[Judged], material: Material) -> list[str]:
    """A line for each pass: nats per token and per character, or per answer."""
    names = ["left to right, ", "right to left, "] if len(judged) == 2 else [""]
    return [
        f"{name}{_one(objective, one, material)} (held out, {meaning(objective)})"
        for name, one in zip(names, judged, strict=True)
    ]


def floor(objective: Objective, material: Material) -> str | None:
    """The entropy, where somebody knows it and the objective's number is comparable with it."""
    if material.floor is None or meaning(objective) not in ("exact", "an upper bound"):
        return None
    return f"floor: {material.floor:.3f} nats per {material.unit} (the entropy)"


def _one(objective: Objective, judged: Judged, material: Material) -> str:
    if meaning(objective) == "not comparable":
        return f"{judged.nats / judged.answers:.3f} nats per answer"
    line = (
        f"{judged.nats / material.words:.3f} nats per token, "
        f"{judged.nats / material.characters:.3f} per character"
    )
    if material.floor is None:
        return line
    return f"{line}, {judged.nats / len(material.judged):.3f} per {material.unit}"
