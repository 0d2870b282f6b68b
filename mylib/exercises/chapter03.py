"""Chapter 03: pads that nobody reads, a test that means something, and the cache."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import zoo
from ..convert import make_bidirectional
from ..experiments.opening import flag_only
from . import check, expect

__all__ = ["check_cache", "check_is_open", "check_pads", "sealed_models"]


# -- 3.1 ---------------------------------------------------------------------------------------


def _batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v (3, 6, 8) and who is real: no pads, two on the right, two on the left."""
    noise = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(3, 6, 8, generator=noise) for _ in range(3))
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1, 4:] = valid[2, :2] = False
    return q, k, v, valid


def _right(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, :])


@check("3.1")
def check_pads(attend: Callable[..., Tensor]) -> None:
    """``attend(q, k, v, valid)`` (B, T, C) under no mask but that of the pads."""
    q, k, v, valid = _batch()
    q, k, v = (each.requires_grad_(True) for each in (q, k, v))
    found = attend(q, k, v, valid)
    expect(isinstance(found, Tensor), "return the outputs, a tensor (B, T, C)")
    expect(found.shape == q.shape, f"outputs are {tuple(q.shape)}, yours {tuple(found.shape)}")
    expect(
        not found.isnan().any(),
        "NaN: some query may look at nobody. If you hid the pads' queries as well, hide keys only: "
        "what stands at a pad is read by nobody. If not: is `valid` the right way round, the "
        "softmax over the last dimension, and no triangle in the scores?",
    )
    wanted = _right(q, k, v, valid)
    real = found[valid]
    with torch.no_grad():
        zero = valid[..., None].to(k.dtype)
        still_there = F.scaled_dot_product_attention(q, k * zero, v * zero)[valid]
        only_pads = F.scaled_dot_product_attention(
            q, k, v, attn_mask=~valid[:, None, :] | valid.all(1)[:, None, None]
        )[valid]
        unmasked = F.scaled_dot_product_attention(q, k, v)[valid]
        unscaled = F.scaled_dot_product_attention(
            q * math.sqrt(q.shape[-1]), k, v, attn_mask=valid[:, None, :]
        )[valid]
    expect(
        not torch.allclose(real, still_there, atol=1e-5),
        "a zero vector is still a key: its score is 0, and the softmax gives it a share. Hide the "
        "pads' scores, not their vectors",
    )
    expect(
        not torch.allclose(found, F.scaled_dot_product_attention(q, k, v), atol=1e-5),
        "you hid nothing: the real words still read the pads",
    )
    expect(
        not torch.allclose(real, unmasked, atol=1e-5),
        "you hid what the pads say, not what they show: the real words still read them",
    )
    expect(
        not torch.allclose(real[6:], only_pads[6:], atol=1e-5),
        "your real words see the pads and nothing else: True means real in `valid`",
    )
    expect(
        not torch.allclose(real, unscaled, atol=1e-5),
        "divide the scores by the square root of C, as in chapter 01",
    )
    other = torch.where(valid[..., None], k, k + 3), torch.where(valid[..., None], v, v - 3)
    moved = (attend(q, *other, valid)[valid] - real).detach().abs().max()
    expect(float(moved) < 1e-5, "the content of the pads still moves the outputs of real words")
    expect(
        torch.allclose(real, wanted[valid], atol=1e-5),
        "the pads are out of the way, but real words must see each real word, to both sides",
    )
    expect(
        all(g.isfinite().all() for g in torch.autograd.grad(found[valid].sum(), (q, k, v))),
        "the outputs are right, and their gradients are not finite: a NaN that is cut away later "
        "comes back in the backward pass",
    )


# -- 3.2 ---------------------------------------------------------------------------------------


