"""Public corpora, checked by their sha256.

They are kept in `cache_dir()` (``MYLIB_CACHE``). What is there is used without a network; what is
not is downloaded once, verified, and moved into place whole.
"""

from __future__ import annotations

from pathlib import Path

from ..files import cache_dir

# name: (path below the cache, address, sha256)
CORPORA = {
    "tinyshakespeare": (
        "tinyshakespeare/input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "wnut17-train": (
        "wnut17/wnut17train.conll",
        "https://raw.githubusercontent.com/leondz/emerging_entities_17/"
        "e52a2d2a71ac1a051ca2d532eef28653c5c02603/wnut17train.conll",
        "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
    ),
    "wnut17-dev": (
        "wnut17/emerging.dev.conll",
        "https://raw.githubusercontent.com/leondz/emerging_entities_17/"
        "e52a2d2a71ac1a051ca2d532eef28653c5c02603/emerging.dev.conll",
        "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
    ),
    "wnut17-test": (
        "wnut17/emerging.test.annotated",
        "https://raw.githubusercontent.com/leondz/emerging_entities_17/"
        "e52a2d2a71ac1a051ca2d532eef28653c5c02603/emerging.test.annotated",
        "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
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
