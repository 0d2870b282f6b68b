"""Sampling: in which order text is written.

`generate` writes left to right with a causal model and its cache. `write` fills the holes of a
canvas with a model whose output i names word i, in any order; what differs between samplers is
which holes are filled in the next pass, and how many.

A *model* is anything with the right signature: our `GPT`, or the oracle (`Gazette.causal`,
`Gazette.denoiser`). Source of the loop: the public samplers of masked diffusion models share it;
its settings are named after theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .masks import Mask, bidirectional, causal, padding, prefix_lm
from .model import GPT, Cache
from .tokenizer import BOS, EOS, MASK, PAD

ORDERS = ("left", "random", "confidence")


@dataclass(frozen=True)
class Trace:
    """What was written: ``ids`` (B, T), the canvas after every pass, the number of passes."""

    ids: Tensor
    frames: tuple[Tensor, ...]
    passes: int


def settled(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    forbid: Sequence[int] = (),
) -> Tensor:
    """log p (N, V) that tokens are drawn from, float64, for logits (N, V).

    ``top_k`` keeps the k most likely tokens; ``forbid``: tokens that are never drawn.
    ``temperature`` 0 leaves the logits as they are: `choose` then takes the most likely token.
    Raises `ValueError` for a negative temperature, a top_k outside 1..V, NaN logits, and a row in
    which everything is forbidden.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"a temperature is 0 (greedy) or more, and finite, got {temperature}")
    if top_k is not None and not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k lies in 1..{logits.shape[-1]}, got {top_k}")
    if torch.isnan(logits).any() or (logits == torch.inf).any():
        raise ValueError("the logits hold NaN or inf")
    logits = logits.detach().double().clone()
    logits[:, list(forbid)] = -torch.inf
    if not (logits > -torch.inf).any(-1).all():
        raise ValueError("every token of a row is forbidden or impossible")
    if temperature > 0:  # the largest becomes 0 first: no temperature is then too small
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is not None:
        best = logits.topk(top_k)  # exactly k of them, ties or not
        logits = torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)
    return logits.log_softmax(-1)


