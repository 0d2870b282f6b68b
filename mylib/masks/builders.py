"""Every mask the course uses, each with its drawing. ``#`` may look, ``.`` may not."""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor

from .mask import INTEGERS, Mask, Rule, as_mask, whole

# causal     # . . . .    A query sees itself and everything before it.
#            # # . . .
#            # # # . .
#            # # # # .
#            # # # # #
causal = Mask(lambda b, h, q, k: q >= k, "causal")

# anticausal  # # # # #   A query sees itself and everything after it: the transpose of causal.
#             . # # # #
#             . . # # #
#             . . . # #
#             . . . . #
anticausal = Mask(lambda b, h, q, k: q <= k, "anticausal")

# bidirectional  # # # # #   Everybody sees everybody.
#                # # # # #   (An index is never negative; the comparison only gives the
#                # # # # #   result its shape, which a constant could not.)
#                # # # # #
#                # # # # #
bidirectional = Mask(lambda b, h, q, k: (q >= 0) & (k >= 0), "bidirectional")


def padding(valid: Tensor) -> Mask:
    """Only real keys are seen; ``valid`` is bool (B, T), `True` = a real token.

    Keys alone are masked: a pad may look, but nobody looks at it. ::

        valid = 1 1 1 0      # # # .
                             # # # .
                             # # # .
                             # # # .
    """
    valid = _rows(valid, "padding(valid)", torch.bool)
    return Mask(lambda b, h, q, k, valid: valid[b, k] & (q >= 0), "padding", valid)


def sliding_window(left: int, right: int) -> Mask:
    """A query sees ``left`` tokens before itself, itself, and ``right`` tokens after itself. ::

    left=1 right=0      # . . . .
                        # # . . .
                        . # # . .
                        . . # # .
                        . . . # #
    """
    whole("a window's side", left, right)
    if left < 0 or right < 0:
        raise ValueError(
            f"a window reaches 0 or more tokens each way, got left={left} right={right}"
        )
    return Mask(lambda b, h, q, k: (q - k <= left) & (k - q <= right), f"window({left}, {right})")


def hops(*steps: int) -> Mask:
    """A query sees the keys these many places on (negative: back); 0 is itself. ::

    hops(-1, 0, 2)      # . # . .
                        # # . # .
                        . # # . #
                        . . # # .
                        . . . # #

    ``~hops(1)`` hides the next token alone, from each query directly; two hops find it.
    """
    if not steps:
        raise ValueError("a mask of hops needs at least one step")
    whole("a step", *steps)
    return Mask(
        lambda b, h, q, k: functools.reduce(operator.or_, [k - q == step for step in steps]),
        f"hops({', '.join(map(str, steps))})",
    )


def prefix_lm(prefix: int | Tensor) -> Mask:
    """Everybody sees the first ``prefix`` tokens; the rest is causal.

    ``prefix``: an int, one int per row (B,), or bool (B, T), `True` = a token that everybody sees
    (join it with `documents` where a row holds several). No other position is seen before its
    time, at any depth. A prefix longer than the row is refused when the mask is evaluated. ::

        prefix=2      # # . . .
                      # # . . .
                      # # # . .
                      # # # # .
                      # # # # #

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (2020), section 3.1.
    """
    given = _tensor(prefix, "prefix_lm(prefix)")
    if given.dtype == torch.bool:
        given = _rows(given, "prefix_lm(prefix)", torch.bool)
        return Mask(lambda b, h, q, k, given: given[b, k] | (k <= q), "prefix_lm", given)
    if given.dtype not in INTEGERS or not given.numel() or (given < 0).any():
        raise ValueError(f"a prefix is a whole number of tokens, 0 or more; got {prefix}")
    longest = int(given.max())
    if given.dim() > 0:
        given = _rows(given, "prefix_lm(prefix)", torch.long, dim=1)
        rule = lambda b, h, q, k, n: (k < n[b]) | (k <= q)  # noqa: E731
        return Mask(rule, "prefix_lm", given, tokens=longest)
    return Mask(
        lambda b, h, q, k: (k < longest) | (k <= q), f"prefix_lm({longest})", tokens=longest
    )


def documents(ids: Tensor, inner: Rule | None = None) -> Mask:
    """Tokens of one document see each other; ``ids`` is int (B, T), -1 = pad, seen by nobody. ::

        ids = 0 0 1 1 -1      # # . . .
                              # # . . .
                              . . # # .
                              . . # # .
                              . . . . .

    ``inner``: the mask within each document; its indices start at 0 in every one of them. Joined
    with ``&`` a mask counts from the beginning of the row, and a prefix would be the first
    document's alone::

        inner=prefix_lm(2)      # # . . . .
        ids = 0 0 0 1 1 1       # # . . . .
                                # # # . . .
                                . . . # # .
                                . . . # # .
                                . . . # # #

    Raises `ValueError` for ids that do not rise along a row (a document that goes on after another
    began), and for a document too short for ``inner``.
    """
    ids = _rows(ids, "documents(ids)", torch.long)
    back = (ids < ids.cummax(1).values) & (ids >= 0)
    if back.any():
        row = int(back.nonzero()[0, 0])
        raise ValueError(
            "documents stand one after another, numbered in their order; the ids of row "
            f"{row} go back: {ids[row].tolist()}"
        )

    def same(b: Tensor, q: Tensor, k: Tensor, ids: Tensor) -> Tensor:
        return (ids[b, q] == ids[b, k]) & (ids[b, k] >= 0)

    if inner is None:
        return Mask(lambda b, h, q, k, ids: same(b, q, k, ids), "documents", ids)
    inner, place = as_mask(inner), _place(ids)
    for row, where in zip(ids, place, strict=True) if inner.tokens else ():
        for number in row[row >= 0].unique():
            inner.check_tokens(int(where[row == number].max()) + 1)

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor, ids, place, *rows: Tensor) -> Tensor:
        return same(b, q, k, ids) & inner.rule(b, h, place[b, q], place[b, k], *rows)

    return Mask(rule, f"documents({inner.name})", ids, place, *inner.rows)


