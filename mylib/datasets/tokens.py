"""Token files: a text encoded once, and read from disk where it is larger than the memory.

A header of 512 bytes (eight letters, then JSON: type and number of the ids, name and fingerprint of
the tokens), behind it nothing but the ids, little-endian.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tiktoken
import torch
from torch import Tensor

from ..files import replacing
from ..vocabulary import encode_parts, fingerprint
from .text import read_parts

MAGIC = b"mylibtok"
HEADER = 512  # bytes
DTYPES = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4")}


def write_tokens(path: str | Path, text: Path | Iterable[str], encoding: tiktoken.Encoding) -> int:
    """Write a text's ids as a token file and return how many there are.

    ``text`` is a file or folder as in `read_parts`, or the text in parts, cut anywhere. The ids are
    those of ``Stream.of(text, length, encoding)``, two bytes each where all ids of the encoding fit
    and four elsewhere; no more than a part of the text is in memory at a time. The file takes its
    name when it is whole.

    Raises `TypeError` for a string (is it a path or a text?), `ValueError` for a text without
    tokens, and what `read_parts` raises.
    """
    if isinstance(text, str):
        raise TypeError("a string is a text or the name of one: give Path(name) or [text]")
    parts = read_parts(text) if isinstance(text, Path) else text
    name = "uint16" if encoding.max_token_value < 2**16 else "int32"
    with replacing(path) as aside:
        count = 0
        with open(aside, "wb") as file:
            file.write(bytes(HEADER))
            for ids in encode_parts(encoding, parts):
                file.write(np.array(ids, DTYPES[name]).tobytes())
                count += len(ids)
            if not count:
                raise ValueError(f"no tokens for {path}: the text is empty")
            file.seek(0)
            file.write(_header(name, count, encoding))
    return count


def open_tokens(path: str | Path, encoding: tiktoken.Encoding) -> Tensor:
    """The ids of a token file, uint16 or int32 (N,), which stay on disk until they are looked at.

    For `Stream`, whose windows are int64. What is written into the tensor does not reach the file.

    Raises `FileNotFoundError`, and `ValueError` for another kind of file, a damaged or truncated
    one, and one in the tokens of another encoding.

    >>> import tempfile
    >>> from mylib.tokenizer import load_tokenizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "any.tokens"
    ...     print(write_tokens(path, [" Every eff", "ort"], load_tokenizer()))
    ...     load_tokenizer().decode(open_tokens(path, load_tokenizer()).tolist())
    2
    ' Every effort'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with open(path, "rb") as file:
        header = _read_header(path, file)
        size = os.fstat(file.fileno()).st_size
    dtype, count = DTYPES[header["dtype"]], header["count"]
    if size != (whole := HEADER + count * dtype.itemsize):
        raise ValueError(f"{path} is damaged: {size} bytes, expected {whole} ({count} tokens)")
    if header["fingerprint"] != (expected := fingerprint(encoding)):
        raise ValueError(
            f"{path} has the tokens of {header['name']!r} ({header['fingerprint'][:12]}...), not "
            f"those of {encoding.name!r} ({expected[:12]}...)"
        )
    # "c": a private copy of each page that is written to, so torch may have a writable array.
    return torch.from_numpy(np.memmap(path, dtype, mode="c", offset=HEADER, shape=(count,)))


def _header(dtype: str, count: int, encoding: tiktoken.Encoding) -> bytes:
    says = {
        "dtype": dtype,
        "count": count,
        "fingerprint": fingerprint(encoding),
        "name": encoding.name[:100],
    }
    return (MAGIC + json.dumps(says).encode()).ljust(HEADER)


def _read_header(path: Path, file: BinaryIO) -> dict:
    raw = file.read(HEADER)
    if not raw.startswith(MAGIC):
        raise ValueError(f"{path} is no token file: it begins with {raw[:8]!r}, expected {MAGIC!r}")
    try:
        header = json.loads(raw[len(MAGIC) :])
        kinds = {key: type(value) for key, value in header.items()}
    except (ValueError, AttributeError):
        kinds = {}
    expected = {"dtype": str, "count": int, "fingerprint": str, "name": str}
    if kinds != expected or header["dtype"] not in DTYPES or header["count"] < 1:
        raise ValueError(
            f"{path} is damaged: no header of a token file in its first {HEADER} bytes"
        )
    return header
