"""Where files live, and how one is written whole or not at all, and read or refused by name."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MOST_BITS = 4000  # of a whole number in a file; Python prints no more than 14,000
# What a disk says when it does not take a file.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
REFUSED += (errno.EROFS, errno.EACCES, errno.EPERM)


def data_path(name: str) -> Path:
    """A file or folder that is shipped with the course (``data/`` of the repository).

    Some names come out of files: one that leads elsewhere is refused, with `ValueError`. Raises
    `FileNotFoundError` with the places that were searched.
    """
    parts = name.split("/")
    if not all(parts) or ".." in parts or set(name) & set("\\:\0"):
        raise ValueError(f"a name below data/, such as results/torn.csv, is expected; got {name!r}")
    package = Path(__file__).resolve().parent
    places = [package.parent / "data" / name, package / "_data" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name} is not among the course's data; looked for {places}")


def cache_dir() -> Path:
    """Where downloads are kept: ``MYLIB_CACHE``, by default the platform's cache folder."""
    if folder := os.environ.get("MYLIB_CACHE"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mylib"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mylib"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mylib"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error.

    The rename is atomic, so a reader (or a killed run) sees the old file or the new one. After an
    error nothing new is left, not even the folders that were made for the file; what the disk
    refuses (no space, read-only, no rights) is an `OSError` with the name of the file.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        rights = _usual_rights(aside)
        sweep(path)
        yield aside
        aside.chmod(rights)
        with open(aside, "rb") as file:  # on disk before it takes the name
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        for folder in missing:  # the innermost first; one that is in use stays
            with suppress(OSError):
                folder.rmdir()
        named = str(getattr(error, "filename", aside) or aside) != str(aside)
        if isinstance(error, OSError) and error.errno in REFUSED and not named:
            # A full disk names no file at all, and nobody knows the one aside.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _usual_rights(aside: Path) -> int:
    """What a new file may: safetensors would give it to its owner alone. Makes its folder."""
    for last in (False, False, True):
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.touch()
            break
        except FileNotFoundError:  # a run that failed took the folder back meanwhile
            if last:
                raise
    rights = aside.stat().st_mode
    aside.unlink()
    return rights


def check_writable(path: str | Path) -> None:
    """Raise the `OSError` that `replacing` would; nothing is written."""
    with suppress(InterruptedError), replacing(path):
        raise InterruptedError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time does this in a folder, where the system can tell (not on Windows).

    The lock is on the folder itself: no file is left, and a process that dies gives it back.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # no such folder yet, or one that knows no locks
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(path: Path) -> None:
    """Remove what killed runs left beside ``path``; a part whose process lives is not touched."""
    if os.name != "posix":  # elsewhere signal 0 is no harmless question
        return
    for part in path.parent.glob(f".{path.name}.*.part"):
        try:
            os.kill(int(part.name.split(".")[-2]), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue  # somebody else's


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file. Raises `ValueError` with its name where it is none, or nothing can read it."""
    return _parsed(path, tomllib.loads, "a TOML file")


def read_json(path: str | Path) -> Any:
    """A JSON file. Raises `ValueError` with its name where it is none, or nothing can read it."""
    return _parsed(path, json.loads, "a JSON file")


def _parsed(path: str | Path, parse: Callable[[str], Any], form: str) -> Any:
    try:
        found = parse(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: not {form} that can be read: nested too deeply") from None
    except ValueError as error:  # not UTF-8, another form, a number of thousands of digits
        raise ValueError(f"{path}: not {form}: {error}") from error
    waiting = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, int) and one.bit_length() > MOST_BITS:  # hexadecimal, in TOML
            raise ValueError(
                f"{path}: not {form} that can be read: a number of thousands of digits"
            )
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return found


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """One safetensors file, whole or not at all; `OSError` where it cannot be written.

    Its bytes depend on tensors and header alone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as aside:
        try:
            save_file(tensors, aside, header)
        except SafetensorError as error:  # the system's number stands in its text alone
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        _in_order(aside)


def _in_order(path: Path) -> None:
    """Sort the notes of a header: the library's order changes from process to process, and a
    checkpoint is known by the hash of its file (`mylib.commands.pretrain.provenance`)."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        index = json.loads(file.read(size))
        index["__metadata__"] = dict(sorted(index["__metadata__"].items()))
        ordered = json.dumps(index, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > size:  # never: the same notes in another order
            raise ValueError(f"{path}: a header of {size} bytes became one of {len(ordered)}")
        file.seek(8)
        file.write(ordered.ljust(size))


def read_safetensors(path: str | Path, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file whose header says ``format = form``.

    Raises `FileNotFoundError`, and `ValueError` with the file's name for a damaged or foreign file
    and for NaN or infinite numbers in it.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from error
    if header.get("format") != form:
        raise ValueError(
            f"{path}: a foreign file: its header says format={header.get('format')!r}, "
            f"expected {form!r}"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(f"{path}: damaged: {name} holds NaN or infinite numbers")
    return tensors, header
