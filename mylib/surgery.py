"""Changing a trained model's shape: a larger vocabulary."""

from __future__ import annotations

import dataclasses

import torch

from .model import GPT


def with_vocabulary(model: GPT, vocab_size: int, generator: torch.Generator) -> GPT:
    """A copy of ``model`` with a larger vocabulary: the way to a [MASK] that it never had.

    New rows of the embedding begin at the mean of the old ones, with a little noise so that they
    differ (a tenth of the old rows' spread), and so their logits begin as those of an average word.
    Old ids keep their weights, and their logits.

    Raises `ValueError` for a vocabulary that is smaller than the old one.

    >>> from mylib.model import GPTConfig
    >>> old = GPT.init(GPTConfig(50, n_embd=8, n_head=2), torch.Generator().manual_seed(0))
    >>> new = with_vocabulary(old, 51, torch.Generator().manual_seed(0))
    >>> new.wte.weight.shape, torch.equal(new.wte.weight[:50], old.wte.weight)
    (torch.Size([51, 8]), True)
    """
    old = model.wte.weight.detach()
    if vocab_size < len(old):
        raise ValueError(f"the vocabulary has {len(old)} tokens and cannot shrink to {vocab_size}")
    config = dataclasses.replace(model.config, vocab_size=vocab_size)
    grown = GPT(config).to(device=old.device, dtype=old.dtype).train(model.training)
    noise = torch.randn(vocab_size - len(old), old.shape[1], generator=generator).to(old)
    rows = old.mean(0) + 0.1 * old.std(0, correction=0) * noise
    grown.load_state_dict({**model.state_dict(), "wte.weight": torch.cat([old, rows])})
    return grown
