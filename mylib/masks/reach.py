"""Who reaches whom through the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reach(visible: Tensor | Sequence[Tensor], layers: int | None = None) -> Tensor:
    """Who reaches whom through the layers: ``(visible OR identity) ** layers``, bool (..., T, T).

    ``visible`` is one bool matrix for all ``layers``, or a list with one matrix per layer (first
    layer first) for a mixed stack. The identity is the residual stream: a token always carries
    itself. Entry [i, j] says: something of input j can arrive at output i.

    >>> from mylib.masks import causal_head, dense
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
