"""Side road A3: a batch shared out, five sealed trainings, and what changes with two processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..distributed import generator
from ..gazette import Gazette
from ..model import GPT, GPTConfig
from ..objectives import Batch, Objective
from . import check, expect

__all__ = ["check_changes", "check_diagnoses", "check_share", "one_process", "sealed_runs"]

COUNTS = (5, 1, 3, 0, 8)  # words asked in each row of the batch of A3.1
WORLDS = (1, 2, 3, 7)


@check("A3.1")
def check_share(share: Callable) -> None:
    """``share(losses, rank, world)`` -> the part of the loss that process ``rank`` computes."""
    for world in WORLDS:
        chance = torch.Generator().manual_seed(world)
        losses = [torch.rand(n, generator=chance).requires_grad_() for n in COUNTS]
        parts = [_part(share, losses, rank, world) for rank in range(world)]
        _check_rows(parts, losses)
        _check_sum(parts, losses)
    for rows, world in ((4, 2), (5, 4), (7, 4)):
        _check_even(share, rows, world)


def _part(share: Callable, losses: list[Tensor], rank: int, world: int) -> Tensor:
    part = share(list(losses), rank, world)
    expect(part is not None, "your function returns None; return the process's part of the loss")
    part = torch.as_tensor(part, dtype=torch.float32) if isinstance(part, int | float) else part
    expect(
        isinstance(part, Tensor) and part.numel() == 1,
        f"return one number, not {type(part).__name__}"
        + (f" of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""),
    )
    expect(
        bool(part.isfinite()),
        f"process {rank} of {world} has no word to ask, and its part is {part.item()}: the mean of "
        "nothing. It must add 0",
    )
    return part


def _check_rows(parts: list[Tensor], losses: list[Tensor]) -> None:
    """Each row is read by exactly one process."""
    readers = [0] * len(losses)
    for part in parts:
        if not part.requires_grad:
            continue
        for row, found in enumerate(torch.autograd.grad(part, losses, allow_unused=True)):
            readers[row] += found is not None and bool(found.abs().sum() > 0)
    asked = [row for row, loss in enumerate(losses) if len(loss)]
    world = len(parts)
    left = [row for row in asked if readers[row] == 0]
    expect(
        not left,
        f"with {world} processes nobody reads row {left and left[0]} of {len(losses)}: the rows "
        "that do not divide evenly are left out (or the loss was detached from its words)",
    )
    expect(
        world == 1 or not all(readers[row] == world for row in asked),
        f"each of {world} processes reads every row: nothing is shared",
    )
    twice = [row for row in asked if readers[row] > 1]
    expect(
        not twice,
        f"with {world} processes row {twice and twice[0]} is read by more than one: a batch that "
        "is padded with copies counts their words twice",
    )


def _check_sum(parts: list[Tensor], losses: list[Tensor]) -> None:
    """The parts add up to the loss of the whole batch."""
    found, world = float(sum(part.detach() for part in parts)), len(parts)
    words = torch.cat(losses).detach()
    wanted, rows = float(words.mean()), [float(row.detach().mean()) for row in losses if len(row)]
    lines = {
        float(words.sum()): "the parts add up to the sum of all losses. By how many words of the "
        "whole batch is it to be divided?",
        world * wanted: f"the parts add up to {world} times the loss. (Multiply by the number of "
        "processes only where somebody averages afterwards, as DDP does. Here they are added)",
        wanted / world: f"the parts add up to a {world}th of the loss: you divide by the number of "
        "processes, and nobody has multiplied by it",
        sum(rows) / len(rows): "a mean of the rows' means: a row that asks one word counts as much "
        "as one that asks eight",
    }
    for value, line in lines.items():
        if not math.isclose(value, wanted, rel_tol=1e-4):
            expect(not math.isclose(found, value, rel_tol=1e-4), line)
    expect(
        math.isclose(found, wanted, rel_tol=1e-4),
        f"with {world} processes the parts do not add up to the mean over all words. Does each "
        "process divide by its own count? A mean of means is another number: the count that "
        "divides is that of the whole batch, the same in every process",
    )


def _check_even(share: Callable, rows: int, world: int) -> None:
    """No process reads two rows more than another. Each row asks one word, so the parts count."""
    one_word_each = [torch.ones(1) for _ in range(rows)]
    parts = [_part(share, one_word_each, rank, world) for rank in range(world)]
    read = [round(rows * float(part)) for part in parts]
    expect(
        max(read) - min(read) <= 1,
        f"of {rows} rows the {world} processes read {', '.join(map(str, read))}. Share the work "
        "evenly, to one row. (If all take chunks of one size, the last ones get what is left: "
        "nothing, or far more)",
    )


# -- A3.2 --------------------------------------------------------------------------------------

CHOICES = ("right", "own denominator", "same noise", "rows left out", "not exchanged")
SEALED = {
    "A": "same noise",
    "B": "own denominator",
    "C": "right",
    "D": "not exchanged",
    "E": "rows left out",
}
Run = Callable[..., list[float]]


def sealed_runs() -> dict[str, Run]:
    """Five trainings by two processes, A to E: ``run(objective, documents, steps=4)`` -> losses.

    All documents are the batch of each step. One run is right, four have a bug each; whoever reads
    on here knows which.
    """
    return {name: _sealed(kind, 2) for name, kind in SEALED.items()}


def one_process(objective: Objective, documents: Sequence[Tensor], steps: int = 4) -> list[float]:
    """The same training by one process, which is right: the loss of each step."""
    return _sealed("right", 1)(objective, documents, steps)


def _sealed(kind: str, world: int) -> Run:
    def run(objective: Objective, documents: Sequence[Tensor], steps: int = 4) -> list[float]:
        if len(documents) < 2:
            raise ValueError(f"two processes need two documents, got {len(documents)}")
        config = GPTConfig(Gazette.load().vocab_size, 32, n_embd=16, n_layer=1, n_head=2)
        first = GPT.init(config, torch.Generator().manual_seed(0))
        models = [copy.deepcopy(first) for _ in range(world)]
        optimizers = [torch.optim.AdamW(model.parameters(), 1e-2) for model in models]
        losses = []
        for step in range(steps):
            parts = _batches(kind, objective, list(documents), step, world)
            losses.append(_step(models, optimizers, objective, parts, kind != "not exchanged"))
        return losses

    return run


def _batches(kind: str, objective: Objective, documents: list, step: int, world: int) -> list:
    """What each process reads in a step."""
    count = len(documents)
    if kind == "rows left out":
        count -= count % world
    cuts = [round(i * count / world) for i in range(world + 1)]
    slices = [slice(*pair) for pair in pairwise(cuts)]
    if kind == "same noise":  # each draws for its own rows, all with the same seed
        rows = [objective.alone(documents[part], 32) for part in slices]
        parts = [objective.passes(each, generator(0, step, "noise"))[0] for each in rows]
    else:
        whole = objective.passes(objective.alone(documents, 32), generator(0, step, "noise"))[0]
        parts = [whole.take(part) for part in slices]
    asked = sum(len(part.targets) for part in parts)
    if kind == "own denominator":
        return [replace(part, denominator=float(world * len(part.targets))) for part in parts]
    return [replace(part, denominator=float(asked)) for part in parts]


def _step(
    models: list[GPT], optimizers: list, objective: Objective, parts: list[Batch], exchange: bool
) -> float:
    """One update in every process; the sum of their losses."""
    losses = [
        objective.loss(model.answers(part), part) / part.denominator
        for model, part in zip(models, parts, strict=True)
    ]
    for loss in losses:
        loss.backward()
    if exchange:
        for same in zip(*(model.parameters() for model in models), strict=True):
            total = torch.stack([weight.grad for weight in same]).sum(0)
            for weight in same:
                weight.grad = total.clone()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(sum(loss.detach() for loss in losses))


MISTAKES = {
    "right": "{name}: it has the losses of one process with every objective and all documents. "
    "Which experiment made you suspect it?",
    "own denominator": "{name}: its losses are those of one process when both halves ask the same "
    "number of words, and else not. Try documents of one length against documents of several",
    "same noise": "{name}: nothing is wrong where nothing is drawn. Compare an objective that "
    "draws holes with one that does not",
    "rows left out": "{name}: it is right when the documents divide evenly. Try four, then five, "
    "all of one length",
    "not exchanged": "{name}: look at its first loss, then at the second. The first step is right "
    "whatever is asked; who moves the weights?",
}


@check("A3.2")
def check_diagnoses(answer: dict[str, str]) -> None:
    """``answer``: for each sealed run A to E one of `CHOICES`."""
    _complete(answer, SEALED, CHOICES, "give one diagnosis for each run, A to E")
    for name, kind in SEALED.items():
        expect(answer[name] == kind, MISTAKES[kind].format(name=name))


# -- A3.3 --------------------------------------------------------------------------------------

CHANGES = {
    "the loss of step 7, to five digits": (
        "same",
        "the loss is one sum over the whole batch, whoever adds it up",
    ),
    "the words hidden in step 7": (
        "same",
        "the holes are drawn for the whole batch from (seed, step), then cut",
    ),
    "documents that a process draws": (
        "same",
        "every process draws the whole batch, to be sure that all draw the same, and reads its "
        "own rows of it",
    ),
    "rows that a process reads": ("half", "that is what is shared: the work on the rows"),
    "memory for weights and optimisers in a process": (
        "same",
        "under DDP every process keeps all weights and all that the optimisers remember. FSDP is "
        "what spreads them",
    ),
    "the noise of dropout": (
        "other",
        "dropout alone is drawn slice by slice, and two processes have other slices than one",
    ),
    "the last digits of the weights": (
        "other",
        "the sums are the same, but they are added in another order, and floating point notices",
    ),
    "bytes that a process sends": (
        "other",
        "one process sends nothing, two send their gradients to each other at every step",
    ),
}


@check("A3.3")
def check_changes(answer: dict[str, str]) -> None:
    """``answer``: for each quantity, "same", "half" or "other"."""
    _complete(answer, CHANGES, ("same", "half", "other"), "give one answer for each quantity")
    for name, (right, line) in CHANGES.items():
        expect(answer[name] == right, f"{name}: {line}")


def _complete(answer: object, names: dict, choices: tuple[str, ...], line: str) -> None:
    expect(isinstance(answer, dict) and set(answer) == set(names), line)
    if Ellipsis in answer.values():
        raise NotImplementedError
    unknown = [each for each in answer.values() if each not in choices]
    expect(not unknown, f"choose among {', '.join(choices)}; found {unknown}")
