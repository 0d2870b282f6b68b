"""An encoder made from any decoder: what the second source note calls `GemmaEncoder`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cases import positions
from .opening import Window, make_bidirectional, require_transformers


class Encoder(nn.Module):
    """A decoder of transformers, loaded, opened and checked; ``encoder(ids)`` -> (B, T, C).

    ``source``: a folder, or a name on the hub such as "google/gemma-2-2b". ``window``: see
    `make_bidirectional`. ``options`` go to ``AutoModel.from_pretrained`` (``dtype=``,
    ``attn_implementation=``). No code from the source is run.

    Raises `ValueError` for a folder that holds no model and for a name that cannot be had,
    `NotBidirectional` for a model that cannot be opened.
    """

    def __init__(self, source: str | Path, window: Window = "both", **options: Any) -> None:
        super().__init__()
        require_transformers()
        from transformers import AutoModel

        backend = str(options.get("attn_implementation", ""))
        if backend.startswith("flash") and not torch.cuda.is_available():
            raise ValueError(
                f"{backend} does not run on a CPU; leave attn_implementation out, or say 'sdpa'"
            )
        try:
            self.model = AutoModel.from_pretrained(source, trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{source} is no model that can be loaded: {error}") from error
        self.eval()
        self.opened = make_bidirectional(self.model, window)

    @property
    def config(self) -> Any:
        """transformers' configuration."""
        return self.model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, C) of ids (B, T); ``attention_mask`` (B, T), 1 = a real token.

        What stands at pads means nothing. With left padding, positions are counted from the first
        real token where the model has positions to be told.
        """
        more = {}
        if attention_mask is not None and self._takes_positions:
            more["position_ids"] = positions(attention_mask)
        return self.model(input_ids, attention_mask=attention_mask, **more).last_hidden_state

    @property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.model.forward).parameters

    def save(self, folder: str | Path) -> None:
        """Write weights and configuration; ``Encoder(folder)`` opens and checks them again."""
        self.model.save_pretrained(folder)
