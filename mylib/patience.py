"""Training until a score on development data has not risen for a while ("early stopping")."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .evaluation import Model
from .objectives import Objective
from .probes import eval_mode
from .train import fit


class Patient(NamedTuple):
    """``scores`` after each round; the model is that of round ``best`` (1, 2, ...)."""

    best: int
    scores: list[float]


def fit_patiently(
    model: Model,
    objective: Objective,
    documents: Any,
    score: Callable[[Model], float],
    *,
    patience: int,
    rounds: int,
    steps: int,
    **how: Any,
) -> Patient:
    """`fit` in rounds of ``steps`` steps; stops when ``patience`` rounds brought nothing better.

    ``score(model)``: greater is better; it is asked after every round, in evaluation mode, and
    must not look at what the model will be judged on. At most ``rounds`` rounds; the learning rate
    is planned for all of them. The model ends with the weights of its best round, the first of
    equal ones. ``how``: as in `fit`, without ``checkpoint`` and ``on_step``. Raises `ValueError`
    for settings that make no sense and a score that is NaN.

    Source: Prechelt, "Early Stopping - But When?" (1998); source note 2, "patience=20".
    """
    for name, value in {"patience": patience, "rounds": rounds, "steps": steps}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    if barred := {"checkpoint", "on_step"} & how.keys():
        raise ValueError(f"{sorted(barred)[0]} does not go together with patience")
    scores: list[float] = []
    kept: dict[str, torch.Tensor] = {}

    def look(step: int, model: Model) -> None:
        if step % steps:
            return
        with eval_mode(model):
            found = float(score(model))
        if found != found:
            raise ValueError(f"the score is NaN after round {len(scores) + 1}")
        if not scores or found > max(scores):
            kept.update({name: value.clone() for name, value in model.state_dict().items()})
        scores.append(found)
        if len(scores) - _first_best(scores) >= patience:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        fit(model, objective, documents, rounds * steps, on_step=look, **how)
    model.load_state_dict(kept)
    model.eval()
    return Patient(_first_best(scores), scores)


class _EnoughError(Exception):
    """Leaves `fit` from its own callback."""


def _first_best(scores: Sequence[float]) -> int:
    """The round (1, 2, ...) of the greatest score, the first of equal ones."""
    return scores.index(max(scores)) + 1
