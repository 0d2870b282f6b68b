"""The state of a training run in one file: weights, optimiser tensors, and JSON in its header.

One safetensors file, written aside and renamed, so that a killed run finds the old state or the
new one. Generators need no saving: everything random is a function of (seed, step). Tensors that
are spread over processes (FSDP) are put together first, so that the file is the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .files import read_safetensors, replacing

FORMAT = "mylib.fit 1"


@dataclass
class History:
    """What `fit` saw: ``loss[i]`` is the loss of step ``steps[i]`` (1, 2, ...), in nats per
    answer on the step's own batch, before its update."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass
class Run:
    """A run as far as it has got; a new one has nothing to load."""

    step: int = 0
    history: History = field(default_factory=History)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def load_model(self, model) -> None:
        if self.tensors:
            model.load_state_dict(_below("model.", self.tensors))

    def load_optimizers(self, optimizers) -> None:
        for o, optimizer in enumerate(optimizers if self.tensors else []):
            full = optimizer.state_dict()
            params = [p for group in optimizer.param_groups for p in group["params"]]
            for name, tensor in _below(f"optimizer.{o}.", self.tensors).items():
                p, key = name.split(".")
                full["state"].setdefault(int(p), {})[key] = _spread(tensor, params[int(p)])
            optimizer.load_state_dict(full)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or put together from all processes, which must all ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def save_run(
    path: Path, model, optimizers, settings: dict, history: History, write: bool = True
) -> None:
    """One file: weights, optimiser tensors, and the rest as JSON in its header.

    Without ``write`` this process only hands out its share of the tensors.
    """
    from safetensors.torch import save_file

    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for o, optimizer in enumerate(optimizers):
        for p, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{o}.{p}.{key}": t for key, t in state.items()}
    for name, tensor in tensors.items():
        full = whole(tensor).detach()
        tensors[name] = full.contiguous().cpu() if write else None
    if not write:
        return
    header = {"step": history.steps[-1], "settings": settings, "history": vars(history)}
    with replacing(path) as aside:
        save_file(tensors, aside, {"format": FORMAT, "run": json.dumps(header)})


def read_run(path: Path, settings: dict) -> Run:
    """The run that a file holds. Raises `ValueError` for a damaged one or one of other settings."""
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
    return Run(step, history, tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _spread(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A state tensor, cut like its parameter where that one is spread over processes."""
    if not hasattr(parameter, "full_tensor") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
