"""Probes: which inputs of a finished model move which outputs.

Three ways to ask, each seeing what another misses:

gradient        exact zeros, no tolerance; blind where the function is flat (a dead ReLU, an argmax)
substitution    any callable; blind below rounding, and noisy if rows influence each other
prefix          f(x[:t]) = f(x)[:t]; sees what depends on the length (positions counted from the
                right, statistics pooled over the sequence), which no single token carries

All of them run the model in evaluation mode (dropout would look like influence) and refuse NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def influence(
    model: Callable,
    ids: Tensor,
    *,
    probe: Literal["gradient", "substitution"] | None = None,
    row: int = 0,
    **inputs: Any,
) -> Tensor:
    """Measured influence: bool (T, T), entry [i, j] = input j moves output i.

    ``model``: our `GPT`, a Hugging Face model, any module with a token embedding, or (probe
    "substitution") any callable from ids (B, T) to outputs (B, T, ...). ``ids``: int (T,) or
    (B, T), of which ``row`` is judged. ``inputs`` are passed on (``mask=``, ``attention_mask=``).
    By default the gradient is used where there is an embedding.

    Layers that normalise over a batch behave differently in training, so they are tried in both
    modes, and an influence in either counts.

    Raises `ValueError` for NaN or infinite outputs and for outputs that are not (B, T, ...).

    >>> def running_sum(ids):
    ...     return ids.cumsum(1)[..., None]
    >>> influence(running_sum, torch.tensor([5, 6, 7])).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    ids = ids[None] if ids.dim() == 1 else ids
    if probe is None:
        probe = "substitution" if _embedding(model) is None else "gradient"
    ask = {"gradient": _by_gradient, "substitution": _by_substitution}.get(probe)
    if ask is None:
        raise ValueError(f"a probe is 'gradient' or 'substitution', not {probe!r}")
    with _evaluating(model):
        seen = ask(model, ids, row, inputs)
        if norms := _norms(model):
            with _training(norms):
                seen = seen | ask(model, ids, row, inputs)
    return seen


