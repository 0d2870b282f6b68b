"""The peers of `mylib.experiments.benchmark`: GPT-2's network as other packages write it.

Each takes the weights of one of our models and must then have its loss (`same_loss`). What is
missing on this machine is left out and named (`load`).

transformers        GPT2LMHeadModel, with SDPA (its default) and with its own attention ("eager")
llms-from-scratch   GPTModel of the book's chapter 4, and its GPTModelFast, head tied to the
                    embedding as GPT-2's is. The package asks for tensorflow and an older numpy,
                    which these two do not use, so it is installed with --no-deps.
x-transformers      TransformerWrapper and Decoder as near to GPT-2 as their options go: learned
                    positions, layer norm before each part, tanh GELU, tied head. Its norms and its
                    queries, keys and values have no biases; ours are 0 when fresh, so that a fresh
                    model has the same loss with 0.5 % fewer parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model import GPT

PACKAGES = {
    "transformers": "transformers",
    "llms-from-scratch": "llms_from_scratch.ch04",
    "x-transformers": "x_transformers",
}


class Peer(nn.Module):
    """A network of another package with the weights of ``ours``: ids (B, T) -> logits (B, T, V)."""

    caches = True  # whether it can write with a cache

    def __init__(self, ours: GPT) -> None:
        super().__init__()
        self.config = ours.config
        self.net = self.build(ours)

    def build(self, ours: GPT) -> nn.Module:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(ids)

    def answers(self, batch: Any) -> Tensor:
        """Logits of the asked outputs, for `mylib.evaluation`; of all outputs first, as usual."""
        return self(batch.inputs)[batch.asked]

    def write(self, prompt: Tensor, new: int, use_cache: bool) -> Tensor:
        """The ids (1, P + new) after ``new`` likeliest tokens in turn."""
        raise NotImplementedError


class Transformers(Peer):
    attention = "sdpa"

    def build(self, ours: GPT) -> nn.Module:
        return gpt2_like(ours, self.attention)

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(ids, use_cache=False).logits

    def write(self, prompt: Tensor, new: int, use_cache: bool) -> Tensor:
        how = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
        seen = torch.ones_like(prompt)
        return self.net.generate(prompt, attention_mask=seen, use_cache=use_cache, **how)


class TransformersEager(Transformers):
    attention = "eager"


class FromScratch(Peer):
    caches = False  # its generate_text_simple has none

    def build(self, ours: GPT) -> nn.Module:
        from llms_from_scratch.ch04 import GPTModel

        net = GPTModel(book_config(ours))
        return carried(net, {**book_weights(ours), **separate(ours), **masks(net)})

    def write(self, prompt: Tensor, new: int, use_cache: bool) -> Tensor:
        from llms_from_scratch.ch04 import generate_text_simple

        return generate_text_simple(self.net, prompt, new, self.config.n_positions)


class FromScratchFast(FromScratch):
    def build(self, ours: GPT) -> nn.Module:
        from llms_from_scratch.ch04 import GPTModelFast

        weights = book_weights(ours)
        for i, block in enumerate(ours.h):
            at = f"trf_blocks.{i}."
            weights |= pair(at + "att.qkv.", block.attn.c_attn)
            weights |= pair(at + "att.proj.", block.attn.c_proj)
        renamed = {torch_norms(name): weight for name, weight in weights.items()}
        return carried(GPTModelFast(book_config(ours)), renamed)


class XTransformers(Peer):
    def build(self, ours: GPT) -> nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        c = ours.config
        layers = Decoder(
            **dict(dim=c.n_embd, depth=c.n_layer, heads=c.n_head, attn_flash=True, verbose=False),
            attn_dim_head=c.n_embd // c.n_head,
            ff_custom_activation=nn.GELU(approximate="tanh"),
            norm_add_unit_offset=False,
        )
        sizes = dict(num_tokens=c.vocab_size, max_seq_len=c.n_positions)
        how = dict(tie_embedding=True, tie_embedding_scale=1.0)
        net = TransformerWrapper(**sizes, **how, attn_layers=layers)
        net.load_state_dict(x_weights(ours))
        return net.train()

    def write(self, prompt: Tensor, new: int, use_cache: bool) -> Tensor:
        from x_transformers import AutoregressiveWrapper

        writer = AutoregressiveWrapper(self.net)
        written = writer.generate(prompt, new, temperature=0.0, cache_kv=use_cache)
        return torch.cat([prompt, written], 1)


PEERS: dict[str, tuple[str, type[Peer]]] = {
    "transformers": ("transformers", Transformers),
    "transformers, eager": ("transformers", TransformersEager),
    "llms-from-scratch": ("llms-from-scratch", FromScratch),
    "llms-from-scratch, fast": ("llms-from-scratch", FromScratchFast),
    "x-transformers": ("x-transformers", XTransformers),
}
FASTEST_OF_EACH = ("transformers", "llms-from-scratch, fast", "x-transformers")


def load(ours: GPT, names: Sequence[str] = tuple(PEERS)) -> dict[str, Peer]:
    """The peers that can be imported here, with the weights of ``ours``."""
    found = {}
    for name in names:
        try:
            found[name] = PEERS[name][1](ours)
        except ImportError:
            continue
    return found


def packages() -> tuple[dict[str, str], list[str]]:
    """Versions of the peers' packages, and those that are absent or cannot be imported."""
    found, absent = {}, []
    for package, module in PACKAGES.items():
        try:
            import_module(module)
            found[package] = version(package)
        except ImportError:
            absent.append(package)
    return found, absent


