"""Six sealed models for chapter 02: some see what they must not see, some only look suspicious.

All six use shipped weights. What is wrong with three of them is in how they are called; whoever
reads on here knows the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import data_path
from ..gazette import Gazette
from ..masks import Mask, bidirectional, causal
from ..model import GPT
from ..tokenizer import FW, MASK


@dataclass(frozen=True)
class Suspect:
    """A model of which only its answers are known: ``suspect(ids)``, (B, T) -> (B, T, V).

    ``task``: "next word" (output i names word i + 1) or "hidden word" (output i names the word
    under a [MASK] at i).
    """

    name: str
    task: str
    answer: Callable[[Tensor], Tensor]

    def __call__(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return self.answer(ids)


def line_up() -> list[Suspect]:
    """The six, A to F, from the shipped causal and mixed checkpoints."""
    left, mixed = (
        GPT.load(data_path(f"checkpoints/{name}.safetensors")).eval()
        for name in ("causal", "mixed")
    )
    ahead = Mask(lambda b, h, q, k: (k <= q) | ((k == q + 1) & (q >= 8)), "one ahead from 8 on")

    def forward(ids: Tensor) -> Tensor:  # the direction token stands in <bos>'s place
        first = torch.full_like(ids[:, :1], FW)
        return mixed(torch.cat([first, ids[:, 1:]], 1), causal)

    def centred(ids: Tensor) -> Tensor:
        hidden = left.hidden(ids, causal)
        return left.head(hidden - 0.002 * hidden.mean(1, keepdim=True))

    def from_the_end(ids: Tensor) -> Tensor:
        return left(ids, causal, torch.arange(ids.shape[1]).flip(0))

    return [
        Suspect("A", "next word", lambda ids: left(ids, causal)),
        Suspect("B", "next word", lambda ids: left(ids, ahead)),
        Suspect("C", "next word", centred),
        Suspect("D", "next word", forward),
        Suspect("E", "hidden word", lambda ids: mixed(ids, bidirectional)),
        Suspect("F", "next word", from_the_end),
    ]


def documents_of_one_length(gazette: Gazette, n: int, generator: torch.Generator) -> Tensor:
    """Those of ``n`` fresh documents that have the most frequent length: int (N, T)."""
    texts = gazette.sample(n, generator)
    sizes = torch.tensor([len(text) for text in texts])
    return torch.stack([t for t in texts if len(t) == sizes.mode().values])


def price(suspect: Suspect, documents: Tensor) -> float:
    """Mean -log p of the asked words, nats. ``documents`` (N, T), <bos> ... <eos>.

    "next word": every word after <bos>. "hidden word": every fifth word, hidden together with the
    others that are five apart, until each was asked once.
    """
    if suspect.task == "next word":
        logits = suspect(documents[:, :-1])
        return float(F.cross_entropy(logits.flatten(0, 1), documents[:, 1:].flatten()))
    places, total, count = torch.arange(documents.shape[1]), 0.0, 0
    for start in range(5):
        hole = (places % 5 == start) & (places > 0)
        logits = suspect(documents.masked_fill(hole, MASK))[:, hole]
        asked = documents[:, hole]
        total += float(F.cross_entropy(logits.flatten(0, 1), asked.flatten(), reduction="sum"))
        count += asked.numel()
    return total / count
