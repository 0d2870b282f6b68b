"""What the layers of a `GPT` hold: their states, and what can be read from them by a line."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import GPT
from .objectives import Batch, ForwardBackward, Rows
from .probes import eval_mode


@torch.no_grad()
def states(model: GPT, batch: Batch) -> list[Tensor]:
    """The residual stream before the first block and after each: n_layer + 1 tensors (B, T, C).

    They are on the CPU, wherever the model is.
    """
    batch = batch.to(next(model.parameters()).device)
    found: list[Tensor] = []
    hooks = [model.h[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))]
    hooks += [
        block.register_forward_hook(lambda _, __, out: found.append(out)) for block in model.h
    ]
    try:
        with eval_mode(model):
            model.hidden(batch.inputs, batch.mask, batch.positions)
    finally:
        for hook in hooks:
            hook.remove()
    return [state.cpu() for state in found]


def linear_probe(known: Tensor, labels: Tensor, fresh: Tensor, ridge: float = 1e-2) -> Tensor:
    """What a line through ``known`` (N, C), fitted to bool ``labels`` (N,), says of ``fresh``.

    Least squares on centred features with a little shrinkage, no tuning. Returns bool (M,).
    Raises `ValueError` where all labels are the same: any line would do.
    """
    if labels.all() or not labels.any():
        raise ValueError(f"a probe needs both labels, all {len(labels)} are {bool(labels[0])}")
    known, fresh = known.double(), fresh.double()
    middle, spread = known.mean(0), known.std(0) + 1e-6
    x, y = (known - middle) / spread, labels.double() * 2 - 1
    square = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(square, x.T @ (y - y.mean()))
    return (fresh - middle) / spread @ weights + y.mean() > 0


def direction_probe(
    model: GPT, objective: ForwardBackward, documents: list[Tensor], known: int
) -> list[float]:
    """Share of middle tokens whose reading direction a line finds, one number per layer, from 0.

    The middle token of a document of odd length stands at the same position from either end: what
    goes into the network at its place is the same in both readings, and only what it has seen of
    its neighbours can tell them apart. The line is fitted on the first ``known`` documents of odd
    length and judged on the others; one half is chance, and what layer 0 must give.

    Raises `ValueError` where no documents are left to judge on.
    """
    odd = [text for text in documents if len(text) % 2]
    if not 0 < known < len(odd):
        raise ValueError(f"{known} documents to fit on, of {len(odd)} that have a middle token")
    found: list[list[Tensor]] = []
    for start in range(0, len(odd), 64):
        some = odd[start : start + 64]
        middle = torch.tensor([len(text) // 2 for text in some])
        row = torch.arange(len(some))
        for way, batch in enumerate(objective.passes(Rows.padded(some), torch.Generator())):
            found.append([each[row, middle - way] for each in states(model, batch)])
    forward, backward = (
        [torch.cat(each) for each in zip(*found[way::2], strict=True)] for way in (0, 1)
    )
    shares = []
    for one, other in zip(forward, backward, strict=True):
        fitted = torch.cat([one[:known], other[:known]])
        judged = torch.cat([one[known:], other[known:]])
        labels = torch.arange(len(fitted)) < known
        right = linear_probe(fitted, labels, judged) == (
            torch.arange(len(judged)) < len(one) - known
        )
        shares.append(float(right.double().mean()))
    return shares
