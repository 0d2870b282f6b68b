"""Text that nobody here wrote: files, folders, and public corpora, checked by their sha256.

Public corpora are kept in `cache_dir()` (``MYLIB_CACHE``). What is there is used without a
network; what is not is downloaded once, verified, and moved into place whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import tokenizer
from .files import cache_dir

# name: (path below the cache, address, sha256)
CORPORA = {
    "tinyshakespeare": (
        "tinyshakespeare/input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def fetch(name: str) -> Path:
    """The local path of a public corpus; downloaded on first use.

    Raises `ValueError` for an unknown name or bytes that are not the expected ones, and
    `ConnectionError` without cache and network.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(sorted(CORPORA))}")
    import pooch

    below, address, sha256 = CORPORA[name]
    path, state = cache_dir() / below, "not in the cache"
    if path.exists():
        found = pooch.file_hash(str(path))
        if found == sha256:
            return path
        state = f"damaged in the cache: sha256 {found}, expected {sha256}"
        if not _writable(path):
            raise ValueError(f"{name} is {state} ({path})")
    try:
        return Path(pooch.retrieve(address, sha256, path.name, path.parent, progressbar=False))
    except OSError as error:  # requests' exceptions are OSErrors
        raise ConnectionError(
            f"{name} is {state} ({path}), and could not be downloaded: {error}"
        ) from None


def _writable(path: Path) -> bool:
    import os

    return os.access(path.parent, os.W_OK)


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
