"""Changing a trained model: a larger vocabulary, fewer layers, a head that is fitted anew."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

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


def without_last(model: GPT, layers: int) -> GPT:
    """A copy of ``model`` without its last ``layers`` layers; final norm and head are as they were.

    They were trained on what the last layer puts out, so that a loss which rises may be theirs:
    `OwnHead` is the control. Raises `ValueError` for less than 0 layers and for all of them.

    >>> from mylib.model import GPTConfig
    >>> config = GPTConfig(50, n_embd=8, n_layer=3, n_head=2)
    >>> model = GPT.init(config, torch.Generator().manual_seed(0))
    >>> without_last(model, 2).config.n_layer
    1

    Source: source note 4 ("dual masking"), "I remove the transformer layers one by one".
    """
    held = model.config.n_layer
    if not 0 <= layers < held:
        raise ValueError(f"of {held} layers 0 to {held - 1} can be removed, not {layers}")
    kept = held - layers
    shorter = GPT(dataclasses.replace(model.config, n_layer=kept)).to(model.wte.weight)
    gone = tuple(f"h.{number}." for number in range(kept, held))
    state = {n: t for n, t in model.state_dict().items() if not n.startswith(gone)}
    shorter.load_state_dict(state)
    return shorter.train(model.training)


class OwnHead(nn.Module):
    """A frozen copy of a `GPT` with a final norm and a head of its own, for `fit` to train.

    Before any training it answers as the model does. What fitting gains was there, in the frozen
    layers, and the old head could not read it.

    Source: the idea is that of Belrose et al., "Eliciting Latent Predictions from Transformers with
    the Tuned Lens" (2023); here final norm and head are fitted, not a map before them.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.body = copy.deepcopy(model).requires_grad_(False)
        self.config = model.config
        self.ln_f = copy.deepcopy(model.ln_f).requires_grad_(True)
        self.lm_head = nn.Linear(*reversed(model.wte.weight.shape), bias=False)
        self.lm_head.weight = nn.Parameter(model.wte.weight.detach().clone())
        self.body.ln_f = nn.Identity()

    def answers(self, batch: Any) -> Tensor:
        """Logits (N, V) of the outputs that an objective's batch asks."""
        with torch.no_grad():
            hidden = self.body.hidden(batch.inputs, batch.mask, batch.positions)[batch.asked]
        return self.lm_head(self.ln_f(hidden))
