"""The situations in which a model is audited: a text alone, in a batch, and beside padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Case(NamedTuple):
    """One situation: which tokens of row 0 are real, the batch, and what goes in beside it."""

    name: str
    valid: Tensor
    batch: Tensor
    extra: dict[str, Tensor]


def some_ids(model: Callable, length: int) -> Tensor:
    """``length`` different token ids, the pad left out: int (T,), on the model's device."""
    config = getattr(model, "config", None)
    pad = getattr(config, "pad_token_id", None)
    ids = [n for n in range(1, length + 2) if n != pad][:length]
    if length < 2 or (hasattr(config, "vocab_size") and ids[-1] >= config.vocab_size):
        raise ValueError(f"no text of {length} different tokens for this model: give ids")
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.tensor(ids, device=None if first is None else first.device)


def positions(attention_mask: Tensor) -> Tensor:
    """Positions (B, T) counted from the first real token of each row; 0 at pads before it."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def parameters(model: Callable) -> Mapping[str, inspect.Parameter]:
    """The parameters of a model, of the one inside where torch has wrapped it."""
    wrappers = nn.DataParallel | nn.parallel.DistributedDataParallel
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, wrappers) else model._orig_mod
    return inspect.signature(getattr(model, "forward", model)).parameters


def cases(model: Callable, ids: Tensor, inputs: dict) -> Iterator[Case]:
    """A text ids (T,) alone; and, where the model takes an ``attention_mask`` and ``inputs`` has
    none, in a batch without padding and with pads on either side."""
    time = len(ids)
    every = torch.ones(time, dtype=torch.bool)
    yield Case("one row", every, ids[None], {})
    takes = parameters(model)
    if "attention_mask" not in takes or "attention_mask" in inputs:
        return
    pads = max(1, time // 3)
    for name in ("no padding", "right padding", "left padding"):
        valid = every.clone()
        if name == "right padding":
            valid[-pads:] = False
        elif name == "left padding":
            valid[:pads] = False
        # Beside the row a full neighbour and, where there are pads, the row with other pads.
        rows, marks = [ids, ids.flip(0)], [valid, every]
        if not valid.all():
            rows, marks = [*rows, ids.where(valid.to(ids.device), ids.flip(0))], [*marks, valid]
        attention = torch.stack(marks).long().to(ids.device)
        extra = {"attention_mask": attention}
        if name == "left padding" and "position_ids" in takes and "position_ids" not in inputs:
            extra["position_ids"] = positions(attention)
        yield Case(name, valid, torch.stack(rows), extra)
