"""Mixers: the modules of a network in which one token can move another, found by measuring.

In a Transformer these are its attentions, in other networks scans or convolutions over time.
Everything else (embeddings, norms, MLPs, heads) works on each token by itself. Judging every mixer
alone shows what the whole network hides: one open layer among closed ones opens all of it.

Source: ours; the per-module probe is that of `mylib.probes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .probes import NotFinite, call, evaluating, gradients, strengths

# Nothing to find here: these never look at another token.
POINTWISE = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.Identity)
CACHES = ("past_key_values", "past_key_value", "layer_past", "cache", "cache_params", "state")
FOREIGN = ("mask", "encoder", "key_value")


@dataclass
class Mixer:
    """One call of one module: its ``name``, and what it received."""

    name: str
    module: nn.Module
    args: list[Any]
    kwargs: dict[str, Any]
    batch: tuple[int, int]

    def strengths(self, row: int = 0, scale: float = 1.0) -> Tensor:
        """How strongly input j of ``row`` moves output i: float (T, T), exactly 0 = not at all.

        The module is called again with what it received, on its own hidden states times ``scale``.
        """
        return strengths(*self.again(scale), row)

    def again(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Call the module once more, without a cache; its input (a leaf) and its output."""
        args, kwargs = list(self.args), dict(self.kwargs)
        kwargs |= {name: None for name in CACHES if name in kwargs}
        holder, where = _hidden(args, kwargs, self.batch)
        first = holder[where]
        leaf = (_rows_first(first, self.batch).detach() * scale).requires_grad_(True)
        with torch.enable_grad():
            copy = leaf.clone()  # it may be written into
            if first.shape[:2] != self.batch:
                copy = copy.transpose(0, 1)
            for holder, where, value in _others(args, kwargs, first):
                # The same states again (query, key and value), or others made of each token: these
                # keep their numbers and lead back to the token all the same.
                other = value.detach() * scale + (copy - copy.detach())
                holder[where] = copy if value is first else other
            output = _rows_first(_first(self.module(*args, **kwargs), self.batch), self.batch)
        if not torch.isfinite(output).all():
            raise NotFinite(f"the output of {self.name} holds NaN or infinite numbers")
        return leaf, output


def mixers(model: nn.Module, ids: Tensor, **inputs: Any) -> list[Mixer]:
    """The innermost modules of ``model`` that mix the tokens of ``ids`` (B, T), in calling order.

    A module is one if an output moves with another token's input; one called ``...Attention`` is
    one by its name (a broken attention may mix nothing, and must not escape for that). A module
    that is called twice comes twice, the second time as ``name#2``.
    """
    return run(model, ids, inputs)[1]


def run(
    model: nn.Module, ids: Tensor, inputs: dict, known: Collection[nn.Module] | None = None
) -> tuple[Tensor, list[Mixer]]:
    """Call the model once: its output (B, T, ...) and its mixers (only ``known``, if given)."""
    called: list[Mixer] = []
    waiting: list[tuple[list, dict]] = []  # calls that have begun and not ended
    batch = tuple(ids.shape)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        received = list(args), dict(kwargs)
        if place := _hidden(*received, batch):
            holder, where = place
            given = holder[where]
            copy = given.clone()  # some modules write into their input
            for holder, where, value in _others(*received, given):
                holder[where] = copy if value is given else value.clone()
        waiting.append(received)

    def after(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            received = waiting.pop()
            if _hidden(*received, batch) and _first(output, batch) is not None:
                calls = 1 + sum(each.module is module for each in called)
                label = name if calls == 1 else f"{name}#{calls}"
                called.append(Mixer(label, module, *received, batch))

        return hook

    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, POINTWISE) and (known is None or module in known):
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after(name), with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            result = call(model, ids, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if known is not None:
        return result, called
    with evaluating(model):
        found = []
        # A module's hook fires after those of its parts, so inner ones come first here.
        for each in called:
            inside = [other for other in found if _contains(each.module, other.module)]
            if _is_attention(each.module):
                # An attention around a mixer that is none, such as a shift, mixes by itself.
                new = not any(_is_attention(other.module) for other in inside)
            else:
                new = not inside and _mixes(each)
            if new:
                found.append(each)
    return result, found


def layer_influence(
    model: nn.Module, ids: Tensor, *, row: int = 0, **inputs: Any
) -> dict[str, Tensor]:
    """`influence` of each mixer by itself, by name: bool (T, T) each.

    One converted layer among causal ones opens the whole model; only here it shows.

    Raises `ValueError` where no module mixes tokens.
    """
    ids = ids[None] if ids.dim() == 1 else ids
    found = mixers(model, ids, **inputs)
    if not found:
        raise ValueError(f"no module of {type(model).__name__} mixes tokens")
    with evaluating(model):
        return {each.name: each.strengths(row) > 0 for each in found}


def _mixes(each: Mixer) -> bool:
    """Does any output move with another token's input?

    Any two positions differ in a binary digit. So half of the outputs are asked about the other
    half of the inputs, by each digit and both ways: every pair comes up, in 2 log2(T) questions.
    """
    leaf, output = each.again()
    time = each.batch[1]
    if not output.requires_grad or time < 2:
        return False
    digits = torch.arange((time - 1).bit_length())[:, None]
    asked = (torch.arange(time) >> digits) % 2 == 1
    asked = torch.cat([asked, ~asked]).to(leaf.device)
    weight = torch.randn(output.shape[2:], generator=torch.Generator().manual_seed(0))
    each_output = (output * weight.to(output)).flatten(2).sum((0, 2))
    moved = [
        grad.flatten(2).any(2).any(0) for grad in gradients(asked.to(output) @ each_output, leaf)
    ]
    return bool((torch.stack(moved) & ~asked).any())


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


def _contains(outer: nn.Module, inner: nn.Module) -> bool:
    return outer is not inner and any(part is inner for part in outer.modules())


def _hidden(args: list, kwargs: dict, batch: tuple[int, int]) -> tuple[Any, Any] | None:
    """Where the hidden states (B, T, C) stand among the arguments: (container, key)."""
    places = [(kwargs, "hidden_states")] if "hidden_states" in kwargs else []
    places += [(args, n) for n in range(len(args))] + [(kwargs, name) for name in kwargs]
    return next(
        (
            (holder, where)
            for holder, where in places
            if _is_states(holder[where], batch) and holder[where].dim() == 3
        ),
        None,
    )


def _others(args: list, kwargs: dict, states: Tensor) -> list[tuple[Any, Any, Tensor]]:
    """Every argument of the shape of the hidden states, they themselves among them; of another
    text, which cross-attention reads, only where its name says nothing."""
    places = [(args, n) for n in range(len(args))]
    places += [(kwargs, name) for name in kwargs if not any(word in name for word in FOREIGN)]
    return [
        (holder, where, value)
        for holder, where in places
        if isinstance(value := holder[where], Tensor)
        and value.is_floating_point()
        and value.shape == states.shape
    ]


def _first(output: Any, batch: tuple[int, int]) -> Tensor | None:
    """The first (B, T, ...) of numbers in what a module returned."""
    values = output if isinstance(output, tuple | list) else (output,)
    return next((value for value in values if _is_states(value, batch)), None)


def _is_states(value: Any, batch: tuple[int, int]) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() >= 3
        and value.shape[:2] in (batch, batch[::-1])
    )


def _rows_first(states: Tensor, batch: tuple[int, int]) -> Tensor:
    """(B, T, ...) of states that lie so, or as (T, B, ...): PyTorch's own layers do by default."""
    return states if states.shape[:2] == batch else states.transpose(0, 1)
