"""Plain text: files and folders, Tiny Shakespeare, and windows of a long text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import tokenizer
from .fetching import fetch


def tiny_shakespeare() -> str:
    """Tiny Shakespeare, 1.1 million characters (public domain)."""
    return read_text(fetch("tinyshakespeare"))


def read_text(path: str | Path) -> str:
    """The text of a file, or of all ``*.txt`` files of a folder in the order of their names.

    Raises `FileNotFoundError`, and `ValueError` for an empty text or one that is not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    inside = sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    files = [file for file in inside if not file.is_dir()]
    parts = []
    for file in files:
        try:
            parts.append(file.read_text(encoding="utf-8-sig"))  # without a byte-order mark
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}") from error
    text = "\n".join(parts)
    if not text.strip():
        raise ValueError(f"no text in {path}" + ("" if files else ": no *.txt files"))
    return text


@dataclass(frozen=True)
class Stream:
    """One long text as tokens (N,), sampled in windows of ``length`` tokens.

    A window is a document without <bos> and <eos>: it begins and ends in the middle.
    """

    ids: Tensor
    length: int

    def __post_init__(self) -> None:
        if self.ids.dim() != 1 or not 2 <= self.length <= len(self.ids):
            raise ValueError(
                f"windows of {self.length} tokens (at least 2) do not fit a text of shape "
                f"{tuple(self.ids.shape)}"
            )

    @classmethod
    def of(cls, text: str, length: int) -> Stream:
        """A text in the Gazette's tokens."""
        return cls(torch.tensor(tokenizer.encode(text)), length)

    def sample(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """``n`` windows that begin anywhere."""
        starts = torch.randint(len(self.ids) - self.length + 1, (n,), generator=generator)
        return list(self.ids[starts[:, None] + torch.arange(self.length)])

    def windows(self) -> list[Tensor]:
        """The text cut into windows that do not overlap; a shorter rest is left out."""
        cut = len(self.ids) // self.length * self.length
        return list(self.ids[:cut].view(-1, self.length))

    def split(self, held_out: float) -> tuple[Stream, Stream]:
        """The text without its last ``held_out`` share, and that share."""
        if not 0 < held_out < 1:
            raise ValueError(f"a share lies between 0 and 1, got {held_out}")
        cut = int(len(self.ids) * (1 - held_out))
        return Stream(self.ids[:cut], self.length), Stream(self.ids[cut:], self.length)
