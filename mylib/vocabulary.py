"""Smaller vocabularies: the tokens of any tiktoken encoding that a text needs.

The objectives know six special tokens by their ids 0 to 5; GPT-2's encoding has words there, and
50,257 tokens where a small text uses 14,000. What `compact` returns is an encoding of its own,
again for every text: the special tokens first, then fewer tokens, merged in the same order.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import regex
import tiktoken
import torch
from torch import Tensor

from .files import replacing
from .tokenizer import FIRST_WORD, SPECIAL_TOKENS

# Longer texts are encoded in parts: an unbroken word of megabytes is more than tiktoken takes well.
PART = 100_000
# The last place where a token begins for certain, in GPT-2's pattern and in its successors'.
BORDER = regex.compile(r"(?r)(?<=[\p{L}\p{N}\p{P}\p{S}]) |(?<=[\p{L}\p{N}])[^\p{L}\p{N}\p{M}'’]")


def compact(
    encoding: tiktoken.Encoding, text: str | None = None, size: int | None = None
) -> tiktoken.Encoding:
    """The encoding with the course's special tokens first, and with fewer others.

    ``text``: the tokens that this text uses, the single bytes, and those that they are merged from;
    the text has the same tokens as before, and another text is spelt in smaller pieces where its
    own are missing. ``size``: the first so many tokens (of a byte-pair encoding the first ones are
    the most useful). Neither: all of them. An encoding that has the course's form comes back as it
    is if nothing is asked.

    Raises `ValueError` for a size without room for the single bytes, and if both are given.

    >>> from mylib.tokenizer import load_tokenizer
    >>> small = compact(load_tokenizer(), "Two geese.")
    >>> small.n_vocab < load_tokenizer().n_vocab
    True
    >>> small.decode(small.encode_ordinary("Two swans: Ada's."))
    "Two swans: Ada's."
    """
    if text is not None and size is not None:
        raise ValueError("a vocabulary is that of a text or of a size: give one of the two")
    ranks = ordinary(encoding)
    if text is not None:
        ids = set(encode_long(encoding, text).unique().tolist())
        kept = _closed({token for token, rank in ranks.items() if rank in ids}, ranks)
    else:
        first = len(ranks) if size is None else max(size, 0)
        kept = set(sorted(ranks, key=ranks.__getitem__)[:first])
    if missing := sum(bytes([byte]) not in kept for byte in range(256)):
        raise ValueError(f"{size} tokens leave {missing} of the 256 single bytes out")
    return of_tokens(sorted(kept, key=ranks.__getitem__), encoding._pat_str)


def of_tokens(tokens: Sequence[bytes], pattern: str) -> tiktoken.Encoding:
    """The encoding of these tokens, which get the ids 6, 7, ... and are merged in this order."""
    return tiktoken.Encoding(
        f"course-{len(tokens) + FIRST_WORD}",
        pat_str=pattern,
        mergeable_ranks={token: FIRST_WORD + i for i, token in enumerate(tokens)},
        special_tokens=SPECIAL_TOKENS,
        explicit_n_vocab=len(tokens) + FIRST_WORD,
    )


def ordinary(encoding: tiktoken.Encoding) -> dict[bytes, int]:
    """Every token that is not special, and its id."""
    return {token: encoding.encode_single_token(token) for token in encoding.token_byte_values()}


def encode_long(encoding: tiktoken.Encoding, text: str) -> Tensor:
    """Ids of a text of any length, int64 (N,); names of special tokens in it are ordinary text.

    The ids are those that tiktoken gives the text in one piece, but for 100,000 characters without
    a border of words among them, which are cut. Half a surrogate pair is read as U+FFFD.
    """
    return torch.tensor([i for ids in encode_parts(encoding, [text]) for i in ids]).long()


def encode_parts(encoding: tiktoken.Encoding, parts: Iterable[str]) -> Iterator[list[int]]:
    """`encode_long` of a text that comes in parts, piece by piece; wherever the parts are cut."""
    rest = ""
    for part in parts:
        rest, start = rest + part, 0
        while len(rest) - start > PART:
            border = BORDER.search(rest, start + 1, start + PART)
            stop = border.start() if border else start + PART
            yield encoding.encode_ordinary(rest[start:stop])
            start = stop
        rest = rest[start:]
    yield encoding.encode_ordinary(rest)


def fingerprint(encoding: tiktoken.Encoding) -> str:
    """sha256 of all tokens and their ids: equal where the same ids mean the same text."""
    found = hashlib.sha256()
    names = {encoding.encode_single_token(n): n.encode() for n in encoding.special_tokens_set}
    every = {token: i for i, token in names.items()} | ordinary(encoding)
    for token, i in sorted(every.items(), key=lambda pair: pair[1]):
        found.update(i.to_bytes(4, "big") + len(token).to_bytes(4, "big") + token)
    return found.hexdigest()


def save_ranks(path: str | Path, tokens: Iterable[bytes]) -> None:
    """Tokens as a ranks file in tiktoken's form, for `load_tokenizer`; the first has the id 6."""
    lines = (f"{base64.b64encode(t).decode()} {FIRST_WORD + i}\n" for i, t in enumerate(tokens))
    with replacing(path) as aside:
        aside.write_text("".join(lines))


def _closed(tokens: set[bytes], ranks: dict[bytes, int]) -> set[bytes]:
    """The tokens, the single bytes, and all tokens that they are merged from."""
    found = {bytes([byte]) for byte in range(256)}
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in found:
            found.add(token)
            waiting += _halves(token, ranks)
    return found


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What the last merge joins into a token; of a whole word without merges, what it falls into.

    Ranks are no bound: the Gazette's words have lower ones than the merges that lead to them.
    """
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [a + b for a, b in pairwise(parts)]
        best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
        if pairs[best] not in ranks:
            break
        parts[best : best + 2] = [pairs[best]]
    return parts
