"""Open a causal decoder of transformers: every token may see every token, or it is refused.

Four things keep a decoder causal, and no model has all of them:

    config.is_causal     read by the builders of masks (transformers 5.2 and later)
    module.is_causal     read by SDPA and FlashAttention where there is no mask
    triangular buffers   in the older architectures, applied by the attention itself
    the cache            keys of the past are kept; they would change with every new token

We turn all four, and then *measure* whether the model is open (`check_bidirectional`). If it is
not, everything is put back and `NotBidirectional` says what is still closed.

Source: the switch is transformers' own (pull request 43705); the verification is ours.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..masks import Mask, bidirectional, sliding_window
from ..probes import influence
from .checking import NotBidirectional, by_token, causal_windows, check_bidirectional, text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OLDEST = (5, 4)
Window = Literal["both", "half", "none"]
NEVER = 1 << 30  # a window that closes nothing


class _Absent:
    """Stands for an attribute that was not there. (A class stays itself in copies and pickles.)"""


class _Already(ValueError):
    """An encoder: nothing to open."""


@dataclass
class Opened:
    """A model that `make_bidirectional` opened, and the way back.

    ``window`` as asked for; ``widths``: how far each layer sees to either side now, None = all
    (or further than a text of ``length`` tokens, that of the check, can show).
    """

    model: PreTrainedModel
    window: Window
    widths: list[int | None] = field(default_factory=list)
    length: int = 0
    _old: list[tuple[Any, str, Any]] = field(default_factory=list, repr=False)
    _hooks: list[Any] = field(default_factory=list, repr=False)

    @property
    def masks(self) -> list[Mask]:
        """What each layer shows now, in order. (Made anew: masks do not go into a pickle.)"""
        return [_mask(width) for width in self.widths]

    def undo(self) -> PreTrainedModel:
        """Put everything back, bit for bit; the model is causal again. Twice does no harm."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._old:
            owner, name, value = self._old.pop()
            if value is _Absent:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        return self.model

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute so that `undo` brings the old one back."""
        name = getattr(owner, "attribute_map", {}).get(name, name)  # a configuration's other name
        old = vars(owner).get(name, _Absent)
        if isinstance(owner, nn.Module) and name in owner._buffers:
            old = owner._buffers[name]
        self._old.append((owner, name, old))
        setattr(owner, name, value)


def make_bidirectional(model: PreTrainedModel, window: Window = "both") -> Opened:
    """Open every layer of a causal decoder, in place; the handle's ``undo()`` closes it again.

    ``model``: a decoder of transformers, with any head. ``window``: what becomes of layers that
    see only the last W tokens, the query included:

        "both"   W tokens to either side (transformers' own choice: 2 W + 1 in all)
        "half"   W // 2 to either side: about as many as before
        "none"   no window

    Generation, a cache and packed ``position_ids`` are refused from now on, each with the reason.
    Weights stay as they are: the model is open, not yet useful; it wants training.
    A folder written by ``save_pretrained`` remembers the switch, but not the refusals and not the
    checks: call this again after loading. transformers before 5.2 reads that folder as causal.

    Raises `NotBidirectional`, with the model as it was bit for bit, if any check fails afterwards,
    and for a model without attention; `ValueError` for one that is no causal decoder of
    transformers, or asks for FlashAttention on a CPU; `ImportError` for transformers before 5.4.
    """
    require_transformers()
    if window not in ("both", "half", "none"):
        raise ValueError(f"window is 'both', 'half' or 'none', not {window!r}")
    if (earlier := getattr(model, "opened", None)) is not None:
        if earlier.window != window:
            raise ValueError(f"opened already, with window={earlier.window!r}; undo() that first")
        return earlier
    _refuse_unsuitable(model)
    opened = Opened(model, window)
    try:
        _open(opened)
        check_bidirectional(model)
    except BaseException as error:
        opened.undo()
        if not isinstance(error, Exception) or isinstance(error, NotBidirectional | _Already):
            raise
        raise NotBidirectional(
            f"{type(model).__name__} stopped with {type(error).__name__}: {error}"
        ) from error
    return opened


def require_transformers() -> None:
    """Raise `ImportError` with what to install if transformers is missing or too old."""
    wanted = "pip install 'transformers>={}.{}'".format(*OLDEST)
    try:
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"converting needs transformers: {wanted}") from None
    numbers = tuple(int(n) for n in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST:
        raise ImportError(f"transformers {found} cannot be opened reliably: {wanted}")


def _refuse_unsuitable(model: PreTrainedModel) -> None:
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{name} is no model of transformers (our GPT opens by its mask=)")
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder with a decoder; its encoder is open already")
    backend = str(model.config._attn_implementation)
    if "flash" in backend and model.device.type == "cpu":
        raise ValueError(
            f"{name} asks for {backend}, which does not run on a CPU; load it with "
            "attn_implementation='sdpa'"
        )
    if "flex" in backend and model.device.type == "cpu":
        raise ValueError(
            f"{name} asks for {backend}, which has no backward on a CPU and cannot "
            "be checked there; load it with attn_implementation='sdpa'"
        )
    if not any(
        hasattr(module, "is_causal") or "Attention" in type(module).__name__
        for module in model.modules()
    ):
        raise NotBidirectional(f"{name} has no attention module: there is no mask to open")


def _open(opened: Opened) -> None:
    model = opened.model
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    # A folder of an opened model says so; what the layers were trained with is asked closed.
    saved = getattr(model.config, "opened_windows", None)
    reopened = getattr(model.config, "is_causal", True) is False
    for config in configs:
        if reopened:
            opened.put(config, "is_causal", True)
        for name, value in (saved or {}).items():
            opened.put(config, name, value)
    length = len(text(model))
    try:
        trained = causal_windows(model)
    except NotBidirectional:
        if influence(by_token(model), text(model)).all():
            raise _Already(f"{type(model).__name__} is bidirectional already") from None
        raise
    if len(trained) != model.config.num_hidden_layers:
        raise NotBidirectional(
            f"{type(model).__name__}: {len(trained)} modules mix tokens in "
            f"{model.config.num_hidden_layers} layers; the others would stay as they are"
        )
    for config in configs:
        opened.put(config, "is_causal", False)
        opened.put(config, "use_cache", False)
        _widen(opened, config)
    for module in model.modules():
        if getattr(module, "is_causal", None) is True:
            opened.put(module, "is_causal", False)
        _open_triangles(opened, module)
    for part in {id(m): m for m in (model, model.base_model)}.values():
        opened.put(part, "generate", _refuse_generation)
        opened._hooks.append(part.register_forward_pre_hook(_refuse_inputs, with_kwargs=True))
    opened.length = length
    opened.widths = [_width(window, opened.window) for window in trained]
    opened.put(model, "opened", opened)


def _width(trained: int | None, window: Window) -> int | None:
    if trained is None or window == "none":
        return None
    return trained if window == "both" else trained // 2


def _mask(width: int | None) -> Mask:
    return bidirectional if width is None else sliding_window(width, width)


def _widen(opened: Opened, config: Any) -> None:
    """Write the new window into the configuration, and what it was, for whoever loads it."""
    trained = getattr(config, "sliding_window", None)
    if opened.window == "both" or not isinstance(trained, int):
        return
    opened.put(config, "opened_windows", {"sliding_window": trained})
    opened.put(config, "sliding_window", NEVER if opened.window == "none" else trained // 2)


def _open_triangles(opened: Opened, module: nn.Module) -> None:
    for name, buffer in list(module.named_buffers(recurse=False)):
        square = buffer.dim() >= 2 and buffer.shape[-1] == buffer.shape[-2] > 1
        if not square or not _is_band(buffer):
            continue
        size = buffer.shape[-1]
        trained = int(buffer.reshape(-1, size, size)[0, -1].sum())
        mask = _mask(_width(None if trained == size else trained, opened.window))
        at = torch.arange(size, device=buffer.device)
        shown = mask(at, at, at[:, None], at[None, :]).expand_as(buffer)
        opened.put(module, name, shown.to(buffer.dtype).contiguous())


def _is_band(buffer: Tensor) -> bool:
    """Lower triangles, or bands below the diagonal, of ones and zeros (of any dtype)."""
    visible = buffer != 0
    on = visible.diagonal(dim1=-2, dim2=-1).all() and (buffer == visible).all()
    below = visible.diagonal(-1, dim1=-2, dim2=-1).all()  # the identity is no mask
    return bool(on and below) and torch.equal(visible, visible.tril())


def _refuse_generation(*_: Any, **__: Any) -> None:
    raise RuntimeError(
        "this model was made bidirectional: it does not write from left to right (undo() first)"
    )


def _refuse_inputs(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Before every call: no cache, no packed rows under the switch."""
    given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    cache = given.get("past_key_values")
    if given.get("use_cache") or (cache is not None and len(cache)):
        raise ValueError(
            "this model was made bidirectional: a cache would keep keys that change with every "
            "new token (use_cache=False, no past_key_values)"
        )
    positions, attention = given.get("position_ids"), given.get("attention_mask")
    if not isinstance(positions, Tensor) or positions.dim() != 2:
        return
    if isinstance(attention, Tensor) and attention.dim() == 4:
        return  # the caller says who may look at whom
    back = positions[:, 1:] <= positions[:, :-1]
    if isinstance(attention, Tensor) and attention.dim() == 2:
        real = attention[:, -positions.shape[1] :].bool()
        back = back & real[:, 1:] & real[:, :-1]  # one row of positions may serve a whole batch
    if back.any():
        raise ValueError(
            "position_ids start again within a row: packed documents would see each other in a "
            "bidirectional model. Give an attention_mask (B, 1, T, T) that keeps them apart"
        )