def layer_influence(
    model: nn.Module, ids: Tensor, *, row: int = 0, **inputs: Any
) -> dict[str, Tensor]:
    """`influence` of each attention module by itself, by name: bool (T, T) each.

    One converted layer among causal ones opens the whole model; only here it shows. Every module
    is called again with what it received, on its own hidden states, without a cache.
    """
    ids = ids[None] if ids.dim() == 1 else ids
    modules = attention_modules(model)
    if not modules:
        raise ValueError(f"{type(model).__name__} has no attention module (class name *Attention)")
    received: dict[str, tuple[list, dict]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: received.update({name: (list(args), dict(kwargs))}),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        with _evaluating(model), torch.no_grad():
            _output(model, ids, inputs)
    finally:
        for handle in handles:
            handle.remove()
    with _evaluating(model):
        return {
            name: _gradients(*_again(modules[name], *received[name]), row)
            for name in modules
            if name in received
        }


def prefix_invariance(
    model: Callable, ids: Tensor, *, tolerance: float = 1e-4, **inputs: Any
) -> Tensor:
    """Does output i change when the text is cut later on? bool (T, T), True = changed.

    Entry [t, i], i <= t, compares output i of the first t + 1 tokens with output i of all.
    A causal model changes nothing. ``tolerance`` is relative to the largest output: sums over
    other lengths round differently.
    """
    ids = ids[None] if ids.dim() == 1 else ids
    time = ids.shape[1]
    changed = torch.zeros(time, time, dtype=torch.bool)
    with _evaluating(model), torch.no_grad():
        full = _output(model, ids, inputs)[0].flatten(1).double()
        for t in range(time - 1):
            part = _output(model, ids[:, : t + 1], inputs)[0].flatten(1).double()
            part, whole = _finite(part, full)
            moved = (part - whole[: t + 1]).abs().amax(-1)
            changed[t, : t + 1] = (moved > tolerance * whole.abs().max()).cpu()
    return changed


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules whose class is called ``...Attention``, by name, in order."""
    named = {n: m for n, m in model.named_modules() if type(m).__name__.endswith("Attention")}
    outer = {n for n in named for other in named if other.startswith(f"{n}.")}
    return {name: module for name, module in named.items() if name not in outer}


def _by_gradient(model: nn.Module, ids: Tensor, row: int, inputs: dict) -> Tensor:
    leaves: list[Tensor] = []

    def leaf(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    embedding = _embedding(model)
    if embedding is None:
        raise ValueError("the gradient probe needs a token embedding; use probe='substitution'")
    handle = embedding.register_forward_hook(leaf)
    try:
        with torch.enable_grad():
            output = _output(model, ids, inputs)
    finally:
        handle.remove()
    if not leaves:
        raise ValueError("the model did not use its token embedding for these ids")
    return _gradients(leaves[0], *_finite(output), row)


def _gradients(leaf: Tensor, output: Tensor, row: int) -> Tensor:
    """Exact: a closed path has gradient 0, an open one anything else.

    The outputs are projected on a random direction: a plain sum would be constant behind a layer
    norm, and its gradient zero although everything is seen.
    """
    weight = torch.randn(output.shape[2:], generator=torch.Generator().manual_seed(0))
    weight = weight.to(output)
    rows = []
    for i in range(output.shape[1]):
        aim = (output[row, i] * weight).sum()
        if not aim.requires_grad:
            rows.append(torch.zeros(leaf.shape[1], dtype=torch.bool))
            continue
        (grad,) = torch.autograd.grad(aim, leaf, retain_graph=True, allow_unused=True)
        if grad is None:
            rows.append(torch.zeros(leaf.shape[1], dtype=torch.bool))
        elif not torch.isfinite(grad).all():
            raise ValueError(f"the gradient of output {i} is NaN or infinite")
        else:
            rows.append((grad[row].flatten(1).abs().amax(-1) > 0).cpu())
    return torch.stack(rows)


def _by_substitution(model: Callable, ids: Tensor, row: int, inputs: dict) -> Tensor:
    if len(ids) > 1:
        raise ValueError("substitution builds its own batch; give it one row of ids")
    time = ids.shape[1]
    other = _different_tokens(model, ids[0])
    swapped = torch.where(torch.eye(time, dtype=torch.bool, device=ids.device), other, ids)
    batch = torch.cat([ids, swapped])  # row 0 untouched, row j + 1 with token j replaced
    with torch.no_grad():
        (output,) = _finite(_output(model, batch, inputs).flatten(2).double())
    moved = (output[1:] - output[:1]).abs().amax(-1)  # [j, i]
    return (1e-6 * output.abs().max() < moved.T).cpu()


def _different_tokens(model: Callable, ids: Tensor) -> Tensor:
    """For each token another one, whose embedding is another one too."""
    embedding = _embedding(model)
    candidates = ids.unique() if embedding is None else torch.arange(embedding.num_embeddings)
    found = []
    for token in ids.tolist():
        others = candidates[candidates != token].tolist()
        if embedding is not None:
            same = embedding.weight[token]
            others = (o for o in others if not torch.equal(embedding.weight[o], same))
        other = next(iter(others), None)
        if other is None:
            raise ValueError(f"no token to put in place of {token}: give ids that differ")
        found.append(other)
    return torch.tensor(found, device=ids.device)


def _output(model: Callable, ids: Tensor, inputs: dict) -> Tensor:
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
        raise ValueError("the output holds NaN or infinite numbers")
    return output


def _finite(*outputs: Tensor) -> tuple[Tensor, ...]:
    """Outputs that can be compared: log-probabilities with -inf among them become probabilities."""
    if all(torch.isfinite(output).all() for output in outputs):
        return outputs
    return tuple(output.exp() for output in outputs)


def _again(module: nn.Module, args: list, kwargs: dict) -> tuple[Tensor, Tensor]:
    """Call an attention module once more on its hidden states; return them and its output."""
    for name in ("past_key_values", "past_key_value", "layer_past", "cache"):
        if name in kwargs:
            kwargs[name] = None
    with torch.enable_grad():
        if "hidden_states" in kwargs:
            leaf = kwargs["hidden_states"].detach().requires_grad_(True)
            kwargs["hidden_states"] = leaf
        else:
            leaf = args[0].detach().requires_grad_(True)
            args[0] = leaf
        output = module(*args, **kwargs)
    output = output[0] if isinstance(output, tuple) else output
    if not torch.isfinite(output).all():
        raise ValueError(f"the output of {type(module).__name__} holds NaN or infinite numbers")
    return leaf, output


def _embedding(model: Callable) -> nn.Embedding | None:
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
def _evaluating(model: Callable) -> Iterator[None]:
    """Evaluation mode, and every module back in its own mode afterwards."""
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
