"""One draw: from logits to a token.

Shapes: N rows, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def settled(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    forbid: Sequence[int] = (),
    top_p: float | None = None,
) -> Tensor:
    """log p (N, V) that tokens are drawn from, float64, for logits (N, V).

    ``forbid``: tokens that are never drawn. Of the others ``top_k`` keeps the k most likely, and
    then ``top_p`` (nucleus) the fewest of the most likely whose probabilities sum to at least
    ``top_p``. ``temperature`` 0 leaves the logits as they are: `choose` then takes the most likely
    token.

    Raises `ValueError` for a negative temperature, a top_k outside 1..V, a top_p outside (0, 1],
    NaN logits, and a row in which everything is forbidden.
    Source of ``top_p``: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"a temperature is 0 (greedy) or more, and finite, got {temperature}")
    if top_k is not None and not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k lies in 1..{logits.shape[-1]}, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p lies above 0 and is at most 1, got {top_p}")
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
    if top_p is not None and top_p < 1:
        best, token = logits.log_softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = best.exp().cumsum(-1) - best.exp()  # of the tokens that are more likely
        enough = before >= top_p - 1e-9  # sums are exact to rounding only
        enough[:, 0] = False  # the likeliest stays, however little is asked for
        logits = logits.masked_fill(enough.gather(-1, token.argsort(-1)), -torch.inf)
    return logits.log_softmax(-1)


def choose(
    logits: Tensor,
    generator: torch.Generator | None,
    temperature: float = 1.0,
    top_k: int | None = None,
    forbid: Sequence[int] = (),
    top_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of logits (N, V); return the tokens and their log p, both (N,).

    ``temperature`` 0 takes the most likely token. For the rest, and the errors, see `settled`.

    >>> choose(torch.tensor([[0.0, 2.0, 1.0]]), None, temperature=0)[0].tolist()
    [1]
    """
    log_p = settled(logits, temperature, top_k, forbid, top_p)
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        # On the CPU, where the generator is: the same words on every device.
        tokens = torch.multinomial(log_p.exp().cpu(), 1, generator=generator)[:, 0]
        tokens = tokens.to(log_p.device)
    return tokens, log_p.gather(-1, tokens[:, None])[:, 0]
