"""Left to right, and right to left: a causal model continues a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import Mask, causal, padding, prefix_lm
from ..model import GPT, Cache
from ..tokenizer import BOS, EOS, MASK, PAD
from .drawing import choose
from .trace import Trace


@torch.no_grad()
def generate(
    model: GPT | Callable[[Tensor], Tensor],
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
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
    rounds = torch.zeros(len(ids), dtype=torch.long, device=device)
    for _ in range(max_new_tokens):
        new = torch.full_like(ids[:, 0], PAD)
        new[~done], _ = choose(read(ids)[~done], generator, temperature, top_k, forbid, top_p)
        ids = torch.cat([ids, new[:, None]], 1)
        frames.append(ids)
        rounds += ~done
        done = done | (new == stop) if stop is not None else done
        if done.all():
            break
    commits = (torch.arange(ids.shape[1], device=device) - longest + 1).clamp(min=0)
    commits = commits.expand_as(ids).clone()
    return Trace(ids, tuple(frames), commits, torch.zeros_like(ids), rounds)


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
    ids, commits, revisions = (t.flip(1) for t in (trace.ids, trace.commits, trace.revisions))
    return Trace(ids, tuple(f.flip(1) for f in trace.frames), commits, revisions, trace.row_passes)


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
