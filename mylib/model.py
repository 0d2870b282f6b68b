"""One small Transformer, GPT-2's architecture, with the mask as an argument.

There is no mask buffer, no ``is_decoder`` flag and no second attention class: who may look at whom
is said at every call. B batch, T time, C channels (n_embd), H heads, V vocabulary.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); names of
fields and parameters are GPT-2's.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import read_safetensors, write_safetensors
from .masks import Rule, as_mask, causal, dense

FORMAT = "mylib.GPT 1"


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a `GPT`, under GPT-2's names; ``dropout`` stands for its three ``*_pdrop``."""

    vocab_size: int
    n_positions: int = 128
    n_embd: int = 128
    n_layer: int = 4
    n_head: int = 4
    dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is a whole number, got {getattr(self, name)!r:.99}")
        for name in ("vocab_size", "n_positions", "n_embd", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.n_layer < 0:
            raise ValueError(f"n_layer is at least 0, got {self.n_layer}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), got {self.dropout}")
        if not 0 <= self.layer_norm_epsilon < 1:
            raise ValueError(f"layer_norm_epsilon lies in [0, 1), got {self.layer_norm_epsilon}")

    @property
    def parameters(self) -> int:
        """How many numbers a `GPT` of these sizes learns."""
        per_layer = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.vocab_size + self.n_positions + 2) * self.n_embd + self.n_layer * per_layer


class Cache:
    """Keys and values of the tokens a model has read so far, one pair per layer."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, C/H) of one layer; return all of them."""
        if layer == len(self.layers):
            self.layers.append((k, v))
        else:
            old_k, old_v = self.layers[layer]
            self.layers[layer] = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        return self.layers[layer]


