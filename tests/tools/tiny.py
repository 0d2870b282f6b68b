"""Models and masks small enough that a test can look at all of them."""

import torch
from torch import nn

from mylib import masks
from mylib.masks import Mask
from mylib.model import GPT, GPTConfig


def gpt(seed=0, *, scale=0.3, **sizes):
    """A GPT whose every parameter is drawn at random, so that no link is zero by chance.

    GPT-2's own initial weights are so small that everything is nearly linear.
    """
    config = GPTConfig(
        **{"vocab_size": 16, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2} | sizes
    )
    chance = torch.Generator().manual_seed(seed)
    model = GPT(config).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, std=scale, generator=chance)
        if "ln_" in name and name.endswith("weight"):
            weight.data += 1
    return model


class Toy(nn.Module):
    """An embedding, then whatever a test does to its (B, T, 8)."""

    def __init__(self, then, **layers):
        super().__init__()
        self.embed = nn.Embedding(24, 8)
        nn.init.normal_(self.embed.weight, generator=torch.Generator().manual_seed(0))
        self.then, self.layers = then, nn.ModuleDict(layers)

    def forward(self, ids):
        return self.then(self, self.embed(ids))


def ids(batch, time, seed=0, vocab=16):
    """Token ids (batch, time), special tokens left out."""
    return torch.randint(6, vocab, (batch, time), generator=torch.Generator().manual_seed(seed))


VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 2, -1, -1], [0, 0, 0, 0, 0, 0]])

# By name, for a batch of three rows of six tokens and for two heads.
MASKS = {
    "causal": masks.causal,
    "anticausal": masks.anticausal,
    "bidirectional": masks.bidirectional,
    "window": masks.sliding_window(2, 1),
    "prefix": masks.prefix_lm(3),
    "prefix per row": masks.prefix_lm(torch.tensor([0, 2, 6])),
    "blocks": masks.block_causal(2),
    "hybrid": masks.causal_head(3),
    "padding": masks.padding(VALID),
    "causal and padding": masks.causal & masks.padding(VALID),
    "documents": masks.causal & masks.documents(DOCUMENTS),
    "per head": Mask(lambda b, h, q, k: torch.where(h == 0, q >= k, q <= k), "per head"),
    "plain function": lambda b, h, q, k: (q - k) % 2 == 0,
}