def loss_of(model: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Mean -log p of tokens 1 ... T-1, nats."""
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def same_loss(losses: dict[str, float], tolerance: float = 1e-5) -> float:
    """The loss that all contestants have. Raises `ValueError` where they differ."""
    ours = losses["ours"]
    if not all(abs(loss - ours) <= tolerance * ours for loss in losses.values()):
        raise ValueError(f"these contestants do not compute the same: {losses}")
    return round(ours, 6)


def same_size(parameters: dict[str, int]) -> dict[str, int]:
    """``parameters``. Raises `ValueError` where one is more than 3 % off ours."""
    if any(abs(n / parameters["ours"] - 1) > 0.03 for n in parameters.values()):
        raise ValueError(f"these contestants are not of one size: {parameters}")
    return parameters


def gpt2_like(model: GPT, attention: str = "sdpa") -> nn.Module:
    """transformers' GPT-2 with the sizes and the weights of ``model``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = asdict(model.config)
    dropout = sizes.pop("dropout")
    config = GPT2Config(
        **sizes,
        **dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout),
        **dict(attn_implementation=attention, bos_token_id=None, eos_token_id=None),
    )
    theirs = GPT2LMHeadModel(config)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    # GPT-2 keeps the matrices of its linear layers transposed.
    weights = {
        f"transformer.{name}": w.T if w.dim() == 2 and name.removesuffix(".weight") in linear else w
        for name, w in model.state_dict().items()
    }
    theirs.load_state_dict(weights | {"lm_head.weight": model.wte.weight})
    return theirs.train()


def book_config(ours: GPT) -> dict:
    """The sizes under the names of the book."""
    c = ours.config
    sizes = dict(vocab_size=c.vocab_size, context_length=c.n_positions, emb_dim=c.n_embd)
    return dict(**sizes, n_heads=c.n_head, n_layers=c.n_layer, drop_rate=c.dropout, qkv_bias=True)


def book_weights(ours: GPT) -> dict[str, Tensor]:
    """All weights but attention's, under the names of the book."""
    found = {"tok_emb.weight": ours.wte.weight, "pos_emb.weight": ours.wpe.weight}
    found["out_head.weight"] = ours.wte.weight
    found |= {"final_norm.scale": ours.ln_f.weight, "final_norm.shift": ours.ln_f.bias}
    for i, block in enumerate(ours.h):
        for number, norm in enumerate((block.ln_1, block.ln_2), start=1):
            at = f"trf_blocks.{i}.norm{number}."
            found |= {at + "scale": norm.weight, at + "shift": norm.bias}
        found |= pair(f"trf_blocks.{i}.ff.layers.0.", block.mlp.c_fc)
        found |= pair(f"trf_blocks.{i}.ff.layers.2.", block.mlp.c_proj)
    return found


def separate(ours: GPT) -> dict[str, Tensor]:
    """Attention's weights with queries, keys and values apart, under the names of the book."""
    found = {}
    for i, block in enumerate(ours.h):
        at = f"trf_blocks.{i}.att."
        weights, biases = block.attn.c_attn.weight.chunk(3), block.attn.c_attn.bias.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            found |= {f"{at}W_{name}.weight": weight, f"{at}W_{name}.bias": bias}
        found |= pair(at + "out_proj.", block.attn.c_proj)
    return found


def masks(net: nn.Module) -> dict[str, Tensor]:
    """The book's mask buffers, which are no weights."""
    return {name: buffer for name, buffer in net.named_buffers() if name.endswith("mask")}


def torch_norms(name: str) -> str:
    """The book's name of a norm's weight as PyTorch has it."""
    return name.replace(".scale", ".weight").replace(".shift", ".bias")


def pair(at: str, linear: nn.Linear) -> dict[str, Tensor]:
    return {at + "weight": linear.weight, at + "bias": linear.bias}


def carried(net: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """``net`` with these weights and its head tied to its embedding."""
    net.load_state_dict(weights)
    net.out_head.weight = net.tok_emb.weight
    return net.train()


def x_weights(ours: GPT) -> dict[str, Tensor]:
    """Our weights under the names of x-transformers, less the biases that it does not have."""
    root = ours.config.n_embd**0.5  # it divides its positions by this
    found = {"token_emb.emb.weight": ours.wte.weight, "pos_emb.emb.weight": ours.wpe.weight * root}
    found["attn_layers.final_norm.gamma"] = ours.ln_f.weight
    for i, block in enumerate(ours.h):
        attention, mlp = f"attn_layers.layers.{2 * i}.", f"attn_layers.layers.{2 * i + 1}."
        found |= {attention + "0.0.gamma": block.ln_1.weight, mlp + "0.0.gamma": block.ln_2.weight}
        for name, weight in zip("qkv", block.attn.c_attn.weight.chunk(3), strict=True):
            found[f"{attention}1.to_{name}.weight"] = weight
        found[attention + "1.to_out.weight"] = block.attn.c_proj.weight
        found |= pair(mlp + "1.ff.0.0.", block.mlp.c_fc) | pair(mlp + "1.ff.2.", block.mlp.c_proj)
    return found
