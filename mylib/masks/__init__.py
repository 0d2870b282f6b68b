"""Masks: who may look at whom.

One class `Mask` over predicates ``(batch, head, query, key) -> bool``, `True` = may look;
`dense` for SDPA, `block_mask` for FlexAttention, `reach` for what layers add up to.
"""

from .builders import (
    anticausal,
    bidirectional,
    block_causal,
    causal,
    causal_head,
    documents,
    flipped,
    from_dense,
    hops,
    padding,
    prefix_lm,
    sliding_window,
)
from .flex import block_mask
from .mask import Mask, Rule, as_mask, dense
from .reach import reach

__all__ = [
    "Mask",
    "Rule",
    "anticausal",
    "as_mask",
    "bidirectional",
    "block_causal",
    "block_mask",
    "causal",
    "causal_head",
    "dense",
    "documents",
    "flipped",
    "from_dense",
    "hops",
    "padding",
    "prefix_lm",
    "reach",
    "sliding_window",
]
