"""The same mask for FlexAttention, which skips the blocks that nobody looks at."""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from .mask import Rule, as_mask


class Blocks(BlockMask):
    """A `BlockMask` whose sparsity counts blocks, the last ones too where tokens do not fill them.

    PyTorch's divides the tokens of whole blocks by the tokens of the rows: under 0 for six tokens.
    (What `to` or an index makes of it is PyTorch's again.)
    """

    def sparsity(self) -> float:
        """The empty blocks among all blocks, in per cent."""
        looked_at = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            looked_at += int(self.full_kv_num_blocks.sum())
        blocks = self.kv_num_blocks.numel() * self.kv_indices.shape[-1]
        return 100 * (1 - looked_at / blocks)


def block_mask(
    mask: Rule,
    queries: int,
    keys: int | None = None,
    batch: int | None = None,
    heads: int | None = None,
    block: int = 128,
    device: torch.device | str | None = None,
) -> Blocks:
    """The `BlockMask` of a mask, for ``flex_attention(q, k, v, block_mask=...)``.

    ``block``: tokens of a block; shorter rows lie in a single one. ``device``: by default the
    mask's. FlexAttention runs forward on a CPU and has no backward there; `mylib.model.GPT`
    therefore trains with `dense`.

    Raises `ValueError` for a batch that is not the mask's own, and for rows too short for it.

    >>> from mylib.masks import causal
    >>> block_mask(causal, 256).sparsity()  # one block of four is empty
    25.0
    >>> block_mask(causal, 6).sparsity()  # there is one block, and it is not empty
    0.0

    Source: ``torch.nn.attention.flex_attention``.
    """
    mask = as_mask(mask)
    keys = queries if keys is None else keys
    mask.check_tokens(keys)
    if mask.batch is not None or batch is not None:
        batch = mask.check_batch(batch)
    if device is None:
        device = mask.rows[0].device if mask.rows else "cpu"
    mask = mask.to(device)
    # FlexAttention reads the signature of a function: it cannot be the object itself.
    found = create_block_mask(
        lambda b, h, q, k: mask(b, h, q, k), batch, heads, queries, keys, device, BLOCK_SIZE=block
    )
    return Blocks.from_kv_blocks(
        *(found.kv_num_blocks, found.kv_indices),
        *(found.full_kv_num_blocks, found.full_kv_indices),
        *(block, found.mask_mod, (queries, keys)),
    )