def block_causal(size: int) -> Mask:
    """Open within blocks of ``size`` tokens, causal between blocks. ::

    size=2      # # . .
                # # . .
                # # # #
                # # # #
    """
    whole("the size of a block", size)
    if size < 1:
        raise ValueError(f"a block has at least 1 token, got {size}")
    return Mask(lambda b, h, q, k: q // size >= k // size, f"block_causal({size})")


def causal_head(n: int) -> Mask:
    """The hybrid of the first source note: causal among the first ``n``, everything else open. ::

        n=3      # . . # #
                 # # . # #
                 # # # # #
                 # # # # #
                 # # # # #

    It looks like a cautious compromise and leaks every target in two layers: row 0 may look at
    token 4, and token 4 at everything. `prefix_lm` is its sound mirror image.
    Source: source note 1 ("causal to bidirectional"), "Option 3: Keep Some Causal Properties".
    """
    whole("the size of the causal head", n)
    if n < 0:
        raise ValueError(f"the causal head has 0 or more tokens, got {n}")
    return Mask(lambda b, h, q, k: (q >= n) | (k >= n) | (k <= q), f"causal_head({n})")


def flipped(mask: Rule, length: int | Tensor, queries: bool = True, keys: bool = True) -> Mask:
    """``mask`` with its rows (``queries``), its columns (``keys``) or both in reverse order.

    ``length``: tokens of a row, an int or one per row (B,). Both flips of `causal` are `anticausal`
    (for this mask the same as the transpose). One flip is the backward mask that source note 4's
    code used: it looks like a mirror image, and in two layers a token finds itself by way of its
    reflection, i -> n-1-i -> i. ::

        causal, queries alone      # # # # #      causal, both      # # # # #
                                   # # # # .                        . # # # #
                                   # # # . .                        . . # # #
                                   # # . . .                        . . . # #
                                   # . . . .                        . . . . #

    Source: source note 4 ("dual masking").
    """
    mask, given = as_mask(mask), _tensor(length, "flipped(length)")
    if given.dtype not in INTEGERS or not given.numel() or (given < 1).any():
        raise ValueError(f"a length is a whole number of tokens, 1 or more; got {length}")
    which = " and ".join(name for name, on in (("queries", queries), ("keys", keys)) if on)
    longest, name = int(given.max()), f"flipped({mask.name}, {which or 'nothing'})"

    def turned(b, h, q, k, n, rows) -> Tensor:
        # An index beyond the row (a pad) stays where it is.
        q = torch.where(q < n, n - 1 - q, q) if queries else q
        k = torch.where(k < n, n - 1 - k, k) if keys else k
        return mask.rule(b, h, q, k, *rows)

    if given.dim() > 0:
        given = _rows(given, "flipped(length)", torch.long, dim=1)
        return Mask(
            lambda b, h, q, k, n, *rows: turned(b, h, q, k, n[b], rows),
            *(name, given, *mask.rows),
            tokens=longest,
        )
    return Mask(
        lambda b, h, q, k, *rows: turned(b, h, q, k, longest, rows),
        *(name, *mask.rows),
        tokens=longest,
    )


def from_dense(visible: Tensor) -> Mask:
    """A mask from a ready-made bool matrix (T, T), or one matrix per row (B, T, T)."""
    visible = _tensor(visible, "from_dense(visible)")
    if visible.dtype != torch.bool or visible.dim() not in (2, 3):
        raise ValueError(
            "from_dense takes a bool tensor (T, T) or (B, T, T), True = may look; "
            f"got {visible.dtype} {tuple(visible.shape)}"
        )
    if visible.dim() == 2:
        return Mask(lambda b, h, q, k: visible.to(q.device)[q, k], "dense")
    return Mask(lambda b, h, q, k, visible: visible[b, q, k], "dense", visible)


def _rows(values: Tensor, name: str, dtype: torch.dtype, dim: int = 2) -> Tensor:
    values = _tensor(values, name)
    if values.dim() != dim:
        wanted = "(B, T)" if dim == 2 else "(B,)"
        raise ValueError(f"{name} takes a tensor {wanted}, got shape {tuple(values.shape)}")
    if dtype == torch.bool and values.dtype != torch.bool:
        raise TypeError(f"{name} takes a bool tensor, True = a real token; got {values.dtype}")
    if values.dtype not in (*INTEGERS, torch.bool):
        raise TypeError(f"{name} takes integers, got {values.dtype}")
    return values.to(dtype)


def _tensor(values: Tensor, name: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} takes a tensor, got {values!r:.99}") from error


def _place(ids: Tensor) -> Tensor:
    """Index of every token within its document, int (B, T); of no meaning at pads."""
    before = torch.nn.functional.pad(ids.cummax(1).values, (1, 0), value=-1)[:, :-1]
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return index - index.masked_fill(ids <= before, 0).cummax(1).values
