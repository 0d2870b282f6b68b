"""The readers of files: how a valid file looks, how it is broken, what must hold if it is taken."""

from __future__ import annotations

import argparse
import base64
import json
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from mutations import raw, toml

from mylib import ledger
from mylib.commands.train import _refuse
from mylib.commands.train_data import material
from mylib.commands.train_objective import model_of, objective_of, refuse_leaks
from mylib.commands.train_settings import FLAGS, effective
from mylib.datasets import open_tokens, read_conll, read_parts, read_squad, write_tokens
from mylib.experiments.results import Table
from mylib.gazette import Gazette
from mylib.model import GPT, GPTConfig
from mylib.objectives import NextToken
from mylib.tokenizer import FIRST_WORD, load_tokenizer, spans
from mylib.train import fit

NAME = "broken.file"
SIZES = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)
TEXTS = [torch.tensor([1, 7, 8, 9, 2]), torch.tensor([1, 10, 2])]


def put(folder: Path, data: bytes) -> Path:
    path = folder / NAME
    path.write_bytes(data)
    return path


def lines(separator: str):
    """Writes rows as lines, whatever they have become."""

    def write(rows) -> str:
        rows = rows if isinstance(rows, list) else [rows]
        cut = (row if isinstance(row, list) else [row] for row in rows)
        return "\n".join(separator.join(map(str, row)) for row in cut)

    return write


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- grammars ----------------------------------------------------------------------------------

GRAMMAR = {
    "edition": "Evening",
    "paper": "The Gazette",
    "tables": {
        "who": {
            "columns": ["name", "town"],
            "rows": [["Ada", "Bergen"], ["Ashby", "Dover"]],
            "weights": [1, 2.5],
            "tags": {"name": "B-PER"},
        }
    },
    "frames": {
        "one": {
            "weight": 2,
            "draws": {"x": "who"},
            "slots": [
                [{"text": "{x.name} at", "weight": 3, "side": "left"}, "At {x.town}."],
                ["The {x.name}."],
            ],
            "questions": [{"ask": "At {x.town}?", "answer": "x.name"}],
        },
        "two": {"weight": 1, "slots": [["The At."]]},
    },
}


def grammar(folder: Path, data: bytes) -> None:
    gazette = Gazette.load(put(folder, data))
    documents = gazette.canvas(gazette.sample(2, seeded()))
    assert gazette.is_valid(documents).all() and 0 <= gazette.entropy < 1e3
    assert abs(float(gazette.length_probs.sum()) - 1) < 1e-9


# -- sentences, questions, text ----------------------------------------------------------------

