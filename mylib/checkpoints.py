"""The state of a training run in one file: weights, optimiser tensors, and JSON in its header.

One safetensors file, written aside and renamed, so that a killed run finds the old state or the
new one. Generators need no saving: everything random is a function of (seed, step).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from .files import read_safetensors, replacing

FORMAT = "mylib.fit 1"


@dataclass
class History:
    """What `fit` saw: ``loss[i]`` is the loss of step ``steps[i]`` (1, 2, ...), in nats per
    answer on the step's own batch, before its update."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


def save_run(path: Path, model, optimizers, step: int, settings: dict, history: History) -> None:
    """One file: weights, optimiser tensors, and the rest as JSON in its header."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for o, optimizer in enumerate(optimizers):
        for p, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{o}.{p}.{key}": t for key, t in state.items()}
    header = {"step": step, "settings": settings, "history": vars(history)}
    with replacing(path) as aside:
        tensors = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
        save_file(tensors, aside, {"format": FORMAT, "run": json.dumps(header)})


def restore_run(path: Path, model, optimizers, settings: dict) -> tuple[int, History]:
    tensors, header = read_safetensors(path, FORMAT)
    try:
        run = json.loads(header["run"])
        step, history, before = run["step"], History(**run["history"]), dict(run["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a damaged checkpoint: {error!r}") from error
    wanted = json.loads(json.dumps(settings))
    if differ := [key for key in wanted if before.get(key) != wanted[key]]:
        raise ValueError(
            f"{path} belongs to another run: "
            + "; ".join(f"{k} was {before.get(k)}, now {wanted[k]}" for k in differ)
        )
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    for o, optimizer in enumerate(optimizers):
        full = optimizer.state_dict()
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(f"optimizer.{o}.")
            if kind == "" and rest:
                p, key = rest.split(".")
                full["state"].setdefault(int(p), {})[key] = tensor
        optimizer.load_state_dict(full)
    return step, history
