"""Where files live, and how a file is written so that a crash never leaves half of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def data_path(name: str) -> Path:
    """A file that is shipped with the course (``data/`` of the repository).

    Raises `FileNotFoundError` with the places that were searched.
    """
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
    error nothing new is left, not even the folders that were made for the file.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        rights = _usual_rights(aside)
        _sweep(path)
        yield aside
        aside.chmod(rights)
        with open(aside, "rb") as file:  # on disk before it takes the name
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        for folder in missing:  # the innermost first; one that is in use stays
            with suppress(OSError):
                folder.rmdir()
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


def _sweep(path: Path) -> None:
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


def read_safetensors(path: str | Path, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file whose header says ``format = form``."""
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
    return tensors, header
