"""Heads: a linear layer on a model's hidden states, in place of its vocabulary.

The base is our `GPT`, whose mask is an argument, or a model of transformers, whose mask is built
in: there the mask that an objective asks for is compared with what the model was measured to do.

Shapes: B rows, T tokens, C channels, K outputs of the head, N asked outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..masks import Rule, as_mask, bidirectional, causal, dense
from ..model import GPT, GPTConfig
from ..probes import influence


class Head(nn.Module):
    """A base model and a linear layer; ``head(ids, mask)`` -> (B, T, outputs).

    ``base``: a `GPT`, a model of transformers (its body is used, whatever head it has), or a
    `convert.Encoder`. The layer's weights are drawn from ``generator``, its biases are 0. `fit`
    trains base and layer together.
    """

    def __init__(self, base: nn.Module, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        if outputs < 1:
            raise ValueError(f"a head has at least 1 output, got {outputs}")
        self.base = base if isinstance(base, GPT) else Transformers(base)
        self.out = nn.Linear(self.base.config.n_embd, outputs)
        nn.init.normal_(self.out.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.out.bias)
        self.out.to(next(base.parameters()).device)

    @property
    def config(self) -> GPTConfig:
        """The sizes of the base."""
        return self.base.config

    def forward(
        self, ids: Tensor, mask: Rule = bidirectional, positions: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, outputs) at every token; ``mask`` and errors as those of `GPT.hidden`."""
        return self.head(self.hidden(ids, mask, positions))

    def hidden(self, ids: Tensor, mask: Rule, positions: Tensor | None = None) -> Tensor:
        return self.base.hidden(ids, mask, positions)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out(hidden.to(self.out.weight.dtype))

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the base, where `mylib.probes` takes its derivatives."""
        return self.base.get_input_embeddings()

    def answers(self, batch: Any) -> Tensor:
        """Logits (N, outputs) of the outputs that an objective's batch asks."""
        return self.head(self.hidden(batch.inputs, batch.mask, batch.positions)[batch.asked])


class TokenClassifier(Head):
    """One class for each token, such as a BIO tag: ``classifier(ids, mask)`` -> (B, T, tags).

    Source: source note 1, `GPTForTokenClassification`, with hidden states where that one gets
    logits of the vocabulary.
    """

    def __init__(self, base: nn.Module, tags: Sequence[str], generator: torch.Generator) -> None:
        super().__init__(base, len(tags), generator)
        self.tags = tuple(tags)


class SpanExtractor(Head):
    """Where an answer begins and ends: ``extractor(ids, mask)`` -> (B, T, 2), start and end logits.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding" (2019), section 4.2; source note 2, "Training".
    """

    def __init__(self, base: nn.Module, generator: torch.Generator) -> None:
        super().__init__(base, 2, generator)


