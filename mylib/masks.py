"""Masks: who may look at whom.

A mask is a predicate ``(batch, head, query, key) -> bool tensor`` on index tensors, `True` = may
look. This is the signature of FlexAttention's ``mask_mod``, so one object serves both: `dense`
evaluates it by broadcasting for SDPA, FlexAttention traces it. In every drawing rows are queries,
columns are keys, ``#`` may look and ``.`` may not.

Sources: the predicate signature is that of ``torch.nn.attention.flex_attention``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Rule = Callable[..., Tensor]


class Mask:
    """A predicate ``(batch, head, query, key) -> bool``, joined with ``&``, ``|`` and ``~``.

    ``rows`` are the tensors of shape (B, ...) that the rule needs, one entry per row of the batch;
    they are handed to the rule after the four indices. Keeping them here, not in a closure, lets a
    mask tell its ``batch``, be cut along the batch (`take`) and move between devices (`to`).
    """

    def __init__(self, rule: Rule, name: str, *rows: Tensor) -> None:
        sizes = sorted({len(tensor) for tensor in rows})
        if len(sizes) > 1:
            raise ValueError(f"{name}: joined masks have different batch sizes {sizes}")
        self.rule, self.name, self.rows = rule, name, rows

    @property
    def batch(self) -> int | None:
        """Rows in the batch this mask was made for; None if it fits every batch."""
        return len(self.rows[0]) if self.rows else None

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.rule(batch, head, query, key, *self.rows)

    def __and__(self, other: Rule) -> Mask:
        return _join(operator.and_, "&", self, other)

    def __or__(self, other: Rule) -> Mask:
        return _join(operator.or_, "|", self, other)

    def __invert__(self) -> Mask:
        return Mask(lambda *args: ~self.rule(*args), f"~{self.name}", *self.rows)

    def take(self, index: slice | Tensor) -> Mask:
        """The same mask for a part of the batch."""
        return Mask(self.rule, self.name, *(tensor[index] for tensor in self.rows))

    def to(self, device: torch.device | str) -> Mask:
        """The same mask with its tensors on ``device``."""
        return Mask(self.rule, self.name, *(tensor.to(device) for tensor in self.rows))

    def __repr__(self) -> str:
        return f"Mask({self.name})"


def as_mask(rule: Rule) -> Mask:
    """A `Mask` from any callable of the signature; a `Mask` is returned as it is."""
    if isinstance(rule, Mask):
        return rule
    if not callable(rule):
        raise TypeError(
            "a mask is a callable (batch, head, query, key) -> bool tensor, "
            f"not {type(rule).__name__}; a ready-made matrix belongs into `from_dense`"
        )
    return Mask(rule, getattr(rule, "__name__", "mask"))


def _join(join: Callable, sign: str, left: Mask, right: Rule) -> Mask:
    right = as_mask(right)
    cut = 4 + len(left.rows)

    def rule(*args: Tensor) -> Tensor:
        return join(left.rule(*args[:cut]), right.rule(*args[:4], *args[cut:]))

    return Mask(rule, f"({left.name} {sign} {right.name})", *left.rows, *right.rows)


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
    return Mask(
        lambda b, h, q, k: functools.reduce(operator.or_, [k - q == step for step in steps]),
        f"hops({', '.join(map(str, steps))})",
    )


def prefix_lm(prefix: int | Tensor) -> Mask:
    """Everybody sees the first ``prefix`` tokens (an int, or one per row); the rest is causal.

    No position outside the prefix is seen before its time, at any depth. ::

        prefix=2      # # . . .
                      # # . . .
                      # # # . .
                      # # # # .
                      # # # # #

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (2020), section 3.1.
    """
    lengths = torch.as_tensor(prefix)
    if lengths.is_floating_point() or (lengths < 0).any():
        raise ValueError(f"a prefix is a whole number of tokens, 0 or more; got {prefix}")
    if lengths.dim() > 0:
        lengths = _rows(lengths, "prefix_lm(prefix)", torch.long, dim=1)
        return Mask(lambda b, h, q, k, n: (k < n[b]) | (k <= q), "prefix_lm", lengths)
    n = int(lengths)
    return Mask(lambda b, h, q, k: (k < n) | (k <= q), f"prefix_lm({n})")


def documents(ids: Tensor) -> Mask:
    """Tokens of one document see each other; ``ids`` is int (B, T), -1 = pad, seen by nobody. ::

    ids = 0 0 1 1 -1      # # . . .
                          # # . . .
                          . . # # .
                          . . # # .
                          . . . . .
    """
    ids = _rows(ids, "documents(ids)", torch.long)
    return Mask(
        lambda b, h, q, k, ids: (ids[b, q] == ids[b, k]) & (ids[b, k] >= 0), "documents", ids
    )


def block_causal(size: int) -> Mask:
    """Open within blocks of ``size`` tokens, causal between blocks. ::

    size=2      # # . .
                # # . .
                # # # #
                # # # #
    """
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
    if n < 0:
        raise ValueError(f"the causal head has 0 or more tokens, got {n}")
    return Mask(lambda b, h, q, k: (q >= n) | (k >= n) | (k <= q), f"causal_head({n})")


def from_dense(visible: Tensor) -> Mask:
    """A mask from a ready-made bool matrix (T, T), or one matrix per row (B, T, T)."""
    if visible.dtype != torch.bool or visible.dim() not in (2, 3):
        raise ValueError(
            "from_dense takes a bool tensor (T, T) or (B, T, T), True = may look; "
            f"got {visible.dtype} {tuple(visible.shape)}"
        )
    if visible.dim() == 2:
        return Mask(lambda b, h, q, k: visible.to(q.device)[q, k], "dense")
    return Mask(lambda b, h, q, k, visible: visible[b, q, k], "dense", visible)


def dense(
    mask: Rule,
    queries: int | Tensor,
    keys: int | Tensor | None = None,
    batch: int | None = None,
    heads: int = 1,
) -> Tensor:
    """Evaluate a mask for every pair: bool (B, H, Q, K), `True` = may look.

    ``queries`` and ``keys`` are a number of tokens or a 1-D tensor of indices (with a cache, the
    new queries have indices P, P+1, ...); ``keys=None`` means the same as the queries. ``batch``
    is the mask's own if not given, else 1.

    Raises `ValueError` for a batch that is not the mask's own, and for an index outside the
    tensors that the mask was made from. Nothing is broadcast silently.

    >>> dense(causal, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    mask = as_mask(mask)
    if batch is None:
        batch = mask.batch or 1
    if mask.batch is not None and mask.batch != batch:
        raise ValueError(f"{mask} was made for a batch of {mask.batch} rows, not {batch}")
    device = mask.rows[0].device if mask.rows else None
    query = _indices(queries, device)
    key = query if keys is None else _indices(keys, query.device)
    b = torch.arange(batch, device=query.device)[:, None, None, None]
    h = torch.arange(heads, device=query.device)[None, :, None, None]
    try:
        visible = mask(b, h, query[None, None, :, None], key[None, None, None, :])
    except IndexError as error:
        raise ValueError(
            f"{mask} was made from tensors {[tuple(tensor.shape) for tensor in mask.rows]} and "
            f"cannot answer for {len(query)} queries and {len(key)} keys"
        ) from error
    found = visible.dtype if isinstance(visible, Tensor) else type(visible).__name__
    if found != torch.bool:
        raise TypeError(f"{mask} answers with {found}; a mask answers with a bool tensor")
    return visible.expand(batch, heads, len(query), len(key))


def reach(visible: Tensor | Sequence[Tensor], layers: int | None = None) -> Tensor:
    """Who reaches whom through the layers: ``(visible OR identity) ** layers``, bool (..., T, T).

    ``visible`` is one bool matrix for all ``layers``, or a list with one matrix per layer (first
    layer first) for a mixed stack. The identity is the residual stream: a token always carries
    itself. Entry [i, j] says: something of input j can arrive at output i.

    >>> hybrid = dense(causal_head(3), 5)[0, 0]
    >>> [reach(hybrid, n)[0].int().tolist() for n in (1, 2)]
    [[1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    """
    if isinstance(visible, Tensor):
        if layers is None or layers < 0:
            raise ValueError(f"reach needs the number of layers (0 or more), got {layers}")
        stack = [visible] * layers
    else:
        stack = list(visible)
        if layers is not None and layers != len(stack):
            raise ValueError(f"{len(stack)} masks were given for {layers} layers")
        if not stack:
            raise ValueError("reach needs at least one mask")
        visible = stack[0]
    for layer in [visible, *stack]:
        square = layer.dim() >= 2 and layer.shape[-2:] == visible.shape[-1:] * 2
        if layer.dtype != torch.bool or not square:
            raise ValueError(
                "reach needs square bool matrices of one size, got "
                f"{layer.dtype} {tuple(layer.shape)}"
            )
    eye = torch.eye(visible.shape[-1], dtype=torch.bool, device=visible.device)
    seen = eye.expand(visible.shape)
    for layer in stack:
        # Products of 0/1 in float are exact here: sums stay far below 2**24.
        seen = ((layer | eye).float() @ seen.float()) > 0
    return seen


def _indices(tokens: int | Tensor, device: torch.device | None) -> Tensor:
    if isinstance(tokens, Tensor):
        if tokens.dim() != 1 or tokens.is_floating_point() or (tokens < 0).any():
            raise ValueError(
                "indices are a 1-D tensor of integers, 0 or more; got "
                f"{tokens.dtype} {tuple(tokens.shape)}: {tokens}"
            )
        return tokens if device is None else tokens.to(device)
    if tokens < 0:
        raise ValueError(f"a number of tokens is 0 or more, got {tokens}")
    return torch.arange(tokens, device=device)


def _rows(values: Tensor, name: str, dtype: torch.dtype, dim: int = 2) -> Tensor:
    values = torch.as_tensor(values)
    if values.dim() != dim:
        wanted = "(B, T)" if dim == 2 else "(B,)"
        raise ValueError(f"{name} takes a tensor {wanted}, got shape {tuple(values.shape)}")
    if dtype == torch.bool and values.dtype != torch.bool:
        raise TypeError(f"{name} takes a bool tensor, True = a real token; got {values.dtype}")
    if values.is_floating_point():
        raise TypeError(f"{name} takes integers, got {values.dtype}")
    return values.to(dtype)