CONLL = [["Ada", "B-x"], ["#", "O"], [], ["-DOCSTART-", "O"], ["She", "O"], ["York", "I-x"]]
ANSWERS = [{"text": "Ada", "answer_start": 0}, {"text": "wrote", "answer_start": 4}]
QUESTIONS = [
    {"id": "1", "question": "Who?", "answers": ANSWERS, "is_impossible": False},
    {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
]
SQUAD = {
    "version": "2.0",
    "data": [{"title": "t", "paragraphs": [{"context": "Ada wrote é.", "qas": QUESTIONS}]}],
}


def conll(folder: Path, data: bytes) -> None:
    for sentence in read_conll(put(folder, data)):
        assert sentence.words and all(sentence.words) and len(sentence.words) == len(sentence.tags)


def squad(folder: Path, data: bytes) -> None:
    for example in read_squad(put(folder, data)):
        assert len(spans(load_tokenizer(), example.context)) > 0
        for answer in example.answers:
            assert example.context[answer.start :].startswith(answer.text)


def text(folder: Path, data: bytes) -> None:
    """A file, and a folder with a whole one beside it."""
    whole = folder / "texts" / "a.txt"
    whole.parent.mkdir(exist_ok=True)
    whole.write_text("Two geese.")
    (folder / "texts" / f"{NAME}.txt").write_bytes(data)
    assert "".join(read_parts(whole.parent)).startswith("Two geese.\n")
    found = "".join(read_parts(put(folder, data)))
    assert found.strip() and "\r" not in found and found.encode()


# -- weights -----------------------------------------------------------------------------------


@cache
def saved(folder: Path, kind: str) -> tuple[dict, bytes]:
    """Header and tensors of a whole file: a model, or a run after two steps of four."""
    path, model = folder / f"whole.{kind}", GPT.init(SIZES, seeded())
    if kind == "model":
        model.save(path, edition="small")
    else:
        with suppress(InterruptedError):
            training(path, stop=3)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for key in ("config", "run"):
        if key in header["__metadata__"]:
            header["__metadata__"][key] = json.loads(header["__metadata__"][key])
    return header, data[start:]


def training(path: Path, stop: int | None = None):
    def look(step, _):
        if step == stop:
            raise InterruptedError("killed")

    model, how = GPT.init(SIZES, seeded()), dict(batch=2, save_every=2, progress=False)
    return model, fit(model, NextToken(), TEXTS, 4, checkpoint=path, on_step=look, **how)


def safetensors(header, tensors: bytes) -> bytes:
    """A file of any header; what is nested in the metadata is JSON in a string."""
    if isinstance(header, dict) and isinstance(notes := header.get("__metadata__"), dict):
        dumped = {
            k: raw(json.dumps(v)).decode("utf-8", "replace") if isinstance(v, dict | list) else v
            for k, v in notes.items()
        }
        header = header | {"__metadata__": dumped}
    data = raw(json.dumps(header))
    return len(data).to_bytes(8, "little") + data + tensors


def model(folder: Path, data: bytes) -> None:
    found = GPT.load(put(folder, data))
    assert all(w.isfinite().all() and w.dtype == torch.float32 for w in found.parameters())
    ids = torch.zeros(1, min(2, found.config.n_positions), dtype=torch.long)
    assert found(ids).shape == (*ids.shape, found.config.vocab_size)


def run(folder: Path, data: bytes) -> None:
    trained, history = training(put(folder, data))
    assert history.steps == [1, 2, 3, 4] and len(history.loss) == 4
    assert all(w.isfinite().all() for w in trained.parameters())


@cache
def gpt2_folder(folder: Path) -> tuple[dict, bytes]:
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    sizes = dict(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder / "gpt2")
    config = json.loads((folder / "gpt2" / "config.json").read_text())
    return config, (folder / "gpt2" / "model.safetensors").read_bytes()


def gpt2(folder: Path, data: bytes) -> None:
    from mylib.convert import load_gpt2

    place = folder / NAME
    place.mkdir(exist_ok=True)
    (place / "config.json").write_bytes(data)
    (place / "model.safetensors").write_bytes(gpt2_folder(folder.parent)[1])
    assert load_gpt2(place)(torch.zeros(1, 2, dtype=torch.long)).isfinite().all()


# -- tokens ------------------------------------------------------------------------------------

WORDS = [b" two", b" geese", *(bytes([byte]) for byte in range(256))]
RANKS = [[base64.b64encode(word).decode(), FIRST_WORD + i] for i, word in enumerate(WORDS)]


def ranks(folder: Path, data: bytes) -> None:
    found = load_tokenizer(put(folder, data))
    says = "Two geese, \0 é 🙂"
    assert found.decode(found.encode_ordinary(says)) == says
    assert all(found.decode_single_token_bytes(i) for i in range(found.n_vocab))


@cache
def token_file(folder: Path) -> tuple[dict, bytes]:
    write_tokens(folder / "whole.tokens", ["Two geese. " * 20], load_tokenizer())
    data = (folder / "whole.tokens").read_bytes()
    return json.loads(data[8:512]), data[512:]


def tokens(folder: Path, data: bytes) -> None:
    ids = open_tokens(put(folder, data), load_tokenizer())
    assert ids.dim() == 1 and len(ids) > 0 and ids.dtype in (torch.uint16, torch.int32)


# -- settings and results ----------------------------------------------------------------------

CONFIG = {
    "gazette": "evening",
    "objective": "masked",
    "steps": 2,
    "window": 40,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "learning-rate": 0.01,
    "batch": 2,
    "seed": 1,
    "compact": False,
    "checkpoint": "run.safetensors",
    "set": {"rate": 0.3, "split": [0.5, 0.25, 0.25], "mask": "bidirectional"},
}
NOT_SAID = dict.fromkeys(FLAGS)


def config(folder: Path, data: bytes) -> None:
    """Everything that `mylib train` does with its settings before it trains."""
    found = effective(argparse.Namespace(config=put(folder, data), set=[], **NOT_SAID))
    try:
        _refuse(found)
        source = material(found)
        objective, network = (of(found, source.encoding) for of in (objective_of, model_of))
        refuse_leaks(objective, source, found, min(network.config.n_layer, 4))
        row = min(found["window"], 64)
        for batch in objective.make(objective.rows(source.judged[:2], row), seeded()):
            logits = torch.zeros(len(batch.targets), source.encoding.n_vocab)
            assert objective.loss(logits, batch).isfinite()
    except (ValueError, TypeError, OSError) as error:  # these name the setting, not the file
        raise ValueError(f"{NAME}: {error}") from error


LEDGER = {
    "verdicts": {"holds": "true", "holds here": "measured"},
    "chapters": {"01.ipynb": "One"},
    "notes": [{"number": 1, "title": "First", "right": "much"}],
    "row": [
        {
            "id": "a",
            "note": 1,
            "says": "words",
            "measured": "{x} and {y}",
            "verdict": "holds here",
            "version": "so",
            "chapter": "01.ipynb",
            "heading": "One",
            "evidence": ["data/results/a.csv"],
            "numbers": {
                "x": {
                    "file": "data/results/a.csv",
                    "where": {"who": ["b", "c"]},
                    "minus": {"who": "d"},
                    "column": "n",
                    "how": "mean",
                    "show": ".2f",
                    "times": 2,
                },
                "y": {"file": "data/results/a.json", "key": "k", "show": ".1%"},
            },
        }
    ],
}
CSV = [["who", "n"], ["b", 1], ["c", 2.5], ["d", 3]]


@contextmanager
def data_folder(folder: Path, **files: bytes):
    """The ledger looks its numbers up here."""
    (folder / "results").mkdir(exist_ok=True)
    whole = {"csv": lines(",")(CSV).encode(), "json": b'{"k": 0.25}'}
    for kind, data in (whole | files).items():
        (folder / "results" / f"a.{kind}").write_bytes(data)
    with mock.patch.object(ledger, "data_path", lambda name: folder / name):
        yield


def the_ledger(folder: Path, data: bytes) -> None:
    with data_folder(folder):
        found = ledger.load_ledger(put(folder, data))
    assert found.table()._repr_html_() and found.counts() and repr(found.table())


def results(folder: Path, data: bytes) -> None:
    """A results file of the ledger, as CSV and as JSON, and a table that is gone on with."""
    path = folder / "whole.toml"
    path.write_text(toml(LEDGER))
    for kind in ("csv", "json"):
        with data_folder(folder, **{kind: data}):
            try:
                found = ledger.load_ledger(path)
            except ValueError as error:
                assert "'a'" in str(error) and f"a.{kind}" in str(error), error
            else:
                assert "{" not in found.rows[0].measured
    put(folder, data).with_suffix(".json").write_text('{"settings": {"seed": 1}}')
    grown = Table(folder / NAME, ["who"], ["n"], {"seed": 1}, {})
    assert all(set(row) == {"who", "n"} for row in grown.rows) and not grown.has(who="nobody")


def about(folder: Path, data: bytes) -> None:
    """The JSON file beside a table."""
    (folder / "table.csv").write_text("who,n\nb,1\n")
    put(folder, data).rename(folder / "table.json")
    Table(folder / "table.csv", ["who"], ["n"], {"seed": 1}, {}).note(more=1)
    assert json.loads((folder / "table.json").read_text())["more"] == 1
