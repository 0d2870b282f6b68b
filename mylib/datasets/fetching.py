"""Public corpora, checked by a hash of their content.

They are kept in `cache_dir()` (``MYLIB_CACHE``). What is there is used without a network; what is
not is downloaded once, verified, and moved into place whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

from ..files import cache_dir, replacing

GITHUB = "https://raw.githubusercontent.com"
SHAKESPEARE = f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
WNUT = f"{GITHUB}/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603"
EXAMPLES = f"{GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
WIKITEXT = f"{EXAMPLES}/word_language_model/data/wikitext-2"

CHUNK = 2**16  # bytes that are written at a time
FULL = (errno.ENOSPC, errno.EDQUOT)
LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Corpus(NamedTuple):
    """A public file: its place below the cache, its address, what it must be, and its bytes.

    ``hash`` is "sha256:..." or "git:...", which is the name of the content in a git repository.
    """

    path: str
    address: str
    hash: str
    size: int


CORPORA = {
    "tinyshakespeare": Corpus(
        "tinyshakespeare/input.txt",
        f"{SHAKESPEARE}/data/tinyshakespeare/input.txt",
        "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        1_115_394,
    ),
    "wikitext2-train": Corpus(
        "wikitext-2/train.txt",
        f"{WIKITEXT}/train.txt",
        "git:2d84b35af79e411d73ea7cae83c73964c6ac83b4",
        10_797_148,
    ),
    "wikitext2-valid": Corpus(
        "wikitext-2/valid.txt",
        f"{WIKITEXT}/valid.txt",
        "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        1_121_681,
    ),
    "wikitext2-test": Corpus(
        "wikitext-2/test.txt",
        f"{WIKITEXT}/test.txt",
        "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        1_256_449,
    ),
    "wnut17-train": Corpus(
        "wnut17/wnut17train.conll",
        f"{WNUT}/wnut17train.conll",
        "sha256:731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
        493_781,
    ),
    "wnut17-dev": Corpus(
        "wnut17/emerging.dev.conll",
        f"{WNUT}/emerging.dev.conll",
        "sha256:e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
        114_749,
    ),
    "wnut17-test": Corpus(
        "wnut17/emerging.test.annotated",
        f"{WNUT}/emerging.test.annotated",
        "sha256:2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
        192_425,
    ),
}


def fetch(name: str, progress: bool | None = None) -> Path:
    """The local path of a public corpus; downloaded on first use, damaged files anew.

    ``progress``: a bar on stderr while it downloads, by default where stderr is a terminal. Any
    number of processes may ask at once: each writes a file of its own, and a verified one takes the
    place. Nothing else stays in the cache, whatever goes wrong.

    Raises `ValueError` for an unknown name or other bytes than expected, `ConnectionError` without
    cache and network or if the transfer breaks off, and `OSError` (`PermissionError`) for a cache
    that is full or may not be written.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(sorted(CORPORA))}")
    corpus = CORPORA[name]
    path, state = cache_dir() / corpus.path, "not in the cache"
    if path.exists():
        found = content_hash(path, corpus.hash)
        if found == corpus.hash:
            return path
        state = f"damaged in the cache: {found}, expected {corpus.hash}"
        if not _writable(path):
            raise ValueError(f"{name} is {state} ({path})")
    try:
        with replacing(path) as aside:
            _download(name, corpus, aside, progress)
            if (found := content_hash(aside, corpus.hash)) != corpus.hash:
                raise ValueError(
                    f"the download of {name} is damaged: its hash is {found}, expected "
                    f"{corpus.hash}; it was not kept ({corpus.address})"
                )
    except OSError as error:  # requests' exceptions are OSErrors
        raise _plainly(error, name, state, path) from None
    return path


def content_hash(path: str | Path, like: str) -> str:
    """The hash of a file's content, of the kind of ``like``: "sha256:..." or "git:...".

    Git's is sha1 over "blob", a space, the size, a zero byte, and the content.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as empty:
    ...     content_hash(empty.name, "git:")
    'git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    kind = like.partition(":")[0]
    with open(path, "rb") as file:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        found = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return f"git:{found.hexdigest()}"


def _download(name: str, corpus: Corpus, aside: Path, progress: bool | None) -> None:
    import pooch
    from tqdm.auto import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    bar = {"total": corpus.size, "desc": name, "unit": "B", "unit_scale": True}
    with (
        open(aside, "wb") as file,
        tqdm.wrapattr(file, "write", disable=not shown, **bar) as counted,
    ):
        pooch.HTTPDownloader(chunk_size=CHUNK)(corpus.address, counted, None)


def _plainly(error: OSError, name: str, state: str, path: Path) -> OSError:
    """What went wrong in one line, and what to do about it."""
    other = "MYLIB_CACHE can name another folder"
    if error.errno in FULL:
        size = f"{CORPORA[name].size / 1e6:.1f} MB"
        why = f"no space left in {path.parent}: {name} needs about {size}; {other}"
    elif error.errno in LOCKED:
        why = f"{name} is {state}, and {path.parent} may not be written ({error.strerror}); {other}"
    elif error.errno is None or isinstance(error, ConnectionError | TimeoutError):
        return ConnectionError(f"{name} is {state} ({path}), and could not be downloaded: {error}")
    else:
        why = f"{name} cannot be kept in {path.parent}: {error.strerror}; {other}"
    return OSError(error.errno, why)


def _writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK)
