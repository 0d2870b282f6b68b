"""Plain text: files and folders, Tiny Shakespeare, and windows of a long text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokenizer import BOS, EOS, load_tokenizer
from ..vocabulary import encode_long
from .fetching import fetch

BLOCK = 2**20  # bytes that are read at a time


def tiny_shakespeare() -> str:
    """Tiny Shakespeare, 1.1 million characters (public domain)."""
    return read_text(fetch("tinyshakespeare"))


def read_text(path: str | Path) -> str:
    r"""The text of a file, or of all ``*.txt`` files of a folder in the order of their names.

    Every line ends with \n, whatever it ends with in the file; files follow each other in lines of
    their own. Raises `FileNotFoundError`, and `ValueError` for an empty text, bytes that are not
    UTF-8, and zero bytes, which text does not have.
    """
    return "".join(read_parts(path))


def read_parts(path: str | Path) -> Iterator[str]:
    """`read_text` in parts of a megabyte at most, for texts that are larger than the memory.

    The parts are cut anywhere. Raises what `read_text` raises, when it comes to it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    inside = sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    return _parts(path, [file for file in inside if not file.is_dir()])


def _parts(path: Path, files: list[Path]) -> Iterator[str]:
    blank = True
    for i, file in enumerate(files):
        if i:
            yield "\n"
        for part in _decoded(file):
            blank = blank and not part.strip()
            yield part
    if blank:
        raise ValueError(f"no text in {path}" + ("" if files else ": no *.txt files"))


def _decoded(file: Path) -> Iterator[str]:
    """A file's text without a byte-order mark and with one kind of line end."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = 0
    with open(file, "rb") as opened:
        while True:
            block = opened.read(BLOCK)
            if (zero := block.find(b"\0")) >= 0:
                raise ValueError(
                    f"{file} is not text: it has NUL bytes, the first in position {done + zero} "
                    "(a picture, an archive, text in UTF-16?)"
                )
            try:
                part = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                here = done + len(block) - len(error.object) + error.start
                raise ValueError(
                    f"{file} is not UTF-8 text: {error.reason} in position {here}"
                ) from error
            yield part
            if not block:
                return
            done += len(block)


@dataclass(frozen=True)
class Stream:
    """One long text as tokens (N,), of any integer type, sampled in windows of ``length`` tokens.

    A window is a document without <bos> and <eos>: it begins and ends in the middle. ``framed``: it
    has them, and two words fewer, so that every objective can read it.
    """

    ids: Tensor
    length: int
    framed: bool = False

    def __post_init__(self) -> None:
        least = 2 + self.framed
        if self.ids.dim() != 1 or not least <= self.length or self.words > len(self.ids):
            raise ValueError(
                f"windows of {self.length} tokens (at least {least}) do not fit a text of shape "
                f"{tuple(self.ids.shape)}"
            )

    @classmethod
    def of(
        cls,
        text: str,
        length: int,
        encoding: tiktoken.Encoding | None = None,
        framed: bool = False,
    ) -> Stream:
        """A text in the tokens of an encoding of the course's form, by default the Gazette's."""
        if encoding is None:
            return cls(encode_long(load_tokenizer(), " " + text), length, framed)
        return cls(encode_long(encoding, text), length, framed)

    @property
    def words(self) -> int:
        """Tokens of the text in a window."""
        return self.length - 2 * self.framed

    def sample(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """``n`` windows that begin anywhere."""
        starts = torch.randint(len(self.ids) - self.words + 1, (n,), generator=generator)
        return self._framed(self.ids[starts[:, None] + torch.arange(self.words)])

    def windows(self) -> list[Tensor]:
        """The text cut into windows that do not overlap; a shorter rest is left out."""
        cut = len(self.ids) // self.words * self.words
        return self._framed(self.ids[:cut].view(-1, self.words))

    def split(self, held_out: float) -> tuple[Stream, Stream]:
        """The text without its last ``held_out`` share, and that share."""
        if not 0 < held_out < 1:
            raise ValueError(f"a share lies between 0 and 1, got {held_out}")
        cut = int(len(self.ids) * (1 - held_out))
        return replace(self, ids=self.ids[:cut]), replace(self, ids=self.ids[cut:])

    def _framed(self, rows: Tensor) -> list[Tensor]:
        """Rows of words (n, words) as documents."""
        if self.framed:
            rows = F.pad(F.pad(rows.long(), (1, 0), value=BOS), (0, 1), value=EOS)
        return list(rows.long())
