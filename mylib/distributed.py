"""One training step in one process or in many; the sums are the same.

Every process makes the passes of the whole batch and reads its own rows of them. The loss of a
process is its share of the sum, so gradients are added, not averaged. A process that owns no
answer reads a row of another one and counts nothing: all take part in every exchange.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .evaluation import Model
from .model import GPT
from .objectives import Batch, Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

PATIENCE = timedelta(hours=3)  # while the first process evaluates, the others wait


class Asked(nn.Module):
    """Logits of the asked outputs only, through ``forward``, where DDP and autocast listen."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        return self.model.answers(batch)


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0


def world_size() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def accelerator_for(model: Model, precision: str | None) -> Accelerator:
    """Accelerate for this model, with the processes that a launcher started.

    Raises `ValueError` where the launched processes do not find each other (each would train by
    itself), for a precision that the device does not have, and for FSDP 1.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    AcceleratorState._reset_state(reset_partial_state=True)  # a run before this one had its own
    ours = any(isinstance(module, GPT) for module in model.modules())
    handlers = [
        InitProcessGroupKwargs(timeout=PATIENCE),
        # Models of transformers may have parts that no objective asks, such as a pooler.
        DistributedDataParallelKwargs(find_unused_parameters=not ours),
    ]
    accelerator = Accelerator(
        cpu=_on_cpu(model), mixed_precision=precision, kwargs_handlers=handlers
    )
    if accelerator.num_processes != world_size():
        raise ValueError(
            f"{world_size()} processes were launched, Accelerate sees {accelerator.state}"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would train in float32 and say nothing.
        raise ValueError("fp16 is for GPUs; a CPU has bf16")
    if is_sharded(accelerator) and not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 flattens the parameters; say fsdp_version: 2 (--fsdp_version 2)")
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds a whole parameter (FSDP)."""
    return accelerator.distributed_type == "FSDP"


def agree(accelerator: Accelerator, start: int) -> None:
    """Raise `ValueError` in every process unless all begin at the same step."""
    starts = accelerator.gather(torch.tensor([start], device=accelerator.device)).tolist()
    if len(set(starts)) > 1:
        raise ValueError(
            f"the processes found different checkpoints, of steps {starts}: the file must lie "
            "where all machines can read it"
        )


def backward(
    net: nn.Module,
    objective: Objective,
    passes: Iterable[Batch],
    accelerator: Accelerator,
    accumulate: int,
    key: tuple[int, int],
) -> float:
    """Backward through every slice of every pass that this process owns; the global loss."""
    world, first = accelerator.num_processes, accelerator.process_index * accumulate
    passes = tuple(passes)
    total = 0.0
    for number, whole in enumerate(passes):
        for piece in range(first, first + accumulate):
            part, counts = _piece(whole, piece, world * accumulate), 1.0
            if part is None and world == 1:
                continue
            if part is None:
                part, counts = _one_row(whole), 0.0
            last = number == len(passes) - 1 and piece == first + accumulate - 1
            part = part.to(accelerator.device)
            noise = _dropout(net, accelerator.device, (*key, number, piece))
            with noise, _sync(accelerator, net, last):
                loss = counts * objective.loss(net(part), part) / whole.denominator
                # DDP and FSDP average over processes; the loss is a sum over them.
                accelerator.backward(loss * world)
            total = total + loss.detach()  # of its own dtype, so that nothing of it is rounded
    return float(accelerator.reduce(total, reduction="sum"))


def update(accelerator: Accelerator, optimizers: list, norm: float) -> None:
    """Step all optimisers; under a gradient scaler (fp16) all or none, and the scale is adapted.

    ``norm`` is that of all gradients. Accelerate's own ``step`` adapts the scale after each
    optimiser, so that the second one would divide its gradients by it again.
    """
    scaler = accelerator.scaler
    for optimizer in optimizers:
        if scaler is None:
            optimizer.step()
        elif norm == norm and abs(norm) != float("inf"):
            scaler.step(getattr(optimizer, "optimizer", optimizer))
        optimizer.zero_grad()
    if scaler is not None:
        scaler.update()


def _on_cpu(model: Model) -> bool:
    """A launched process takes the device it is given, any other stays where the model is."""
    if "LOCAL_RANK" not in os.environ:
        return next(model.parameters()).device.type == "cpu"
    forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    # Without cpu=True, Accelerate would let each process train alone where there is no GPU.
    found = torch.accelerator.current_accelerator(check_available=True)
    return forced or found is None or found.type == "mps"


def _piece(whole: Batch, piece: int, pieces: int) -> Batch | None:
    start, stop = (round(i * len(whole.inputs) / pieces) for i in (piece, piece + 1))
    return whole.take(slice(start, stop))


def _one_row(whole: Batch) -> Batch:
    row = int(whole.asked.any(1).nonzero()[0])
    return whole.take(slice(row, row + 1))


def _sync(accelerator: Accelerator, net: nn.Module, last: bool):
    return contextlib.nullcontext() if last else accelerator.no_sync(net)


def _dropout(net: nn.Module, device: torch.device, key: tuple[int, ...]):
    """Dropout draws from torch's global generator; lend it one that depends on the key alone."""
    model = getattr(net, "module", net).model
    if model.config.dropout == 0:
        return contextlib.nullcontext()
    return _lent(generator(*key[:2], f"dropout{key[2:]}").initial_seed(), device)


@contextlib.contextmanager
def _lent(seed: int, device: torch.device):
    gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if gpu else []):
        torch.default_generator.manual_seed(seed)
        if gpu:  # its own alone: torch.manual_seed would move those of all GPUs
            torch.cuda.manual_seed(seed)
        yield


def generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """The generator of one step and one purpose: a function of its arguments alone.

    torch's generator on the CPU heeds the low 32 bits of its seed and no others, so these must tell
    the names apart. Those of `_first_streams` did so by themselves.
    """
    name = f"{purpose}:{seed}:{step}".encode()
    if _first_streams(seed, step, purpose):
        number = int.from_bytes(name, "big") % (2**61 - 1)
    else:
        number = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big")
    return torch.Generator().manual_seed(number)


def _first_streams(seed: int, step: int, purpose: str) -> bool:
    """Where the name's last bytes, all that the first version of `generator` used, are no other's.

    The shipped models and stored results are of these streams, so they stay.
    """
    short = step < 10_000 if seed == 0 else 0 < seed < 10 and step < 100
    return short and purpose in ("documents", "noise", "epoch", "dropout(0, 0)")
