"""Training: one call for one core, one GPU and many machines.

`fit` draws documents, lays them out in rows, lets the objective make its passes and follows the
gradient, with Hugging Face Accelerate underneath. Everything random is a function of
(seed, step), drawn for the global batch and then cut by process: the number of processes and of
accumulation steps changes nothing, and a killed run resumes to the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .checkpoints import History, restore_run, save_run
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
    precision: str = "no",
    progress: bool = True,
    on_step: Callable[[int, Model], None] | None = None,
) -> History:
    """Train ``model`` in place for ``steps`` steps of ``batch`` documents; returns the history.

    ``model``: a `GPT`, or one with a head (`mylib.heads`). ``documents``: something with
    ``sample(n, generator)``, or a sequence of what the objective takes (1-D tensors, `Tagged`,
    ...), which is read in a new order every epoch. ``row``: tokens of a packed row (by default the
    model's positions). The matrices of the blocks are trained by Muon, embeddings, norms, biases
    and heads by AdamW; the learning rate rises over the first ``warmup`` share of the steps and
    falls along a cosine to zero (``data/results/optimiser.csv``). ``clip``: greatest gradient norm.
    ``accumulate``: slices a batch is cut into when memory is short. ``precision``: Accelerate's
    ``mixed_precision`` ("no", "bf16", ...).

    With ``checkpoint`` (a file name) the state is saved every ``save_every`` steps and at the end,
    and a run that finds its own checkpoint goes on from there. The model trains on the device it
    is on, or on those that ``accelerate launch`` hands out. ``on_step(step, model)`` is called
    after every step (1, 2, ...), in every process; it may look at the model and not change it.

    Raises `ValueError` for settings that make no sense, a loss that is not finite, and a
    checkpoint of another run or a damaged one.
    """
    for name, value in {"steps": steps, "batch": batch, "accumulate": accumulate}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    launched = "LOCAL_RANK" in os.environ
    on_cpu = next(model.parameters()).device.type == "cpu"
    accelerator = Accelerator(cpu=on_cpu and not launched, mixed_precision=precision)
    settings = {
        "objective": repr(objective),
        "config": dataclasses.asdict(model.config),
        **dict(steps=steps, batch=batch, row=row, learning_rate=learning_rate, warmup=warmup),
        **dict(weight_decay=weight_decay, clip=clip, seed=seed),
    }
    optimizers = make_optimizers(model, learning_rate, weight_decay)
    start, history = 0, History()
    if checkpoint is not None and Path(checkpoint).exists():
        start, history = restore_run(Path(checkpoint), model, optimizers, settings)
    net, *optimizers = accelerator.prepare(_Asked(model), *optimizers)
    net.train()
    row = model.config.n_positions if row is None else row
    quiet = not progress or not accelerator.is_main_process
    for step in tqdm(range(start, steps), initial=start, total=steps, disable=quiet, leave=False):
        rate = learning_rate * schedule(step, steps, warmup)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        rows = objective.rows(draw(documents, batch, seed, step), row)
        passes = objective.make(rows, generator(seed, step, "noise"))
        loss = _accumulated_loss(net, objective, passes, accelerator, accumulate, (seed, step))
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step + 1} of {objective}; nothing saved")
        norm = float(accelerator.clip_grad_norm_(net.parameters(), clip))
        if not math.isfinite(norm) and accelerator.scaler is None:  # a scaler skips such steps
            raise ValueError(f"the gradient is {norm} at step {step + 1}; nothing saved")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        history.steps.append(step + 1)
        history.loss.append(loss)
        last = step + 1 == steps
        if checkpoint is not None and (last or (step + 1) % save_every == 0):
            if accelerator.is_main_process:
                save_run(Path(checkpoint), model, optimizers, step + 1, settings, history)
            accelerator.wait_for_everyone()
        if on_step is not None:
            on_step(step + 1, model)
    model.eval()
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
    adamw = torch.optim.AdamW(others, learning_rate, (0.9, 0.98), weight_decay=weight_decay)
    if not matrices:
        return [adamw]
    return [Muon(matrices, learning_rate, weight_decay=weight_decay), adamw]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at ``step`` (0, 1, ...): up linearly, then down along a cosine.

    >>> [round(schedule(step, 6, warmup=1 / 3), 2) for step in range(6)]
    [0.5, 1.0, 0.9, 0.65, 0.35, 0.1]
    """
    rise = max(1, round(warmup * steps))
    done = max(0, step + 1 - rise) / max(1, steps - rise + 1)
    return min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * done))


def generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """The generator of one step and one purpose: a function of its arguments alone."""
    number = int.from_bytes(f"{purpose}:{seed}:{step}".encode(), "big") % (2**61 - 1)
    return torch.Generator().manual_seed(number)


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


class _Asked(torch.nn.Module):
    """Logits of the asked outputs only, through ``forward``, where DDP and autocast listen."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        return self.model.answers(batch)


def _accumulated_loss(net, objective, passes, accelerator, accumulate: int, key) -> float:
    """Backward through every slice of every pass that this process owns; the global loss."""
    world, rank = accelerator.num_processes, accelerator.process_index
    total = torch.zeros((), device=accelerator.device)
    for number, whole in enumerate(passes):
        pieces = world * accumulate
        edges = [round(i * len(whole.inputs) / pieces) for i in range(pieces + 1)]
        for turn in range(accumulate):
            piece = rank * accumulate + turn
            part = whole.take(slice(edges[piece], edges[piece + 1]))
            last = number == len(passes) - 1 and turn == accumulate - 1
            if part is None:
                if world > 1:
                    raise ValueError(
                        f"a batch of {len(whole.inputs)} rows is too small for {world} processes "
                        f"with {accumulate} slices each: process {rank} has nothing to do"
                    )
                continue
            part = part.to(accelerator.device)
            with _dropout(net, (*key, number, piece)), _sync(accelerator, net, last):
                loss = objective.loss(net(part), part) / whole.denominator
                # DDP averages over processes; the loss is a sum over them.
                accelerator.backward(loss * world)
            total += loss.detach()
    return float(accelerator.reduce(total, reduction="sum"))


def _sync(accelerator, net, last: bool):
    return contextlib.nullcontext() if last else accelerator.no_sync(net)


def _dropout(net, key):
    """Dropout draws from torch's global generator; lend it one that depends on the key alone."""
    model = getattr(net, "module", net).model
    if model.config.dropout == 0:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def lent():
        with torch.random.fork_rng():
            torch.manual_seed(generator(*key[:2], f"dropout{key[2:]}").initial_seed())
            yield

    return lent()
