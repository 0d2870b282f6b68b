"""The class `Mask`, and `dense`, which evaluates one.

A mask is a predicate ``(batch, head, query, key) -> bool tensor`` on index tensors, `True` = may
look. This is the signature of FlexAttention's ``mask_mod``, so one object serves both: `dense`
evaluates it by broadcasting for SDPA, FlexAttention traces it. In every drawing rows are queries,
columns are keys, ``#`` may look and ``.`` may not.

Sources: the predicate signature is that of ``torch.nn.attention.flex_attention``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from numbers import Integral

import torch
from torch import Tensor

Rule = Callable[..., Tensor]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Mask:
    """A predicate ``(batch, head, query, key) -> bool``, joined with ``&``, ``|`` and ``~``.

    ``rows`` are the tensors of shape (B, ...) that the rule needs, one entry per row of the batch;
    they are handed to the rule after the four indices. Keeping them here, not in a closure, lets a
    mask tell its ``batch``, be cut along the batch (`take`) and move between devices (`to`).
    ``tokens``: how many tokens a row must have for the mask to make sense (a prefix of 5 does not
    fit a row of 3).
    """

    def __init__(self, rule: Rule, name: str, *rows: Tensor, tokens: int = 0) -> None:
        if wrong := [type(r).__name__ for r in rows if not isinstance(r, Tensor) or not r.dim()]:
            raise TypeError(f"{name}: rows are tensors of shape (B, ...), got {wrong[0]}")
        sizes = sorted({len(tensor) for tensor in rows})
        if len(sizes) > 1:
            raise ValueError(f"{name}: joined masks have different batch sizes {sizes}")
        self.rule, self.name, self.rows, self.tokens = rule, name, rows, tokens

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
        return Mask(
            lambda *args: ~self.rule(*args), f"~{self.name}", *self.rows, tokens=self.tokens
        )

    def take(self, index: slice | Tensor) -> Mask:
        """The same mask for a part of the batch."""
        return self._with(tensor[index] for tensor in self.rows)

    def to(self, device: torch.device | str) -> Mask:
        """The same mask with its tensors on ``device``."""
        return self._with(tensor.to(device) for tensor in self.rows)

    def check_tokens(self, tokens: int) -> None:
        """Raise `ValueError` if rows of so many tokens are too short for this mask."""
        if tokens < self.tokens:
            raise ValueError(f"{self} needs rows of {self.tokens} tokens or more, not {tokens}")

    def check_batch(self, batch: int | None) -> int:
        """The batch this mask is evaluated for: ``batch``, its own, or 1.

        Raises `ValueError` where it was made for another, and for a batch below 1.
        """
        if batch is not None:
            whole("a batch", batch)
            if batch < 1:
                raise ValueError(f"a batch has at least 1 row, got {batch}")
        if batch is not None and self.batch not in (None, batch):
            raise ValueError(f"{self} was made for a batch of {self.batch} rows, not {batch}")
        return batch or self.batch or 1

    def _with(self, rows: Iterable[Tensor]) -> Mask:
        return Mask(self.rule, self.name, *rows, tokens=self.tokens)

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

    name, tokens = f"({left.name} {sign} {right.name})", max(left.tokens, right.tokens)
    return Mask(rule, name, *left.rows, *right.rows, tokens=tokens)


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

    Raises `ValueError` for a batch that is not the mask's own, for an index outside the tensors
    that the mask was made from, for rows too short for it, and for an answer of another shape;
    `TypeError` for one that is not bool. Nothing is broadcast silently.

    >>> from mylib.masks import causal
    >>> dense(causal, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    mask = as_mask(mask)
    batch = mask.check_batch(batch)
    whole("a number of heads", heads)
    if heads < 1:
        raise ValueError(f"a number of heads is 1 or more, got {heads}")
    device = mask.rows[0].device if mask.rows else None
    query = _indices(queries, device)
    key = query if keys is None else _indices(keys, query.device)
    if mask.tokens and len(key):  # else there is nothing to wait for, on a GPU
        mask.check_tokens(int(key.max()) + 1)
    b = torch.arange(batch, device=query.device)[:, None, None, None]
    h = torch.arange(heads, device=query.device)[None, :, None, None]
    try:
        visible = mask(b, h, query[None, None, :, None], key[None, None, None, :])
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:  # torch's words for shapes that do not fit
        raise ValueError(
            f"{mask} was made from tensors {[tuple(tensor.shape) for tensor in mask.rows]} and "
            f"cannot answer for {len(query)} queries and {len(key)} keys: {error}"
        ) from error
    found = visible.dtype if isinstance(visible, Tensor) else type(visible).__name__
    if found != torch.bool:
        raise TypeError(f"{mask} answers with {found}; a mask answers with a bool tensor")
    shape = (batch, heads, len(query), len(key))
    if visible.dim() > 4 or any(
        found not in (1, wanted)
        for found, wanted in zip(visible.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(f"{mask} answers with the shape {tuple(visible.shape)}, expected {shape}")
    return visible.expand(shape)


def whole(what: str, *values: int) -> None:
    """Raise `TypeError` for a value that is no whole number."""
    for value in values:
        if not isinstance(value, Integral):
            raise TypeError(f"{what} is a whole number, got {value!r:.99}")


def _indices(tokens: int | Tensor, device: torch.device | None) -> Tensor:
    if isinstance(tokens, Tensor):
        if tokens.dim() != 1 or tokens.dtype not in INTEGERS or (tokens < 0).any():
            raise ValueError(
                "indices are a 1-D tensor of integers, 0 or more; got "
                f"{tokens.dtype} {tuple(tokens.shape)}: {tokens}"
            )
        return tokens if device is None else tokens.to(device)
    whole("a number of tokens", tokens)
    if tokens < 0:
        raise ValueError(f"a number of tokens is 0 or more, got {tokens}")
    return torch.arange(tokens, device=device)