class Sealed:
    """A model that may be called, and nothing else: ``sealed(ids, attention_mask)`` (B, T, V)."""

    def __init__(self, name: str, model: Callable[..., Tensor], is_open: bool) -> None:
        self.name, self._model, self._open, self.padded = name, model, is_open, False

    def __call__(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None and not attention_mask.bool().all():
            self.padded = True
        with torch.no_grad():
            return self._model(ids, attention_mask)


def _of_zoo(name: str, backend: str, convert: Callable) -> Callable[..., Tensor]:
    model = zoo.tiny(name, backend)
    convert(model)

    def call(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return model(ids, attention_mask=attention_mask, use_cache=False).logits

    return call


def _by_hand(allowed: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """One layer under a mask made by hand: ``allowed(query, key)``; nobody sees a pad."""
    model = zoo.tiny("llama", "eager", layers=1)

    def call(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        at = torch.arange(ids.shape[1])
        visible = allowed(at[:, None], at[None, :]).expand(len(ids), 1, -1, -1)
        if attention_mask is not None:
            visible = visible & attention_mask.bool()[:, None, None, :]
            visible = visible | torch.eye(len(at), dtype=torch.bool)
        closed = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo().min)
        return model(ids, attention_mask=closed, use_cache=False).logits

    return call


def _closed_alone() -> Callable[..., Tensor]:
    """Causal without an attention_mask and open with one: as GPT-2 once was under the switch."""
    closed, opened = _by_hand(lambda q, k: k <= q), _by_hand(lambda q, k: (k >= 0) & (q >= 0))

    def call(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return (closed if attention_mask is None else opened)(ids, attention_mask)

    return call


def sealed_models() -> list[Sealed]:
    """The models of exercise 3.2: six that are not open, and two that are."""
    return [
        Sealed("deaf", _by_hand(lambda q, k: q == k), False),
        Sealed("untouched", _of_zoo("llama", "sdpa", lambda model: None), False),
        Sealed("one ahead", _by_hand(lambda q, k: k <= q + 1), False),
        Sealed("one pair", _by_hand(lambda q, k: (q != 2) | (k != 3)), False),
        Sealed("flag only", _of_zoo("llama", "sdpa", flag_only), False),
        Sealed("closed alone", _closed_alone(), False),
        Sealed("opened, sdpa", _of_zoo("llama", "sdpa", make_bidirectional), True),
        Sealed("opened, eager", _of_zoo("gpt2", "eager", make_bidirectional), True),
    ]


@check("3.2")
def check_is_open(is_open: Callable[[Callable], bool]) -> None:
    """``is_open(model)``: does each real word see each real word, alone and beside padding?"""
    said = {}
    models = {sealed.name: sealed for sealed in sealed_models()}
    for name, sealed in models.items():
        answer = is_open(sealed)
        expect(
            isinstance(answer, bool) or (isinstance(answer, Tensor) and answer.numel() == 1),
            "answer True or False",
        )
        said[name] = bool(answer)
    expect(
        not (said["deaf"] and said["untouched"]),
        "your test passes a model in which every word sees itself alone. Shapes, crashes and "
        "numbers that are not zero do not depend on the direction of attention",
    )
    expect(
        not said["untouched"],
        "your test passes the causal model that nobody touched. The last word sees everything "
        "there, too: ask the first",
    )
    expect(
        not said["one ahead"],
        "your test passes a model that sees one word ahead and no further: try each pair of a text "
        "of at least six words",
    )
    expect(
        not said["one pair"],
        "your test passes a model in which one word in the middle does not see its neighbour: try "
        "each pair of a text of at least six words",
    )
    expect(
        not said["closed alone"],
        "your test passes a model that is open in a padded batch, and causal when it is given a "
        "text and no attention_mask",
    )
    if said["flag only"]:
        padded = models["flag only"].padded
        expect(
            padded,
            "your test passes a model that is open alone, and causal beside a padded neighbour: "
            "you never asked with pads in the batch",
        )
        expect(False, "one of the models is causal in a padded batch, and your test passes it")
    expect(not said["deaf"], "your test passes a model in which every word sees itself alone")
    for name in ("opened, sdpa", "opened, eager"):
        expect(
            said[name],
            "your test refuses a model that is open. Do you ask the pads, too? Nobody sees a pad, "
            "and what a pad itself sees does not matter. Is the new word always another word than "
            "the old one? Does your text fit: 64 tokens, ids 0..63?",
        )


# -- 3.3 ---------------------------------------------------------------------------------------


@check("3.3")
def check_cache(answer: dict) -> None:
    """``answer``: {"layer": first layer (1, 2, ...) whose cached keys change, "words": whose}."""
    expect(
        isinstance(answer, dict) and set(answer) == {"layer", "words"},
        'give {"layer": a number, "words": "newest", "all" or "none"}',
    )
    layer, words = answer["layer"], answer["words"]
    if layer is Ellipsis or words is Ellipsis:
        raise NotImplementedError
    expect(isinstance(layer, int) and layer >= 0, "layer is a whole number; 1 is the first layer")
    expect(
        words in ("newest", "all", "none"),
        'whose keys change: "newest" (the last word before the new one), "all" or "none"',
    )
    expect(layer > 0, "there is no layer 0 here: the first is 1")
    expect(
        layer != 1,
        "the keys of layer 1 are made from the token and its position alone: nobody has looked at "
        "anybody yet",
    )
    expect(layer == 2, "it happens as soon as keys are made from states that have looked around")
    expect(
        words != "newest",
        "under an open mask every old word looks at the new one, not only its neighbour",
    )
    expect(words == "all", "every old word sees the new one in layer 1, and carries it on")
