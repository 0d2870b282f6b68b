"""Training: one call for one core, one GPU and many machines.

`fit` draws documents, lays them out in rows, lets the objective make its passes and follows the
gradient, with Hugging Face Accelerate underneath (`mylib.distributed`). Everything random is a
function of (seed, step), drawn for the global batch and then cut by process: the number of
processes and of accumulation steps changes nothing but rounding, and a killed run resumes to the
same weights. Dropout alone depends on the number of slices, processes x accumulation steps.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .checkpoints import History, Run, read_run, save_run, whole
from .compiling import compiled
from .distributed import Asked, accelerator_for, agree, backward, generator, is_sharded, update
from .evaluation import Model, answer_nll, evaluate, predict
from .muon import Muon
from .objectives import Objective

__all__ = ["History", "answer_nll", "evaluate", "fit", "make_optimizers", "predict", "schedule"]


class Source(Protocol):
    """Anything that documents can be drawn from: a `Gazette`, a `datasets.Stream`, ..."""

    def sample(self, n: int, generator: torch.Generator) -> list[Tensor]: ...


def fit(
    model: Model,
    objective: Objective,
    documents: Source | Sequence[Tensor],
    steps: int,
    *,
    batch: int = 64,
    row: int | None = None,
    learning_rate: float = 1e-2,
    warmup: float = 0.05,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    accumulate: int = 1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    precision: str | None = None,
    compile: bool = False,
    progress: bool = True,
    on_step: Callable[[int, Model], None] | None = None,
) -> History:
    """Train ``model`` in place for ``steps`` steps of ``batch`` documents; returns the history.

    ``model``: a `GPT`, or one with a head (`mylib.heads`). ``documents``: something with
    ``sample(n, generator)``, or a sequence of what the objective takes (1-D tensors, `Tagged`,
    ...), which is read in a new order every epoch. ``row``: tokens of a packed row (by default the
    model's positions). The matrices of the blocks are trained by Muon, embeddings, norms, biases
    and heads by AdamW; the learning rate rises over the first ``warmup`` share of the steps and
    falls along a cosine to zero (a constant one costs four times the excess, a line about the
    same: ``data/results/optimiser.csv``). ``clip``: greatest gradient norm.
    ``accumulate``: slices a process cuts its rows into when memory is short. ``precision``:
    Accelerate's ``mixed_precision`` ("no", "bf16", "fp16"), by default what the launcher says, else
    "no". ``compile``: torch.compile for the blocks of a `GPT` (`mylib.compiling`).

    With ``checkpoint`` (a file name) the state is saved every ``save_every`` steps and at the end,
    by the first process, and a run that finds its own checkpoint goes on from there. The model
    trains on the device it is on, or on those that ``accelerate launch`` hands out; ``batch`` is
    that of all processes together. ``on_step(step, model)`` is called after every step (1, 2, ...),
    in every process; it may look at the model and not change it.

    Under FSDP (version 2) the training copy is spread over the processes, AdamW trains all of it
    (Muon needs whole matrices) and ``on_step`` is refused; checkpoints have the same form, and
    ``model`` gets the weights at the end.

    Raises `ValueError` for settings that make no sense, a loss that is not finite, a checkpoint of
    another run or a damaged one, and what `mylib.distributed` and `mylib.compiling` refuse.
    """
    for name, value in {"steps": steps, "batch": batch, "accumulate": accumulate}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    from tqdm.auto import tqdm

    accelerator = accelerator_for(model, precision)
    sharded, main = is_sharded(accelerator), accelerator.is_main_process
    if sharded and on_step is not None:
        raise ValueError("on_step would see none of the training under FSDP: no process has it all")
    settings = {
        "objective": repr(objective),
        "config": dataclasses.asdict(model.config),
        **dict(steps=steps, batch=batch, row=row, learning_rate=learning_rate, warmup=warmup),
        **dict(weight_decay=weight_decay, clip=clip, seed=seed),
        "optimizers": "AdamW" if sharded else "Muon, AdamW",
    }
    if model.config.dropout:  # its noise is drawn slice by slice, and by other code if compiled
        settings |= {"slices": accelerator.num_processes * accumulate, "compile": compile}
    run, path = Run(), None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        run = read_run(path, settings)
    agree(accelerator, run.step)
    trained = copy.deepcopy(model) if sharded else model
    make = _adamw_alone if sharded else make_optimizers
    optimizers = make(trained, learning_rate, weight_decay)
    run.check(trained, optimizers)
    run.load_model(trained)
    history, row = run.history, model.config.n_positions if row is None else row
    bar = dict(total=steps, disable=not (progress and main), leave=False)
    with contextlib.ExitStack() as stack:
        stack.callback(model.eval)
        if compile:
            stack.enter_context(compiled(trained))
        net, *optimizers = accelerator.prepare(Asked(trained), *optimizers)
        run.load_optimizers(optimizers)
        net.train()
        for step in tqdm(range(run.step, steps), initial=run.step, **bar):
            for group in (group for o in optimizers for group in o.param_groups):
                group["lr"] = learning_rate * schedule(step, steps, warmup)
            rows = objective.rows(draw(documents, batch, seed, step), row)
            passes = objective.make(rows, generator(seed, step, "noise"))
            loss = backward(net, objective, passes, accelerator, accumulate, (seed, step))
            norm = float(whole(accelerator.clip_grad_norm_(net.parameters(), clip)))
            # A scaler (fp16) skips a step whose gradient is not finite.
            for name, value in {
                "loss": loss,
                "gradient": 0 if accelerator.scaler else norm,
            }.items():
                if not math.isfinite(value):
                    where = f"step {step + 1} of {objective}"
                    raise ValueError(f"the {name} is {value} at {where}; nothing saved")
            update(accelerator, optimizers, norm)
            history.steps.append(step + 1)
            history.loss.append(loss)
            if path is not None and (step + 1 == steps or (step + 1) % save_every == 0):
                if main or sharded:
                    save_run(path, trained, optimizers, settings, history, write=main)
                accelerator.wait_for_everyone()
            if on_step is not None:
                on_step(step + 1, model)
    if sharded:
        model.load_state_dict({name: whole(t) for name, t in trained.state_dict().items()})
    return history


def make_optimizers(model: Model, learning_rate: float, weight_decay: float) -> list:
    """Muon for the matrices of the blocks, AdamW for all other parameters.

    Muon's updates are scaled to AdamW's size, so that one learning rate serves both.
    """
    blocks = re.compile(r"(^|\.)h\.\d+\.")  # a GPT's, alone or under a head
    learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in learned if blocks.search(n) and p.dim() == 2]
    inside = {id(p) for p in matrices}
    others = [p for _, p in learned if id(p) not in inside]
    adamw = _adamw(others, learning_rate, weight_decay)
    if not matrices:
        return [adamw]
    return [Muon(matrices, learning_rate, weight_decay=weight_decay), adamw]


def _adamw_alone(model: Model, learning_rate: float, weight_decay: float) -> list:
    learned = [p for p in model.parameters() if p.requires_grad]
    return [_adamw(learned, learning_rate, weight_decay)]


def _adamw(parameters: list[Tensor], learning_rate: float, weight_decay: float):
    return torch.optim.AdamW(parameters, learning_rate, (0.9, 0.98), weight_decay=weight_decay)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at ``step`` (0, 1, ...): up linearly, then down along a cosine.

    >>> [round(schedule(step, 6, warmup=1 / 3), 2) for step in range(6)]
    [0.5, 1.0, 0.9, 0.65, 0.35, 0.1]
    """
    rise = max(1, round(warmup * steps))
    done = max(0, step + 1 - rise) / max(1, steps - rise + 1)
    return min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * done))


def draw(documents: Source | Sequence[Tensor], n: int, seed: int, step: int) -> list[Tensor]:
    """The ``n`` documents of a step."""
    if hasattr(documents, "sample"):
        return documents.sample(n, generator(seed, step, "documents"))
    if len(documents) == 0:
        raise ValueError("no documents to train on")
    found: list[Tensor] = []
    for index in range(step * n, (step + 1) * n):
        epoch, place = divmod(index, len(documents))
        if not found or place == 0:
            order = torch.randperm(len(documents), generator=generator(seed, epoch, "epoch"))
        found.append(documents[int(order[place])])
    return found
