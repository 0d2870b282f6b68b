"""Words to numbers: the Gazette's tokens as a tiktoken `Encoding`, and GPT-2's.

The Gazette's vocabulary is a ranks file in ``data/``: every word of both editions is one token
(the *lexicon*, contiguous ids), followed by single bytes and a few merges for foreign text. Text
is encoded with one space in front, so that a word is the same token at the beginning of a text and
inside it; decoding strips that space.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import regex
import tiktoken

from .files import cache_dir, data_path

# Ids of the special tokens, the same in every vocabulary of the Gazette.
PAD, BOS, EOS, MASK, FW, BW = range(6)
SPECIAL_TOKENS = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "[MASK]": MASK, "<fw>": FW, "<bw>": BW}
FIRST_WORD = len(SPECIAL_TOKENS)

# GPT-2's pre-token pattern: a text is cut here first, and no token crosses a cut.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def load_tokenizer(path: str | Path | None = None) -> tiktoken.Encoding:
    """The Gazette's tokens; no network. ``path`` is another ranks file of the same form.

    Kept by the file's content, not by its name: a changed file is read anew (tiktoken's own loader
    would return the old ranks). Raises `ValueError` for a file of another form, and for one in
    which ids or tokens are not there once each, or one of the 256 single bytes is missing.
    """
    path = Path(path or data_path("gazette.tiktoken"))
    try:
        return _encoding(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not a ranks file (base64 and a number a line): {error}"
        ) from None


@lru_cache(maxsize=8)
def _encoding(lines: bytes) -> tiktoken.Encoding:
    pairs = [line.split() for line in lines.splitlines()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    last = FIRST_WORD + len(pairs) - 1
    if len(ranks) < len(pairs) or sorted(ranks.values()) != list(range(FIRST_WORD, last + 1)):
        raise ValueError(f"{len(pairs)} lines: every token once, with the ids {FIRST_WORD}..{last}")
    if missing := sum(bytes([byte]) not in ranks for byte in range(256)):  # nothing could be spelt
        raise ValueError(f"{missing} of the 256 single bytes are no tokens")
    return tiktoken.Encoding(
        "gazette",
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens=SPECIAL_TOKENS,
        explicit_n_vocab=len(ranks) + len(SPECIAL_TOKENS),
    )


def lexicon() -> range:
    """Ids of the words and punctuation marks of the two editions (no bytes, no specials)."""
    # The ranks file puts the lexicon first and the remaining bytes, from \x00 on, behind it.
    return range(FIRST_WORD, load_tokenizer().encode_single_token(b"\x00"))


def gpt2_tokenizer() -> tiktoken.Encoding:
    """GPT-2's 50,257 tokens, from tiktoken's cache, ``MYLIB_CACHE/tiktoken`` or the network.

    Raises `ConnectionError` when the two files are in neither place and there is no network.
    """
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    folder = before or str(cache_dir() / "tiktoken")
    os.environ["TIKTOKEN_CACHE_DIR"] = folder  # tiktoken takes it from nowhere else
    try:
        return tiktoken.get_encoding("gpt2")
    except OSError as error:  # requests' exceptions are OSErrors
        raise ConnectionError(
            f"GPT-2's vocabulary is not cached ({folder}) and could not be downloaded: {error}"
        ) from None
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]


def pretokens(text: str) -> list[str]:
    """Cut a text by the pre-token pattern; the pieces joined give the text again.

    >>> pretokens(" I can't sleep.")
    [' I', ' can', "'t", ' sleep', '.']
    """
    return regex.findall(PATTERN, text)


def encode(text: str) -> list[int]:
    """Ids of a user's text; names of special tokens in it are ordinary characters."""
    return load_tokenizer().encode_ordinary(" " + text)


def decode(ids: Iterable[int], special: bool = False) -> str:
    """Text of the ids without the leading space; special tokens are left out unless asked for."""
    kept = [int(i) for i in ids if special or i >= FIRST_WORD]
    return load_tokenizer().decode(kept).removeprefix(" ")


def words(ids: Iterable[int]) -> list[str]:
    """One printable string for each id, as figures and tables show it.

    >>> words(encode("Every effort"))
    ['Every', 'effort']
    """
    encoding = load_tokenizer()
    pieces = (encoding.decode_single_token_bytes(int(i)) for i in ids)
    texts = (piece.decode("utf-8", "backslashreplace").removeprefix(" ") for piece in pieces)
    return [t if t.isprintable() else t.encode("unicode_escape").decode() for t in texts]


def offsets(text: str) -> list[tuple[int, int]]:
    """Start and end of every token of `encode` in ``text`` (characters; the space not counted).

    Tokens that are parts of one character share that character's span.
    """
    return spans(load_tokenizer(), text)


def spans(encoding: tiktoken.Encoding, text: str) -> list[tuple[int, int]]:
    """`offsets` for any tiktoken encoding, of the text with one space in front."""
    spaced = " " + text
    owner = [i for i, character in enumerate(spaced) for _ in character.encode()]
    found, here = [], 0
    for token in encoding.encode_ordinary(spaced):
        piece = encoding.decode_single_token_bytes(token)
        start, stop = owner[here], owner[here + len(piece) - 1] + 1
        start += piece[:1] == b" " and len(piece) > 1  # the space belongs to no word
        found.append((max(start - 1, 0), stop - 1))
        here += len(piece)
    return found
