"""Everything that writes a file that somebody keeps: versions of it, and how each is read again.

``write(folder, n)`` writes version n; ``version(folder)`` reads the file and returns the n it
holds, or raises what a reader would see. Versions have different sizes.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import execute
import nbformat
import torch

from mylib.checkpoints import History, read_run, save_run
from mylib.datasets import open_tokens, write_tokens
from mylib.experiments.results import Table, write_json
from mylib.model import GPT, GPTConfig
from mylib.tokenizer import load_tokenizer
from mylib.vocabulary import ordinary, save_ranks

SETTINGS = {"seed": 0, "steps": 10**6}
SIZES = GPTConfig(vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2)


class Writer(NamedTuple):
    """``name``: of the file, or of the one whose refusal must be told."""

    name: str
    write: Callable[[Path, int], None]
    version: Callable[[Path], int]
    grows: bool = False  # it may be at the beginning of the next version: rows are appended


@cache
def network() -> GPT:
    return GPT.init(SIZES, torch.Generator().manual_seed(0))


# -- models, checkpoints -----------------------------------------------------------------------


def save_model(folder: Path, n: int) -> None:
    network().save(folder / "model.safetensors", number=n, padding="x" * (n % 5) * 100)


def model_version(folder: Path) -> int:
    from mylib.files import read_safetensors

    GPT.load(folder / "model.safetensors")
    return int(read_safetensors(folder / "model.safetensors", "mylib.GPT 1")[1]["number"])


def save_checkpoint(folder: Path, n: int) -> None:
    history = History(list(range(1, n + 1)), [0.5] * n)
    save_run(folder / "run.safetensors", network(), [], SETTINGS, history)


def checkpoint_version(folder: Path) -> int:
    return read_run(folder / "run.safetensors", SETTINGS).step


# -- tokens ------------------------------------------------------------------------------------


@cache
def every_token() -> list[bytes]:
    ranks = ordinary(load_tokenizer())
    return sorted(ranks, key=ranks.__getitem__)


def save_tokens(folder: Path, n: int) -> None:
    words = [f" new{i}".encode() for i in range(n)]
    save_ranks(folder / "words.tiktoken", [*every_token(), *words])


def tokens_version(folder: Path) -> int:
    found = load_tokenizer(folder / "words.tiktoken")
    return found.n_vocab - load_tokenizer().n_vocab


def save_ids(folder: Path, n: int) -> None:
    write_tokens(folder / "ids.tokens", (" geese" for _ in range(1000 + n)), load_tokenizer())


def ids_version(folder: Path) -> int:
    encoding = load_tokenizer()
    per_word = len(encoding.encode_ordinary(" geese"))
    return len(open_tokens(folder / "ids.tokens", encoding)) // per_word - 1000


# -- results -----------------------------------------------------------------------------------


def save_facts(folder: Path, n: int) -> None:
    write_json(folder / "facts.json", {"n": n, "all": list(range(n))})


def facts_version(folder: Path) -> int:
    return json.loads((folder / "facts.json").read_text())["n"]


def table(folder: Path) -> Table:
    return Table(folder / "table.csv", ["n"], ["text"], {}, {})


def save_row(folder: Path, n: int) -> None:
    """A script that goes on with its table: row n is its next."""
    with contextlib.redirect_stdout(io.StringIO()):
        grown = table(folder)
        for row in range(1, n + 1):
            # Every fourth row is longer than a page of a disk, so that a full one can refuse it.
            grown.add(n=row, text="words, and more of them " * (3 if row % 4 else 250))


def row_version(folder: Path) -> int:
    rows = [int(row["n"]) for row in table(folder).rows]
    assert sorted(set(rows)) == list(range(1, len(set(rows)) + 1)), rows
    return len(set(rows))


# -- notebooks ---------------------------------------------------------------------------------


def save_notebook(folder: Path, n: int) -> None:
    """What `make notebooks` does, without the kernel: the outputs come from here."""
    path = folder / "01.ipynb"
    if not path.exists():
        cell = nbformat.v4.new_code_cell("n", id="n")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)

    def run(notebook, where):
        output = nbformat.v4.new_output("stream", text=f"{n}\n" + "more\n" * (n % 50))
        notebook.cells[0].outputs, notebook.cells[0].execution_count = [output], 1

    before, execute.run = execute.run, run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert execute.execute(path) == 0
    finally:
        execute.run = before


def notebook_version(folder: Path) -> int:
    notebook = nbformat.read(folder / "01.ipynb", as_version=4)
    nbformat.validate(notebook)
    outputs = notebook.cells[0].outputs
    return int(outputs[0].text.split()[0]) if outputs else 0


WRITERS = {
    "model": Writer("model.safetensors", save_model, model_version),
    "checkpoint": Writer("run.safetensors", save_checkpoint, checkpoint_version),
    "ranks": Writer("words.tiktoken", save_tokens, tokens_version),
    "token file": Writer("ids.tokens", save_ids, ids_version),
    "results json": Writer("facts.json", save_facts, facts_version),
    "results table": Writer("table.csv", save_row, row_version, grows=True),
    "notebook": Writer("01.ipynb", save_notebook, notebook_version),
}


def left(folder: Path) -> list[str]:
    """Parts of files that no process works on any more."""
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