class SequenceClassifier(Head):
    """One class for a whole text, from its hidden states pooled into one vector.

    ``pool``: "first" (the [CLS] way: the state of the first token), "last" (of the last real
    token), or "mean" (of all real tokens).
    """

    def __init__(
        self,
        base: nn.Module,
        classes: int,
        generator: torch.Generator,
        pool: Literal["first", "last", "mean"] = "mean",
    ) -> None:
        if pool not in ("first", "last", "mean"):
            raise ValueError(f"pool is 'first', 'last' or 'mean', not {pool!r}")
        super().__init__(base, classes, generator)
        self.pool = pool

    def forward(
        self,
        ids: Tensor,
        mask: Rule = bidirectional,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, classes). ``valid`` bool (B, T): the real tokens, all if not given."""
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        return self.head(pooled(self.hidden(ids, mask, positions), valid, self.pool))

    def answers(self, batch: Any) -> Tensor:
        rows = batch.asked.any(1)
        return self(batch.inputs, batch.mask, batch.positions, batch.shown >= 0)[rows]


def pooled(hidden: Tensor, valid: Tensor, pool: str) -> Tensor:
    """Hidden states (B, T, C) of the real tokens ``valid`` (B, T) in one vector a row, (B, C).

    >>> hidden = torch.tensor([[[1.0], [2.0], [9.0]]])
    >>> valid = torch.tensor([[True, True, False]])
    >>> [float(pooled(hidden, valid, pool)) for pool in ("first", "last", "mean")]
    [1.0, 2.0, 1.5]
    """
    if not valid.any(1).all():
        raise ValueError(f"row {int((~valid.any(1)).nonzero()[0])} has no real token to pool")
    if pool == "mean":
        # Masked, not multiplied: a pad's state may be anything.
        kept = hidden.masked_fill(~valid[..., None], 0.0)
        return kept.sum(1) / valid.sum(1, keepdim=True)
    place = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    first, last = place.masked_fill(~valid, valid.shape[1]).amin(1), (place * valid).amax(1)
    return hidden[torch.arange(len(hidden)), first if pool == "first" else last]


class Transformers(nn.Module):
    """A model of transformers as a base: ``hidden(ids, mask, positions)`` as `GPT` has it.

    Who looks at whom is its own affair, so it is measured once, and a mask that the model does not
    have is refused: train a causal model under `causal`, an opened one under `bidirectional`, each
    with ``padding``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        model = getattr(model, "model", model) if not hasattr(model, "base_model") else model
        if not hasattr(model, "base_model"):
            found = type(model).__name__
            raise TypeError(f"a base is a GPT, a model of transformers or an Encoder, not {found}")
        self.body = model.base_model
        sizes = self.body.config.get_text_config()
        # Some have no heads, and some have heads of a size that does not add up to the channels.
        heads = getattr(sizes, "num_attention_heads", None) or 1
        self.config = GPTConfig(
            vocab_size=sizes.vocab_size,
            n_positions=getattr(sizes, "max_position_embeddings", None) or 1 << 20,
            n_embd=sizes.hidden_size,
            n_layer=sizes.num_hidden_layers,
            n_head=heads if sizes.hidden_size % heads == 0 else 1,
            dropout=_most_dropout(sizes.to_dict()),  # `fit` asks whether there is any
        )
        self.looks = self._measured()

    def hidden(self, ids: Tensor, mask: Rule, positions: Tensor | None = None) -> Tensor:
        """Final hidden states (B, T, C).

        Raises `ValueError` for ids outside the vocabulary, more tokens than the model has
        positions, a mask that it does not have, and positions that do not count from the left.
        """
        if ids.shape[1] > self.config.n_positions:
            raise ValueError(
                f"the model has {self.config.n_positions} positions, got {ids.shape[1]} tokens"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(f"ids lie in 0..{self.config.vocab_size - 1}, found {low}..{high}")
        valid = self._real(ids, mask)
        counted = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if positions is not None and (positions.expand_as(ids) != counted)[valid].any():
            raise ValueError("positions of a model of transformers count 0, 1, ... from the left")
        found = self.body(input_ids=ids, attention_mask=valid.long(), use_cache=False)
        return found.last_hidden_state

    def get_input_embeddings(self) -> nn.Module:
        return self.body.get_input_embeddings()

    def _real(self, ids: Tensor, mask: Rule) -> Tensor:
        """The real tokens bool (B, T): those that somebody may look at."""
        place = torch.arange(ids.shape[1], device=ids.device)
        visible = dense(as_mask(mask).to(ids.device), place, batch=len(ids))[:, 0]
        valid = visible.any(1)
        wanted = dense(self.looks, place)[0] & valid[:, None, :]
        if (visible != wanted)[valid].any():
            raise ValueError(
                f"{mask} is not the mask of this {type(self.body).__name__}, which was measured to "
                f"be {self.looks.name}"
            )
        return valid

    def _measured(self) -> Rule:
        ids = torch.arange(3, 3 + min(8, self.config.vocab_size - 3, self.config.n_positions))
        ids = ids.to(next(self.body.parameters()).device)
        seen = influence(self.body, ids, attention_mask=torch.ones_like(ids)[None])
        for mask in (bidirectional, causal):
            if torch.equal(seen, dense(mask, len(ids))[0, 0]):
                return mask
        raise ValueError(
            f"{type(self.body).__name__} is neither causal nor bidirectional; see "
            "mylib.leaks.audit for who sees whom"
        )


def _most_dropout(config: dict) -> float:
    """The greatest dropout rate that a configuration of transformers names, 0 if none."""
    rates = [v for k, v in config.items() if "drop" in k and type(v) is float]
    return max((rate for rate in rates if 0 < rate < 1), default=0.0)
