"""Every reader of outside data by name: its inputs, and one call that reads one of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import files_read as files
import hypothesis.strategies as st
import values_read as values
from judging import outcome
from mutations import raw, toml, written


class Reader(NamedTuple):
    """``inputs(folder)`` gives a strategy; ``read(folder, input)`` reads, and checks what it got.

    ``names``: one of them must stand in a refusal.
    """

    inputs: Callable[[Path], st.SearchStrategy]
    read: Callable[[Path, Any], None]
    names: tuple[str, ...] = ()


def _weights(kind: str, read: Callable) -> Reader:
    def inputs(folder: Path) -> st.SearchStrategy:
        header, tensors = files.saved(folder, kind)
        notes = header["__metadata__"]
        return st.one_of(
            written(header, lambda changed: files.safetensors(changed, tensors)),
            written(notes, lambda n: files.safetensors(header | {"__metadata__": n}, tensors)),
        )

    return Reader(inputs, read, (files.NAME,))


def _tokens(folder: Path) -> st.SearchStrategy:
    header, ids = files.token_file(folder)
    return written(
        header, lambda changed: (b"mylibtok" + json.dumps(changed).encode()).ljust(512) + ids
    )


FORMS = {  # of the files that are written from a structure, or from one that a folder gives
    "grammar": (files.GRAMMAR, toml),
    "conll": (files.CONLL, files.lines("\t")),
    "squad": (files.SQUAD, json.dumps),
    "text": ("Two geese.\r\nThe harbour é.\n", str),
    "gpt2": (lambda folder: files.gpt2_folder(folder)[0], json.dumps),
    "ranks": (files.RANKS, files.lines(" ")),
    "config": (files.CONFIG, toml),
    "ledger": (files.LEDGER, toml),
    "results": (files.CSV, files.lines(",")),
    "about": ({"settings": {"seed": 1}, "torch": "2"}, json.dumps),
}


def _file(name: str, read: Callable, *names: str) -> Reader:
    valid, write = FORMS[name]
    return Reader(
        lambda folder: written(valid(folder) if callable(valid) else valid, write),
        read,
        (files.NAME, *names),
    )


READERS = {
    "grammar": _file("grammar", files.grammar, "Evening"),
    "conll": _file("conll", files.conll),
    "squad": _file("squad", files.squad),
    "text": _file("text", files.text, "texts"),
    "model": _weights("model", files.model),
    "run": _weights("run", files.run),
    "gpt2": _file("gpt2", files.gpt2),
    "ranks": _file("ranks", files.ranks),
    "tokens": Reader(_tokens, files.tokens, (files.NAME,)),
    "config": _file("config", files.config),
    "ledger": _file("ledger", files.the_ledger),
    "results": _file("results", files.results),
    "about": _file("about", files.about, "table."),
    "canvas": Reader(lambda folder: values.CANVAS, lambda folder, how: values.canvas(how)),
    "mask": Reader(lambda folder: values.MASKS, lambda folder, how: values.mask(how)),
    "rows": Reader(lambda folder: values.ROWS, lambda folder, how: values.rows(how)),
}


def whole(name: str, folder: Path) -> Any:
    """The input that the others of a reader of files are broken from."""
    if name in ("model", "run"):
        return files.safetensors(*files.saved(folder, name))
    if name == "tokens":
        header, ids = files.token_file(folder)
        return (b"mylibtok" + json.dumps(header).encode()).ljust(512) + ids
    valid, write = FORMS[name]
    return raw(write(valid(folder) if callable(valid) else valid))


def judged(name: str, folder: Path, given: Any) -> str:
    """The `outcome` of one input, in a folder of its own."""
    inside = folder / "one"
    inside.mkdir()
    try:
        reader = READERS[name]
        return outcome(lambda: reader.read(inside, given), *reader.names)
    finally:
        shutil.rmtree(inside)
