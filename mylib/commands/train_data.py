"""What ``python -m mylib train`` reads: the tokens, what is trained on, and what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor

from .. import tokenizer
from ..datasets import Stream, open_tokens, read_text, tiny_shakespeare, wikitext2
from ..files import data_path
from ..gazette import Gazette
from ..vocabulary import compact, fingerprint, ordinary
from .train_settings import SOURCES

HELD_OUT = 0.1
JUDGED = 500  # held-out documents at most; windows are spread evenly
EDITIONS = {"evening": "small", "sunday": "sunday"}


@dataclass(frozen=True)
class Material:
    """``trained``: something with ``sample``; ``judged``: documents with <bos> and <eos>.

    ``about``: one line on its size. ``floor``: entropy of a document, nats, where it is known.
    """

    trained: Any
    judged: list[Tensor]
    encoding: tiktoken.Encoding
    about: str
    unit: str = "window"
    floor: float | None = None

    @property
    def words(self) -> int:
        """Tokens of the judged documents, without <bos> and <eos>."""
        return sum(len(document) - 2 for document in self.judged)

    @property
    def characters(self) -> int:
        """Characters of their text, spaces included."""
        plain = [d[1:-1].tolist() for d in self.judged]
        return sum(len(self.encoding.decode(ids)) for ids in plain)


def material(settings: dict[str, Any]) -> Material:
    """The documents and tokens that the settings name.

    Raises `ValueError` unless there is exactly one source, and for tokens that do not suit it.
    """
    named = [name for name in SOURCES if settings[name] is not None]
    if len(named) != 1:
        found = " and ".join(f"--{name}" for name in named) or "none"
        raise ValueError(f"give one of {', '.join(f'--{n}' for n in SOURCES)}; found {found}")
    if named == ["gazette"]:
        return _newspaper(settings)
    return {"text": _text, "corpus": _corpus, "tokens": _tokens}[named[0]](settings)


def is_gazette(encoding: tiktoken.Encoding) -> bool:
    """Whether these are the Gazette's own tokens, which need not be saved."""
    return fingerprint(encoding) == fingerprint(tokenizer.load_tokenizer())


def in_order(encoding: tiktoken.Encoding) -> list[bytes]:
    """The ordinary tokens in the order of their ids, for `save_ranks`."""
    ranks = ordinary(encoding)
    return sorted(ranks, key=ranks.__getitem__)


def _newspaper(settings: dict[str, Any]) -> Material:
    if settings["tokenizer"] != "gazette" or settings["vocabulary"] or settings["compact"]:
        raise ValueError("--gazette is printed in the Gazette's own tokens; leave the others out")
    gazette = Gazette.load(EDITIONS[settings["gazette"]])
    fresh = gazette.sample(JUDGED, torch.Generator().manual_seed(10**6 + settings["seed"]))
    about = f"stories of the {settings['gazette']} edition, {JUDGED} fresh ones judged"
    encoding = tokenizer.load_tokenizer()
    return Material(gazette, fresh, encoding, about, "story", gazette.entropy)


def _text(settings: dict[str, Any]) -> Material:
    text = read_text(settings["text"])
    return _split(text, settings)


def _corpus(settings: dict[str, Any]) -> Material:
    if settings["corpus"] == "tinyshakespeare":
        return _split(tiny_shakespeare(), settings)
    train, test = ("".join(wikitext2(split)) for split in ("train", "test"))
    encoding = _encoding(settings, lambda: train)
    streams = [_stream(text, encoding, settings["window"]) for text in (train, test)]
    return _windows(*streams, encoding)


def _tokens(settings: dict[str, Any]) -> Material:
    if settings["compact"]:
        raise ValueError("--compact needs a text; a token file has its tokens already")
    encoding = _encoding(settings, lambda: "")
    ids = open_tokens(settings["tokens"], encoding)
    stream = Stream(ids, settings["window"], framed=True)
    return _windows(*stream.split(HELD_OUT), encoding)


def _split(text: str, settings: dict[str, Any]) -> Material:
    encoding = _encoding(settings, lambda: text[: int(len(text) * (1 - HELD_OUT))])
    stream = _stream(text, encoding, settings["window"])
    return _windows(*stream.split(HELD_OUT), encoding)


def _stream(text: str, encoding: tiktoken.Encoding, window: int) -> Stream:
    # The Gazette's tokens begin with a space; `Stream` puts one in front of the text for them.
    return Stream.of(text, window, None if is_gazette(encoding) else encoding, framed=True)


def _windows(trained: Stream, held_out: Stream, encoding: tiktoken.Encoding) -> Material:
    windows = held_out.windows()
    judged = windows[:: -(-len(windows) // JUDGED)]
    about = f"{len(trained.ids)} tokens to train on, {len(held_out.ids)} held out"
    return Material(trained, judged, encoding, about)


def _encoding(settings: dict[str, Any], text: Callable[[], str]) -> tiktoken.Encoding:
    """The tokens, of the course's form: six special ones first."""
    name = settings["tokenizer"]
    if name == "gpt2":
        whole = tokenizer.gpt2_tokenizer()
    else:
        path = data_path("gazette.tiktoken") if name == "gazette" else Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"--tokenizer is gazette, gpt2 or a ranks file; no file {path}")
        whole = tokenizer.load_tokenizer(path)
    if settings["compact"] and settings["vocabulary"]:
        raise ValueError("--compact and --vocabulary both choose the tokens; give one of them")
    if settings["compact"]:
        return compact(whole, text=text())
    return compact(whole, size=settings["vocabulary"])