def choose(
    logits: Tensor,
    generator: torch.Generator | None,
    temperature: float = 1.0,
    top_k: int | None = None,
    forbid: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of logits (N, V); return the tokens and their log p, both (N,).

    ``temperature`` 0 takes the most likely token. For the rest, and the errors, see `settled`.

    >>> choose(torch.tensor([[0.0, 2.0, 1.0]]), None, temperature=0)[0].tolist()
    [1]
    """
    log_p = settled(logits, temperature, top_k, forbid)
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        # On the CPU, where the generator is: the same words on every device.
        tokens = torch.multinomial(log_p.exp().cpu(), 1, generator=generator)[:, 0]
        tokens = tokens.to(log_p.device)
    return tokens, log_p.gather(-1, tokens[:, None])[:, 0]


@torch.no_grad()
def generate(
    model: GPT | Callable[[Tensor], Tensor],
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = EOS,
    forbid: Sequence[int] = (PAD, MASK),
    use_cache: bool = True,
    open_prompt: bool = False,
    generator: torch.Generator | None = None,
) -> Trace:
    """Continue prompts left to right; ids (B, prompt + new), <pad> after ``stop``.

    ``model``: output i names token i + 1. A `GPT` reads each token once and keeps its keys and
    values (``use_cache=False`` reads everything again, to the same result); other callables get
    all ids at every pass. Prompts of unequal length are padded on the left, with positions and a
    key mask that make the padding invisible; for callables other than `GPT` they must be equally
    long. ``open_prompt``: the tokens of the prompt see each other (a prefix-LM's mask); for a
    `GPT`. Frames hold the ids after every pass.

    Raises `ValueError` for an empty prompt or no new tokens, and where the model runs out of
    positions.
    """
    prompts = list(prompts)
    if not prompts or min(map(len, prompts)) == 0:
        raise ValueError("a prompt has at least one token (<bos>)")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is at least 1, got {max_new_tokens}")
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(p) for p in prompts])
    if isinstance(model, GPT):
        if longest + max_new_tokens - 1 > model.config.n_positions:
            raise ValueError(
                f"{longest} prompt tokens and {max_new_tokens} new ones do not fit "
                f"{model.config.n_positions} positions"
            )
    elif pads.any():
        raise ValueError("prompts of unequal length need a GPT, which can mask their padding")
    elif open_prompt:
        raise ValueError("an open prompt needs a GPT, which can be given a mask")
    device = next(model.parameters()).device if isinstance(model, GPT) else prompts[0].device
    ids = torch.stack(
        [torch.nn.functional.pad(p, (longest - len(p), 0), value=PAD) for p in prompts]
    )
    ids, pads = ids.to(device), pads.to(device)
    read = _reader(model, pads, prefix_lm(longest) if open_prompt else causal, use_cache)
    done, frames = torch.zeros(len(ids), dtype=torch.bool, device=device), []
    for _ in range(max_new_tokens):
        new = torch.full_like(ids[:, 0], PAD)
        new[~done], _ = choose(read(ids)[~done], generator, temperature, top_k, forbid)
        ids = torch.cat([ids, new[:, None]], 1)
        frames.append(ids)
        done = done | (new == stop) if stop is not None else done
        if done.all():
            break
    return Trace(ids, tuple(frames), len(frames))


def generate_backward(
    model: GPT | Callable[[Tensor], Tensor],
    endings: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    stop: int | None = BOS,
    **how: Any,
) -> Trace:
    """Continue endings to the left, for a model that reads backward; <pad> before ``stop``.

    ``model`` reads what it is given in reverse order: a `GPT` under the anticausal mask, with
    positions from the end, does the same as under the causal mask on the reversed text, and so this
    is `generate` on it, cache and all. ``how``: as there.
    """
    trace = generate(model, [e.flip(0) for e in endings], max_new_tokens, stop=stop, **how)
    return Trace(trace.ids.flip(1), tuple(f.flip(1) for f in trace.frames), trace.passes)


def aligned(ids: Tensor) -> Tensor:
    """Rows with their <pad>s moved to the right end, as the oracle takes them.

    >>> aligned(torch.tensor([[PAD, 7, 8], [7, 8, 9]])).tolist()
    [[7, 8, 0], [7, 8, 9]]
    """
    return ids.gather(1, (ids == PAD).byte().argsort(dim=1, stable=True))


def _reader(
    model: GPT | Callable, pads: Tensor, mask: Mask, use_cache: bool
) -> Callable[[Tensor], Tensor]:
    """ids (B, T) -> logits (B, V) of the next token, reading only what is new."""
    if not isinstance(model, GPT):
        return lambda ids: model(ids)[:, -1]
    cache = Cache()

    def read(ids: Tensor) -> Tensor:
        here = cache if use_cache else Cache()
        index = torch.arange(ids.shape[1], device=ids.device)
        positions = (index - pads[:, None]).clamp(min=0)
        masked = mask & padding(index >= pads[:, None]) if pads.any() else mask
        new = slice(here.length, None)
        hidden = model.hidden(ids[:, new], masked, positions[:, new], here)
        return model.head(hidden[:, -1])

    return read


@torch.no_grad()
def write(
    model: GPT | Callable[[Tensor], Tensor],
    canvas: Tensor,
    order: str = "random",
    budget: int = 1,
    *,
    forbid_mask: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    mask: Mask = bidirectional,
    generator: torch.Generator | None = None,
) -> Trace:
    """Fill the [MASK]s of a canvas (B, T), ``budget`` of them per row and pass, in any order.

    ``model``: output i names word i. ``order``: "left" (leftmost hole first), "random", or
    "confidence" (where the drawn word is most likely). Words that are there stay; everything is
    drawn from one forward pass per round. ``forbid_mask``: never write [MASK] itself.

    Raises `ValueError` for an unknown order, a budget below 1, and a canvas without holes.
    """
    if order not in ORDERS:
        raise ValueError(f"order is one of {ORDERS}, got {order!r}")
    if budget < 1:
        raise ValueError(f"the budget is at least 1 word per pass, got {budget}")
    if not (canvas == MASK).any():
        raise ValueError("nothing to write: the canvas has no [MASK]")
    read = (lambda ids: model(ids, mask)) if isinstance(model, GPT) else model
    ids, frames = canvas.clone(), []
    holes = ids == MASK
    while holes.any():
        row, place = holes.nonzero(as_tuple=True)
        forbid = (MASK,) if forbid_mask else ()
        tokens, log_p = choose(read(ids)[row, place], generator, temperature, top_k, forbid)
        rank = torch.full(ids.shape, torch.inf, dtype=torch.float64, device=ids.device)
        if order == "left":
            rank[row, place] = place.double()
        elif order == "random":
            drawn_rank = torch.rand(len(row), generator=generator, dtype=torch.float64)
            rank[row, place] = drawn_rank.to(ids.device)
        else:
            rank[row, place] = -log_p
        first = rank.argsort(dim=-1, stable=True)[:, :budget]
        chosen = torch.zeros_like(holes).scatter_(1, first, True) & holes
        drawn = ids.clone()
        drawn[row, place] = tokens
        ids = torch.where(chosen, drawn, ids)
        holes &= ~chosen
        frames.append(ids)
    return Trace(ids, tuple(frames), len(frames))
