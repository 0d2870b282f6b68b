"""The same network over other tokens: its embedding rows follow their tokens."""

from __future__ import annotations

import dataclasses

import tiktoken

from ..model import GPT
from ..vocabulary import ordinary


def with_vocabulary(model: GPT, old: tiktoken.Encoding, new: tiktoken.Encoding) -> GPT:
    """A copy of the model that reads and writes the tokens of ``new``, on the CPU.

    A token keeps its row (the same bytes, whatever its id); the special tokens of ``new`` begin at
    the mean of all rows. Raises `ValueError` for a model that is not over ``old``, and for tokens
    that ``old`` does not have: nobody knows their rows.

    >>> import torch
    >>> from mylib.model import GPTConfig
    >>> from mylib.tokenizer import load_tokenizer
    >>> from mylib.vocabulary import compact
    >>> old, new = load_tokenizer(), compact(load_tokenizer(), "Two geese.")
    >>> model = GPT.init(GPTConfig(old.n_vocab, 8, 8, 1), torch.Generator().manual_seed(0))
    >>> with_vocabulary(model, old, new).config.vocab_size == new.n_vocab
    True
    """
    if model.config.vocab_size != old.n_vocab:
        raise ValueError(f"the model has {model.config.vocab_size} tokens, not {old.n_vocab}")
    before, after = ordinary(old), ordinary(new)
    if missing := sorted(after.keys() - before.keys()):
        raise ValueError(
            f"{len(missing)} tokens have no row in the model, the first {missing[0]!r}; give a "
            "part of its own vocabulary"
        )
    changed = GPT(dataclasses.replace(model.config, vocab_size=new.n_vocab))
    weights = {name: weight.cpu() for name, weight in model.state_dict().items()}
    rows = weights["wte.weight"]
    moved = rows.mean(0).repeat(new.n_vocab, 1)
    moved[list(after.values())] = rows[[before[token] for token in after]]
    changed.load_state_dict(weights | {"wte.weight": moved})
    return changed.to(rows.dtype).eval()
