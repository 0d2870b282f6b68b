"""The state of a training run in one file: weights, optimiser tensors, and JSON in its header.

One safetensors file, written aside and renamed, so that a killed run finds the old state or the
new one. Generators need no saving: everything random is a function of (seed, step). Tensors that
are spread over processes (FSDP) are put together first, so that the file is the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .files import alone, read_safetensors, write_safetensors

FORMAT = "mylib.fit 2"
STATES = ({"momentum"}, {"step", "exp_avg", "exp_avg_sq"})  # of Muon and AdamW for a parameter


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
    path: Path | None = None

    def check(self, model, optimizers) -> None:
        """Raise `ValueError` with the file's name for tensors that are not these models' own.

        Before anything is loaded: a model that cannot go on stays as it was.
        """
        wanted = {f"model.{name}": _form(t) for name, t in model.state_dict().items()}
        for o, optimizer in enumerate(optimizers):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            for p, parameter in enumerate(params):
                prefix = f"optimizer.{o}.{p}."
                keys = {n.removeprefix(prefix) for n in self.tensors if n.startswith(prefix)}
                for key in (key for state in STATES if state & keys for key in state):
                    wanted[prefix + key] = "float ()" if key == "step" else _form(parameter)
        found = {name: _form(tensor) for name, tensor in self.tensors.items()}
        for name in sorted(found.keys() | wanted) if self.tensors else ():
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"{self.path}: a damaged checkpoint: {name:.99} is {found.get(name, 'missing')}"
                    f", expected {wanted.get(name, 'no such tensor')}"
                )

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

    Without ``write`` this process only hands out its share of the tensors. Another process may
    have written the file meanwhile: the same run further on stays as it is, and `ValueError` for
    another run's, which would be lost.
    """
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
    with alone(path.parent):  # from the look at what stands there to the rename
        if not _stands(path, settings, history.steps[-1]):
            write_safetensors(path, tensors, {"format": FORMAT, "run": json.dumps(header)})


def _stands(path: Path, settings: dict, step: int) -> bool:
    """Whether the file holds this run at this step or later; `ValueError` if it holds another."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            run = json.loads(file.metadata()["run"])
        before, reached = dict(run["settings"]), int(run["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return False  # none, or none that could be gone on with
    _refuse_other(path, before, settings)
    return reached >= step


def read_run(path: Path, settings: dict) -> Run:
    """The run that a file holds. Raises `ValueError` for a damaged one or one of other settings."""
    tensors, header = read_safetensors(path, FORMAT)
    try:
        run = json.loads(header["run"])
        step, history, before = run["step"], History(**run["history"]), dict(run["settings"])
        _check_history(step, history)
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: a damaged checkpoint: {error!r:.300}") from error
    _refuse_other(path, before, settings)
    if step > settings["steps"]:
        raise ValueError(f"{path}: a damaged checkpoint: step {step} of {settings['steps']}")
    return Run(step, history, tensors, Path(path))


def _refuse_other(path: Path, before: dict, settings: dict) -> None:
    wanted = json.loads(json.dumps(settings))
    if differ := [key for key in wanted if before.get(key) != wanted[key]]:
        raise ValueError(
            f"{path} belongs to another run: "
            + "; ".join(f"{k} was {before.get(k)!s:.500}, now {wanted[k]}" for k in differ)
        )


def _check_history(step: int, history: History) -> None:
    """Raise `ValueError` or `TypeError` unless there is one finite loss for each step so far."""
    if type(step) is not int or step < 1 or history.steps != list(range(1, step + 1)):
        raise ValueError(f"step {step!r:.99} after the steps {history.steps!r:.99}")
    if len(history.loss) != step or not all(map(math.isfinite, history.loss)):
        raise ValueError(f"{step} steps with the losses {history.loss!r:.99}")


def _form(tensor: Tensor) -> str:
    """What a saved tensor must have in common with the one it is for."""
    return f"{'float' if tensor.is_floating_point() else tensor.dtype} {tuple(tensor.shape)}"


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _spread(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A state tensor, cut like its parameter where that one is spread over processes."""
    if not hasattr(parameter, "full_tensor") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
