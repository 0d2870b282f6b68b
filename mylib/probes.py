"""Probes: which inputs of a finished model move which outputs.

Three ways to ask, each seeing what another misses:

gradient        exact zeros, no tolerance; blind where the function is flat (a dead ReLU, an argmax)
substitution    any callable; blind below rounding, and noisy if rows influence each other
prefix          f(x[:t]) = f(x)[:t]; sees what depends on the length (positions counted from the
                right, statistics pooled over the sequence), which no single token carries

All of them run the model in evaluation mode (dropout would look like influence) and refuse NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn


class NotFinite(ValueError):
    """NaN or infinity where a number was to be measured."""


# Below this share of the largest output a change is rounding.
ROUNDING = 1e-6
AT_ONCE = 1 << 26  # numbers that a gradient may hold of the outputs
Probe = Literal["gradient", "substitution", "both"]
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def influence(
    model: Callable,
    ids: Tensor,
    *,
    probe: Probe | None = None,
    row: int = 0,
    **inputs: Any,
) -> Tensor:
    """Measured influence: bool (T, T), entry [i, j] = input j moves output i.

    ``model``: our `GPT`, a Hugging Face model, any module with a token embedding, or (probe
    "substitution") any callable from ids (B, T) to outputs (B, T, ...). ``ids``: int (T,) or
    (B, T), of which ``row`` is judged. ``inputs`` are passed on (``mask=``, ``attention_mask=``).
    By default the gradient is used where there is an embedding; "both" asks both ways, and what
    either sees counts.

    Layers that normalise over a batch behave differently in training, so they are tried in both
    modes, and an influence in either counts.

    Raises `ValueError` for NaN or infinite outputs and for outputs that are not (B, T, ...).

    >>> def running_sum(ids):
    ...     return ids.cumsum(1)[..., None]
    >>> influence(running_sum, torch.tensor([5, 6, 7])).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return influence_strengths(model, ids, probe=probe, row=row, **inputs) > 0


def influence_strengths(
    model: Callable,
    ids: Tensor,
    *,
    probe: Probe | None = None,
    row: int = 0,
    **inputs: Any,
) -> Tensor:
    """`influence` as numbers: float (T, T), 0 = none, 1 = the strongest in this matrix.

    Round-off looks like 1e-7 and less here; a soft mask or a hidden path may look the same.
    """
    ids = ids[None] if ids.dim() == 1 else ids
    if probe is None:
        probe = "substitution" if embedding(model) is None else "gradient"
    ways = {"gradient": [_by_gradient], "substitution": [_by_substitution]}
    ways["both"] = ways["gradient"] + ways["substitution"]
    if probe not in ways:
        raise ValueError(f"a probe is 'gradient', 'substitution' or 'both', not {probe!r}")
    with evaluating(model):
        found = [ask(model, ids, row, inputs) for ask in ways[probe]]
        if norms := _norms(model):
            with _training(norms):
                found += [ask(model, ids, row, inputs) for ask in ways[probe]]
    return torch.stack([each / each.max().clamp(min=1e-300) for each in found]).amax(0)