class Attention(nn.Module):
    """Multi-head self-attention under whatever mask it is given."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, visible: Tensor | None, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). ``visible`` is bool (B, 1 or H, T, keys); None means causal.

        A query that may look at nobody gets zeros.
        """
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # each (B, T, C)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None,
        )
        y = y.transpose(1, 2).reshape(B, T, C)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each read from a layer norm and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, visible: Tensor | None, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), visible, cache, layer)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2's network. ``model(ids, mask=causal, positions=None, cache=None)`` -> (B, T, V).

    >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=12, n_layer=1, n_head=2)
    >>> model = GPT.init(config, torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[7, 8, 9]])).shape
    torch.Size([1, 3, 11])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    @classmethod
    def init(cls, config: GPTConfig, generator: torch.Generator) -> GPT:
        """A fresh model with GPT-2's initial weights, drawn from ``generator``.

        Normal with standard deviation 0.02; the two projections back into the residual stream are
        scaled by 1/sqrt(2 * n_layer); biases are 0.
        """
        model = cls(config)
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                nn.init.constant_(weight, float("ln_" in name and name.endswith("weight")))
                continue
            scale = 1 / math.sqrt(2 * config.n_layer) if "c_proj" in name else 1.0
            nn.init.normal_(weight, std=0.02 * scale, generator=generator)
        return model

    def forward(
        self,
        ids: Tensor,
        mask: Rule = causal,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) for token ids (B, T); see `hidden` for the arguments and errors."""
        return self.head(self.hidden(ids, mask, positions, cache))

    def hidden(
        self,
        ids: Tensor,
        mask: Rule = causal,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, C), after the last layer norm.

        ``mask``: who may look at whom (`mylib.masks`). ``positions``: int (B, T) or (T,), by
        default 0, 1, ... from the left. ``cache``: a `Cache`; the ids are then the tokens that
        follow the P cached ones, the mask is asked for queries P ... and keys 0 ..., and a mask
        under which a cached token may look at a new one is refused: its cached states would be
        wrong.

        Raises `ValueError` for ids outside the vocabulary, more positions than the model has, a
        mask made for another batch, and the refused cache.
        """
        self._check(ids)
        past = cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        self._check_positions(positions, ids)
        visible = self._visible(mask, ids, past)
        x = self.wte(ids) + self.wpe(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for layer, block in enumerate(self.h):
            x = block(x, visible, cache, layer)
        return self.ln_f(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., C); the weights are those of the embedding.

        ``model.head(hidden[asked])`` computes logits only where they are asked for.
        """
        return F.linear(hidden, self.wte.weight)

    def answers(self, batch: Any) -> Tensor:
        """Logits (N, V) of the outputs that an objective's batch asks, and of no others."""
        return self.head(self.hidden(batch.inputs, batch.mask, batch.positions)[batch.asked])

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding (transformers' name for it)."""
        return self.wte

    def _visible(self, mask: Rule, ids: Tensor, past: int) -> Tensor | None:
        batch, time = ids.shape
        if mask is causal and (past == 0 or time == 1):
            # The kernel's own causal path: nothing to materialise. One new token sees everything.
            return (
                None if past == 0 else torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
            )
        mask = as_mask(mask).to(ids.device)
        every = torch.arange(past + time, device=ids.device)
        if past and mask is not causal:
            back = self._dense(mask, every[:past], every, batch)[..., past:]
            if bool(back.any()):
                _, _, query, key = back.nonzero()[0].tolist()
                raise ValueError(
                    f"{mask} cannot be cached: cached token {query} may look at new token "
                    f"{past + key}, so its cached state would be wrong"
                )
        return self._dense(mask, every[past:], every, batch)

    def _dense(self, mask: Rule, queries: Tensor, keys: Tensor, batch: int) -> Tensor:
        visible = dense(mask, queries, keys, batch, self.config.n_head)
        # A mask that is the same for all heads comes back expanded over them: one copy is enough.
        return visible if visible.stride(1) else visible[:, :1]

    def _check(self, ids: Tensor) -> None:
        if ids.dim() != 2 or ids.numel() == 0:
            raise ValueError(f"ids are (B, T), both at least 1, got {tuple(ids.shape)}")
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"ids are int64 or int32, got {ids.dtype}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(f"ids lie in 0..{self.config.vocab_size - 1}, found {low}..{high}")

    def _check_positions(self, positions: Tensor, ids: Tensor) -> None:
        if positions.shape not in (ids.shape, ids.shape[1:]):
            raise ValueError(
                f"positions are (T,) or (B, T) like ids {tuple(ids.shape)}, "
                f"got {tuple(positions.shape)}"
            )
        low, high = int(positions.min()), int(positions.max())
        if low < 0 or high >= self.config.n_positions:
            raise ValueError(
                f"the model has {self.config.n_positions} positions (n_positions), "
                f"asked for {low}..{high}"
            )

    def save(self, path: str | Path, *, half: bool = False, **notes: str) -> None:
        """Write weights, config and ``notes`` to one safetensors file, whole or not at all.

        ``half``: the file holds the weights rounded to float16, half the size; `load` makes float32
        of them again.
        """
        header = {"format": FORMAT, "config": json.dumps(dataclasses.asdict(self.config))}
        if taken := header.keys() & notes:
            raise ValueError(f"a note cannot be called {sorted(taken)[0]!r}")
        header |= {key: str(value) for key, value in notes.items()}
        weights = {n: t.half() if half else t for n, t in self.state_dict().items()}
        tensors = {name: weight.contiguous() for name, weight in weights.items()}
        write_safetensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> GPT:
        """A model written by `save`, on the CPU, in evaluation mode.

        Raises `FileNotFoundError`, or `ValueError` for a damaged or foreign file, with what is
        wrong with it.
        """
        tensors, header = read_safetensors(path, FORMAT)
        try:
            config = GPTConfig(**json.loads(header["config"]))
            held = sum(tensor.numel() for tensor in tensors.values())
            if config.parameters != held or len(tensors) != 4 + 12 * config.n_layer:
                raise ValueError(  # before a network of these sizes is built
                    f"the config has {config.parameters} parameters in {4 + 12 * config.n_layer} "
                    f"tensors, the file {held} in {len(tensors)}"
                )
            if foreign := [n for n, t in tensors.items() if not t.is_floating_point()]:
                raise ValueError(f"{foreign[0]} holds {tensors[foreign[0]].dtype}")
            model = cls(config)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: weights and config do not fit: {error}") from error
        return model.eval()
