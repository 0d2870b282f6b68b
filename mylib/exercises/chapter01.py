"""Chapter 01: a masked head, three curves below the floor, one cached step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..masks import causal, dense, sliding_window
from . import check, expect

CAUSES = ("luck", "memory", "pads", "leak")


@check("1.1")
def check_masked_head(head: Callable) -> None:
    """``head(x, w_q, w_k, w_v, visible)``: x (T, C), weights (C, d), visible bool (T, T) -> (T, d).

    With x = I and w_v = I the output is the matrix of attention weights itself, so they can be
    read off any implementation.
    """
    time, d = 5, 3
    chance = torch.Generator().manual_seed(0)
    x = torch.eye(time)
    w_q, w_k = (torch.randn(time, d, generator=chance) for _ in range(2))
    visible = dense(causal, time)[0, 0]
    weights = head(x, w_q, w_k, torch.eye(time), visible)
    expect(
        isinstance(weights, torch.Tensor) and weights.shape == (time, time),
        f"return a tensor (T, d) = {(time, time)}, not {getattr(weights, 'shape', type(weights))}",
    )
    shown = weights.nan_to_num(0.0)  # an inverted mask leaves the last row without a key
    hidden = shown[~visible].abs().max()
    expect(
        not (hidden > 1e-6 and shown.tril(-1).abs().max() < 1e-6),
        "you hid what is visible and showed the future. Polarity: True means may look; and rows "
        "are queries (who looks), columns are keys",
    )
    expect(not weights.isnan().any(), "NaN: is a row hidden whole, or was 0 multiplied by -inf?")
    scores = (x @ w_q) @ (x @ w_k).T / d**0.5
    swapped = scores.T.masked_fill(~visible, -torch.inf).softmax(-1)
    expect(
        not torch.allclose(weights, swapped, atol=1e-5),
        "queries and keys are swapped: a row belongs to the word that looks, the query",
    )
    zeroed = scores.masked_fill(~visible, 0).softmax(-1)
    expect(
        not torch.allclose(weights, zeroed, atol=1e-5),
        "hidden scores were set to 0, but exp(0) = 1 is a fine weight: use -inf before the softmax",
    )
    one = torch.ones(time)
    rows = torch.allclose(weights.sum(-1), one, atol=1e-5)
    expect(
        rows or not torch.allclose(weights.sum(0), one, atol=1e-5),
        "the columns sum to 1, not the rows: the softmax runs over the keys of a query, dim=-1",
    )
    expect(rows, "the weights of a row do not sum to 1: were they set to zero after the softmax?")
    expect(hidden < 1e-6, "a hidden key still has weight: the future is visible")
    right = scores.masked_fill(~visible, -torch.inf).log_softmax(-1)[visible]
    expect(
        torch.allclose(weights[visible].log(), right, atol=1e-4),
        "nothing hidden is seen, but the weights differ: are the scores divided by sqrt(d), "
        "d the length of a query?",
    )
    other = dense(sliding_window(1, 1), time)[0, 0]
    weights = head(x, w_q, w_k, torch.eye(time), other)
    expect(
        weights[~other].abs().max() < 1e-6 and (weights[other] > 0).all(),
        "under another mask the head still looks as before: use the `visible` you are given",
    )
    x, w_v = torch.randn(time, 4, generator=chance), torch.randn(4, d, generator=chance)
    w_q, w_k = w_q[:4], w_k[:4]
    weights = ((x @ w_q) @ (x @ w_k).T / d**0.5).masked_fill(~visible, -torch.inf).softmax(-1)
    found, wanted = head(x, w_q, w_k, w_v, visible), weights @ (x @ w_v)
    expect(
        found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-4),
        "the weights are right, but what comes back is not weights @ (x @ w_v): are the values "
        "made, and are they averaged?",
    )


@check("1.2")
def check_below_the_floor(answer: dict[str, str]) -> None:
    """``answer``: {"A": cause, "B": cause, "C": cause}, causes of `CAUSES`."""
    expect(
        isinstance(answer, dict) and set(answer) == {"A", "B", "C"},
        'give one cause for each curve: {"A": ..., "B": ..., "C": ...}',
    )
    if None in answer.values() or Ellipsis in answer.values():
        raise NotImplementedError
    unknown = [cause for cause in answer.values() if cause not in CAUSES]
    expect(not unknown, f"a cause is one of {', '.join(CAUSES)}; found {unknown}")
    expect(
        "leak" not in answer.values(),
        "below the floor is not always a leak: all three models are causal. Read what was scored",
    )
    mistakes = {
        "A": ("luck", "A is scored on eight documents: how far do eight prices scatter?"),
        "B": ("memory", "B is scored on documents it was trained on: they are not fresh"),
        "C": ("pads", "C divides by all positions: what is the surprise of a pad, and who pays?"),
    }
    for curve, (cause, line) in mistakes.items():
        expect(answer[curve] == cause, line)


@check("1.3")
def check_cached_step(step: Callable) -> None:
    """``step(x, past_k, past_v, w_q, w_k, w_v, wpe)`` -> (output (d,), k (P+1, d), v (P+1, d)).

    ``x`` (P+1, C) are token embeddings without positions; the first P are already in the cache.
    """
    past, width = 4, 6
    chance = torch.Generator().manual_seed(0)
    x, wpe = (torch.randn(past + 1, width, generator=chance) for _ in range(2))
    w_q, w_k, w_v = (torch.randn(width, width, generator=chance) for _ in range(3))
    full = x + wpe
    q, k, v = full @ w_q, full @ w_k, full @ w_v
    right = (q[-1] @ k.T / width**0.5).softmax(-1) @ v
    spoiled = x.clone()
    spoiled[:past] = torch.nan  # whoever reads the old rows again, notices
    try:
        found = step(spoiled, k[:past].clone(), v[:past].clone(), w_q, w_k, w_v, wpe)
    except IndexError:
        expect(False, "a position too far: P tokens are cached, at 0 to P - 1; the new one is at P")
    expect(
        isinstance(found, tuple) and len(found) == 3,
        "return three things: the new token's output, all keys, all values",
    )
    output, keys, values = found
    expect(
        not any(t.isnan().any() for t in found),
        "old keys recomputed: the first P rows of x were read again; the cache has their keys",
    )
    expect(
        keys.shape == k.shape and values.shape == v.shape,
        f"the cache grows by one token: keys {tuple(k.shape)}, found {tuple(keys.shape)}",
    )
    bare, first = x[-1] @ w_k, (x[-1] + wpe[0]) @ w_k
    early = (x[-1] + wpe[past - 1]) @ w_k
    expect(
        not torch.allclose(keys[-1], early, atol=1e-5),
        "the position is one too small: P tokens are cached, at 0 to P - 1; the new one is at P",
    )
    expect(
        not torch.allclose(keys[-1], bare, atol=1e-5),
        "the new token has no position: add the row of wpe for the place where it stands",
    )
    expect(
        not torch.allclose(keys[-1], first, atol=1e-5),
        "the position restarted at 0: the new token stands at position P, behind the cached ones",
    )
    # One row (1, d) may pass for (d,): a model would have it so.
    output = output.reshape(-1, width) if output.numel() % width == 0 else output
    expect(
        output.shape == (1, width),
        f"one new token has one output ({width},), found {tuple(found[0].shape)}",
    )
    expect(
        not torch.allclose(output[0], v[0], atol=1e-4),
        "the query's mask is still T x T: its first row hides all keys but one. The new token "
        "stands last and sees all of them",
    )
    alone = (q[-1] @ k[:past].T / width**0.5).softmax(-1) @ v[:past]
    expect(
        not torch.allclose(output[0], alone, atol=1e-4),
        "the new token does not look at itself: append its key and value before the softmax",
    )
    placeless = (x[-1] @ w_q @ k.T / width**0.5).softmax(-1) @ v
    expect(
        not torch.allclose(output[0], placeless, atol=1e-4),
        "the query of the new token lacks its position: key and value have it",
    )
    expect(
        torch.allclose(keys, k, atol=1e-5) and torch.allclose(values, v, atol=1e-5),
        "keys or values differ: old ones stay as they are, the new one is appended at the end",
    )
    expect(torch.allclose(output[0], right, atol=1e-4), "the output differs: scaled by sqrt(d)?")
