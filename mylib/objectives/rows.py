"""Rows: clean documents laid out for a forward pass. Shapes: B rows, T positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..masks.mask import INTEGERS
from ..tokenizer import PAD


@dataclass(frozen=True)
class Rows:
    """Clean text, laid out padded or packed; three int tensors (B, T).

    ``tokens``; ``document``: the number of the document within its row, -1 = pad; ``position``:
    the token's place in its document.

    Raises `TypeError` for what is no int tensor, and `ValueError` for shapes that differ and
    documents outside -1..T-1.
    """

    tokens: Tensor
    document: Tensor
    position: Tensor

    def __post_init__(self) -> None:
        for name, tensor in vars(self).items():
            _check_ids(name, tensor)
        shapes = {tuple(t.shape) for t in (self.tokens, self.document, self.position)}
        if len(shapes) > 1 or self.tokens.dim() != 2:
            raise ValueError(f"tokens, document and position are (B, T) alike, got {shapes}")
        if self.document.device.type == "cpu" and self.document.numel():  # no wait for a GPU
            low, high = int(self.document.min()), int(self.document.max())
            if low < -1 or high >= self.document.shape[1]:
                last = self.document.shape[1] - 1
                raise ValueError(f"documents are numbered -1..{last}, found {low}..{high}")

    @classmethod
    def padded(cls, texts: list[Tensor], length: int | None = None) -> Rows:
        """One document a row, padded on the right to ``length`` (by default the longest).

        >>> Rows.padded([torch.tensor([7, 8, 9]), torch.tensor([6])]).document.tolist()
        [[0, 0, 0], [0, -1, -1]]
        """
        texts = _checked(texts)
        length = max(map(len, texts)) if length is None else length
        return cls._of([[text] for text in texts], length)

    @classmethod
    def packed(cls, texts: list[Tensor], length: int) -> Rows:
        """Several documents a row, none of them cut: first fit, longest first.

        >>> Rows.packed([torch.tensor([6]), torch.tensor([7, 8, 9])], length=5).tokens.tolist()
        [[7, 8, 9, 6, 0]]
        """
        texts = _checked(texts)
        rows: list[list[Tensor]] = []
        room: list[int] = []
        for text in sorted(texts, key=len, reverse=True):
            place = next((i for i, free in enumerate(room) if free >= len(text)), len(rows))
            if place == len(rows):
                rows.append([])
                room.append(length)
            rows[place].append(text)
            room[place] -= len(text)
        return cls._of(rows, length)

    @classmethod
    def _of(cls, rows: list[list[Tensor]], length: int) -> Rows:
        longest = max(sum(map(len, row)) for row in rows)
        if longest > length:
            raise ValueError(f"a document of {longest} tokens does not fit rows of {length}")
        tokens = torch.full((len(rows), length), PAD)
        document, position = torch.full_like(tokens, -1), torch.zeros_like(tokens)
        sizes = torch.tensor([len(text) for row in rows for text in row])
        counts = torch.tensor([len(row) for row in rows])
        first = sizes.cumsum(0) - sizes  # the words of all texts stand in one line here
        row_first = first[counts.cumsum(0) - counts].repeat_interleave(counts)
        number = torch.cat([torch.arange(count) for count in counts.tolist()])
        owner = torch.arange(len(rows)).repeat_interleave(counts).repeat_interleave(sizes)
        inside = torch.arange(int(sizes.sum())) - first.repeat_interleave(sizes)
        place = owner, (first - row_first).repeat_interleave(sizes) + inside
        tokens[place] = torch.cat([text.long() for row in rows for text in row])
        document[place], position[place] = number.repeat_interleave(sizes), inside
        return cls(tokens, document, position)

    @property
    def valid(self) -> Tensor:
        """Where a real token stands: bool (B, T)."""
        return self.document >= 0

    @property
    def is_packed(self) -> bool:
        return bool((self.document > 0).any())

    @property
    def from_end(self) -> Tensor:
        """Tokens of the same document that follow: the position counted from the right end."""
        last = torch.zeros_like(self.position).scatter_reduce(
            1, self.document.clamp(min=0), self.position, "amax"
        )
        here = last.gather(1, self.document.clamp(min=0)) - self.position
        return here.masked_fill(~self.valid, 0)

    @property
    def canvas(self) -> Rows:
        """The same rows with their padding taken for text, so that nobody knows the length."""
        if self.is_packed:
            raise ValueError("packed rows hold several documents; a canvas holds one")
        place = torch.arange(self.tokens.shape[1]).expand_as(self.tokens)
        return Rows(self.tokens, torch.zeros_like(self.tokens), place)

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.tokens.to(device), self.document.to(device), self.position.to(device))


def _check_ids(name: str, ids: Tensor) -> None:
    kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
    if kind not in INTEGERS:
        raise TypeError(f"{name} is an int tensor, got {kind}")


def _checked(texts: Iterable[Tensor]) -> list[Tensor]:
    """The texts as a list: 1-D int tensors, and none of them empty."""
    texts = list(texts)
    for i, text in enumerate(texts):
        _check_ids(f"document {i}", text)
        if text.dim() != 1:
            raise ValueError(f"document {i} is (T,), got {tuple(text.shape)}")
    if not texts:
        raise ValueError("no documents")
    if empty := [i for i, text in enumerate(texts) if len(text) == 0]:
        raise ValueError(f"empty documents: number {', '.join(map(str, empty[:5]))}")
    return texts