def prefix_invariance(
    model: Callable,
    ids: Tensor,
    *,
    tolerance: float = 1e-4,
    side: Literal["left", "right"] = "left",
    cuts: Collection[int] | None = None,
    **inputs: Any,
) -> Tensor:
    """Does output i change when the text is cut behind it? bool (T, T), True = changed.

    Entry [t, i], i <= t, compares output i of the first t + 1 tokens with output i of all.
    A causal model changes nothing. ``side="right"`` is the mirror for backward readers, who begin
    at the right end: entry [t, i], i >= t, compares output i of the tokens from t on. (A reader
    who counts its positions from the left is told them anew at each length; it changes.)
    ``tolerance`` is relative to the largest output: sums over other lengths round differently.
    ``cuts``: the lengths to try, by default all.

    A length that the model cannot read at all (a statistic over one token) is left out.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is 'left' or 'right', not {side!r}")
    ids = ids[None] if ids.dim() == 1 else ids
    time = ids.shape[1]
    changed = torch.zeros(time, time, dtype=torch.bool)
    with evaluating(model), torch.no_grad():
        full = call(model, ids, inputs)[0].flatten(1).double()
        for t in range(time):
            kept = slice(0, t + 1) if side == "left" else slice(t, time)
            length = len(ids[0, kept])
            if length == time or (cuts is not None and length not in cuts):
                continue
            try:
                part = call(model, ids[:, kept], inputs)[0].flatten(1).double()
            except ValueError:
                if length > 1:
                    raise
                continue
            part, whole = comparable(part, full)
            moved = (part - whole[kept]).abs() > tolerance * scale(whole)
            changed[t, kept] = moved.any(-1).cpu()
    return changed


def _by_gradient(model: nn.Module, ids: Tensor, row: int, inputs: dict) -> Tensor:
    leaves: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if output.shape[:2] != ids.shape or (leaves and leaves[0].shape != output.shape):
            return None
        asked = args and args[0].shape == ids.shape and torch.equal(args[0], ids)
        if not (asked or named):
            return None  # positions, or types
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1].clone()  # some models write into their embeddings

    table = embedding(model)
    if table is None:
        raise ValueError("the gradient probe needs a token embedding; use probe='substitution'")
    named = hasattr(model, "get_input_embeddings")
    tables = [table] if named else [m for m in model.modules() if isinstance(m, nn.Embedding)]
    handles = [each.register_forward_hook(leaf) for each in tables]
    try:
        with torch.enable_grad():
            output = call(model, ids, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not leaves:
        raise ValueError("the model did not use its token embedding for these ids")
    found = [strengths(each, *comparable(output), row) for each in leaves]
    return torch.stack(found).amax(0)


def strengths(
    leaf: Tensor, output: Tensor, row: int = 0, asked: Sequence[int] | None = None
) -> Tensor:
    """How strongly ``leaf`` (B, T, ...) moves ``output`` (B, T, ...): float (asked, T).

    By gradient, exact: a closed path has gradient 0, an open one anything else. The outputs are
    projected on a random direction: a plain sum would be constant behind a layer norm, and its
    gradient zero although everything is seen.
    """
    weight = torch.randn(output.shape[2:], generator=torch.Generator().manual_seed(0))
    asked = list(range(output.shape[1])) if asked is None else list(asked)
    aims = (output[row] * weight.to(output)).flatten(1).sum(1)[asked]
    if not aims.requires_grad:
        return torch.zeros(len(asked), leaf.shape[1], dtype=torch.double)
    found = []
    for i, grad in zip(asked, gradients(aims, leaf, output.numel()), strict=True):
        if not torch.isfinite(grad).all():
            raise NotFinite(f"the gradient of output {i} is NaN or infinite")
        found.append(grad[row].flatten(1).abs().amax(-1).double().cpu())
    return torch.stack(found)


def gradients(aims: Tensor, leaf: Tensor, size: int = 0) -> Sequence[Tensor]:
    """d aim / d leaf for every aim (N,), each of the shape of ``leaf``."""
    how = {"retain_graph": True, "allow_unused": True}
    many = max(1, AT_ONCE // max(size, 1))  # each aim takes as much as the whole output
    if len(aims) > many:
        return [grad for part in aims.split(many) for grad in gradients(part, leaf, size)]
    try:
        # All at once: the weights are read once instead of N times.
        ones = torch.eye(len(aims), dtype=aims.dtype, device=aims.device)
        found = torch.autograd.grad(aims, leaf, ones, is_grads_batched=True, **how)[0]
    except (RuntimeError, NotImplementedError):  # some backward passes cannot be batched
        found = [torch.autograd.grad(a, leaf, materialize_grads=True, **how)[0] for a in aims]
    # Nothing leads there (materialize_grads would give zeros of one leaf, not of a batch of them).
    return leaf.new_zeros(len(aims), *leaf.shape) if found is None else found


def _by_substitution(model: Callable, ids: Tensor, row: int, inputs: dict) -> Tensor:
    if len(ids) > 1:
        raise ValueError("substitution builds its own batch; give it one row of ids")
    time = ids.shape[1]
    other = _different_tokens(model, ids[0])
    swapped = torch.where(torch.eye(time, dtype=torch.bool, device=ids.device), other, ids)
    batch = torch.cat([ids, swapped])  # row 0 untouched, row j + 1 with token j replaced
    with torch.no_grad():
        (output,) = comparable(call(model, batch, inputs).flatten(2).double())
    moved = (output[1:] - output[:1]).abs()
    moved = moved.where(moved > ROUNDING * scale(output.flatten(0, 1)), 0.0)
    return moved.amax(-1).T.cpu()  # [i, j]


def scale(outputs: Tensor) -> Tensor:
    """What a difference in each channel of ``outputs`` (N, K) is measured by: (K,).

    A channel is as large as its largest number, and never smaller than what moves elsewhere: a
    vocabulary that is closed by -1e9 must not make every difference small.
    """
    size, spread = outputs.abs().amax(0), outputs.amax(0) - outputs.amin(0)
    moving = spread > 0
    if not moving.any():
        return size
    floor = torch.maximum(spread.max(), size[moving].median()).clamp(max=size[moving].max())
    return size.clamp(min=floor)


def _different_tokens(model: Callable, ids: Tensor) -> Tensor:
    """For each token another one, whose embedding is another one too."""
    table = embedding(model)
    candidates = ids.unique() if table is None else torch.arange(table.num_embeddings)
    found = []
    for token in ids.tolist():
        others = candidates[candidates != token].tolist()
        if table is not None:
            same = table.weight[token]
            others = (o for o in others if not torch.equal(table.weight[o], same))
        other = next(iter(others), None)
        if other is None:
            raise ValueError(f"no token to put in place of {token}: give ids that differ")
        found.append(other)
    return torch.tensor(found, device=ids.device)


def call(model: Callable, ids: Tensor, inputs: dict) -> Tensor:
    output = model(ids, **inputs)
    for name in ("logits", "last_hidden_state"):
        output = getattr(output, name, output)
    if isinstance(output, tuple):
        output = output[0]
    if not isinstance(output, Tensor) or output.shape[:2] != ids.shape or output.dim() < 3:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"expected outputs (B, T, ...) for ids {tuple(ids.shape)}, got {found}")
    # log-probabilities (of 1 and below, rounded) may hold -inf; NaN never means anything
    if not torch.isfinite(output).all() and not (output <= 1e-6).all():
        raise NotFinite("the output holds NaN or infinite numbers")
    return output


def comparable(*outputs: Tensor) -> tuple[Tensor, ...]:
    """Outputs that can be compared: log-probabilities with -inf among them become probabilities."""
    if all(torch.isfinite(output).all() for output in outputs):
        return outputs
    return tuple(output.exp() for output in outputs)


def embedding(model: Callable) -> nn.Embedding | None:
    """The token embedding of a module, None where there is none to be found."""
    if not isinstance(model, nn.Module):
        return None
    if hasattr(model, "get_input_embeddings"):
        return model.get_input_embeddings()
    return next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)


def _norms(model: Callable) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        return []
    return [module for module in model.modules() if isinstance(module, NORMS)]


@contextmanager
def evaluating(model: Callable) -> Iterator[None]:
    """Evaluation mode with gradients on, and every module back in its own mode afterwards."""
    # The caller may have switched gradients off, in either of two ways.
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def eval_mode(model: Callable) -> Iterator[None]:
    """Evaluation mode, and every module back in its own afterwards: some may be frozen."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _training(norms: list[nn.Module]) -> Iterator[None]:
    """Training mode for these layers alone; their running statistics are put back."""
    kept = [{k: v.clone() for k, v in module.named_buffers()} for module in norms]
    try:
        for module in norms:
            module.training = True
        yield
    finally:
        for module, buffers in zip(norms, kept, strict=True):
            module.training = False
            for name, value in buffers.items():
                getattr(module, name).copy_(value)
