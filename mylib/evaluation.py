"""What a trained model answers, and what the answers cost: document by document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .model import GPTConfig
from .objectives import Batch, Objective
from .objectives.base import in_full
from .probes import eval_mode


class Model(Protocol):
    """What `fit` trains and these functions ask: a `GPT`, or a head of `mylib.heads` on one."""

    config: GPTConfig
    training: bool

    def answers(self, batch: Any) -> Tensor: ...


def evaluate(
    model: Model,
    objective: Objective,
    documents: Sequence,
    generator: torch.Generator | None = None,
    batch: int = 64,
    row: int | None = None,
) -> Tensor:
    """Summed -log p of each document under an objective, nats, float64 (number of documents,).

    One document a row, so that the result can be paired with an oracle's on the same documents.
    Passes are added; their weights count, discounts of an objective's loss do not. ``row``: tokens
    of a row; by default the longest document of a batch. Raises `ValueError` where an objective
    needs a canvas and no ``row`` says how large it is.
    """
    # A long document's nats lie thousands of times above a word's: float32 would lose their ends.
    total = torch.zeros(len(documents), dtype=torch.float64)
    for _, document, nats in paid(model, objective, documents, generator, batch, row):
        total.index_add_(0, document, nats)
    return total


def evaluate_passes(
    model: Model, objective: Objective, documents: Sequence, batch: int = 64
) -> list[Tensor]:
    """`evaluate` for each pass of an objective by itself: one tensor (documents,) a pass."""
    found: list[Tensor] = []
    for number, document, nats in paid(model, objective, documents, None, batch, None):
        if number == len(found):
            found.append(torch.zeros(len(documents), dtype=torch.float64))
        found[number].index_add_(0, document, nats)
    return found


def paid(
    model: Model,
    objective: Objective,
    documents: Sequence,
    generator: torch.Generator | None = None,
    batch: int = 64,
    row: int | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of every pass over some of the documents: its number among the objective's passes, the
    document of each answer, int (N,), and what it cost, weighted, nats, float64 (N,)."""
    for start, number, each in asked_passes(model, objective, documents, generator, batch, row):
        nll = answer_nll(model, objective, each) * each.weights
        yield number, start + each.asked.nonzero()[:, 0], nll.double()


@torch.no_grad()
def predict(
    model: Model,
    objective: Objective,
    documents: Sequence,
    generator: torch.Generator | None = None,
    batch: int = 64,
    row: int | None = None,
) -> list[Tensor]:
    """Logits of all asked outputs of each document: a list of float tensors (asked, K).

    One document a row, in the order of the documents and of their outputs; for an objective that
    makes one pass. Arguments and errors as those of `evaluate`.
    """
    found: list[Tensor] = []
    for _, number, each in asked_passes(model, objective, documents, generator, batch, row):
        if number:
            raise ValueError(f"{objective} makes several passes: which one is to be predicted?")
        moved = each.to(next(model.parameters()).device)
        found += in_full(model.answers(moved)).cpu().split(each.asked.sum(1).tolist())
    return found


@torch.no_grad()
def answer_nll(model: Model, objective: Objective, batch: Batch) -> Tensor:
    """-log p of every answer of one pass, nats (N,), on the CPU; float64 from a float64 model."""
    moved = batch.to(next(model.parameters()).device)
    return objective.nll(model.answers(moved), moved).cpu()


def asked_passes(
    model: Model,
    objective: Objective,
    documents: Sequence,
    generator: torch.Generator | None = None,
    batch: int = 64,
    row: int | None = None,
) -> Iterator[tuple[int, int, Batch]]:
    """Every pass over the documents, one a row: the number of its first document, which of the
    objective's passes it is, and the batch. The model is in evaluation mode meanwhile."""
    noise = torch.Generator().manual_seed(0) if generator is None else generator
    with eval_mode(model):
        for start in range(0, len(documents), batch):
            rows = objective.alone(list(documents[start : start + batch]), row)
            for number, each in enumerate(objective.passes(rows, noise)):
                yield start, number, each
