"""Bad inputs are refused in words or read as something sound; `tests/fuzz/run.py` reads thousands.

The readers and the inputs are in `tests/fuzz`; `tests/fuzz/results.csv` says what was run by hand.
"""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from safetensors.torch import load, save
from test_squad import changed

from mylib.masks import Mask, causal, dense, from_dense, padding, prefix_lm
from mylib.objectives import Denoising, Rows
from mylib.sampling import write
from mylib.tokenizer import MASK

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import files_read as files  # noqa: E402
import judging  # noqa: E402
import values_read as values  # noqa: E402
from mutations import raw, toml  # noqa: E402
from readers import READERS, judged, whole  # noqa: E402

EXAMPLES = {"gpt2": 3, "config": 25, "run": 25}  # of the slower ones; 50 of the others
VALUES = ("canvas", "mask", "rows")
PHASES = (Phase.explicit, Phase.generate)
CHECKS = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", READERS)
def test_every_input_is_read_or_refused(name, folder):
    @settings(max_examples=EXAMPLES.get(name, 50), derandomize=True, phases=PHASES, **CHECKS)
    @given(READERS[name].inputs(folder))
    def read(given):
        judged(name, folder, given)

    read()


@pytest.mark.parametrize("name", [name for name in READERS if name not in VALUES])
def test_what_the_inputs_are_broken_from_is_whole(name, folder):
    assert judged(name, folder, whole(name, folder)) == "accepted"


def test_the_judge_is_strict():
    """An error of each other kind is one, also a message that does not say which file."""

    def fails(error):
        def read():
            raise error

        return read

    for error in (KeyError("x"), RuntimeError("it broke, somewhere"), MemoryError(), SystemExit(2)):
        with pytest.raises(judging.Undecided, match=type(error).__name__):
            judging.outcome(fails(error))
    for error, says in [
        (ValueError("line 3 is wrong"), "does not name a.csv"),
        (ValueError("a.csv"), "message of 5 characters"),
        (ValueError("a.csv has \ud800 in it"), "cannot be printed"),
        (UnicodeDecodeError("utf-8", b"a.csv", 0, 1, "a.csv"), "a bare UnicodeDecodeError"),
    ]:
        with pytest.raises(judging.Undecided, match=says):
            judging.outcome(fails(error), "a.csv")
    assert judging.outcome(fails(ValueError("a.csv: line 3")), "a.csv") == "refused"
    assert judging.outcome(lambda: 7) == "accepted"


def test_the_judge_ends_what_hangs_or_takes_all_memory(monkeypatch):
    monkeypatch.setattr(judging, "SECONDS", 0.05)
    with pytest.raises(judging.Undecided, match=r"Hang: more than 0\.05 s"):
        judging.outcome(spin)
    if judging.address_space() is not None:
        with pytest.raises(judging.Undecided, match="MemoryError"):
            judging.outcome(lambda: bytearray(2 * judging.MEMORY))


def spin():
    while True:
        pass


# -- what the inputs found, each by the input ----------------------------------------------------


def in_grammar(*path, to):
    return lambda folder: raw(toml(changed(files.GRAMMAR, path, to)))


def in_ledger(*path, to):
    return lambda folder: raw(toml(changed(files.LEDGER, ("row", 0, *path), to)))


def in_config(name, value):
    return lambda folder: raw(toml(files.CONFIG | {name: value}))


def in_notes(kind, *path, to):
    """In the notes of a model's or a checkpoint's header."""

    def made(folder):
        header, tensors = files.saved(folder, kind)
        return files.safetensors(changed(header, ("__metadata__", *path), to), tensors)

    return made


def with_tensor(kind, name, value):
    """The whole file with another tensor of this name (None: without it)."""

    def made(folder):
        data = whole(kind, folder)
        tensors, size = load(data), int.from_bytes(data[:8], "little")
        notes = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors[name] = value if value is not None else tensors[name]
        return save({n: t for n, t in tensors.items() if value is not None or n != name}, notes)

    return made


def in_gpt2(name, value):
    return lambda folder: json.dumps(files.gpt2_folder(folder)[0] | {name: value}).encode()


def in_ranks(rows):
    return lambda folder: files.lines(" ")(rows).encode()


def given_bytes(data):
    return lambda folder: data


MANY = [["The at."] * 10] * 7
VALUE = ["frames", "one", "weight"]
WEIGHT = "model.ln_f.weight"
FOUND = [
    # RecursionError, KeyError and bare errors of the libraries
    ("grammar", in_grammar(*VALUE, to="@deep@"), "nested too deeply"),
    ("grammar", in_grammar(*VALUE, to="@hex@"), "a number of thousands of digits"),
    ("grammar", in_grammar("frames", "two", "slots", to=MANY), "10000000 texts of up to 21 words"),
    ("config", in_config("seed", "@deep@"), "nested too deeply"),
    ("config", in_config("learning-rate", 10**400), "learning-rate is a number, got one of 401"),
    ("config", in_config("learning-rate", float("nan")), "learning-rate is a finite number"),
    ("config", in_config("seed", 10**30), "seed is a number of 64 bits"),
    ("config", in_config("width", 10**9), "parameters are more than the memory"),
    ("config", in_config("layers", 10**9), "parameters are more than the memory"),
    ("config", in_config("set", {"mask": []}), r"mask is one of causal, .*got \[\]"),
    ("config", in_config("set", {"rate": "a"}), "settings of another type for MaskedLM"),
    ("config", in_config("set", {"split": [10**400, 0.5, 0]}), "settings of another type"),
    ("squad", given_bytes(raw(json.dumps(changed(
        files.SQUAD, ("data", 0, "paragraphs", 0, "context"), "Ada wrote \ud800")))),
        "'context' has half a surrogate pair"),
    # panics of tiktoken, and vocabularies that cannot spell
    ("ranks", in_ranks(files.RANKS[:-1]), "1 of the 256 single bytes are no tokens"),
    ("ranks", in_ranks([*files.RANKS, files.RANKS[0]]), "every token once, with the ids 6..264"),
    ("ranks", in_ranks([*files.RANKS, ["IGJlbGw=", 6]]), "every token once"),
    ("ranks", given_bytes(b""), "256 of the 256 single bytes"),
    # networks that take memory, hang, or compute NaN
    ("model", in_notes("model", "config", "n_embd", to=10**9), "weights and config do not fit"),
    ("model", in_notes("model", "config", "n_layer", to=10**9), "do not fit: the config has"),
    ("model", in_notes("model", "config", "n_embd", to=4.0), "n_embd is a whole number, got 4.0"),
    ("model", in_notes("model", "config", "layer_norm_epsilon", to="x"), "do not fit"),
    ("model", in_notes("model", "config", "n_embd", to="@deep@"), "do not fit"),
    ("model", with_tensor("model", "ln_f.weight", torch.tensor([1, math.nan, 1, 1])), "holds NaN"),
    ("model", with_tensor("model", "ln_f.weight", torch.ones(4).int()), "holds torch.int32"),
    # checkpoints that went on from nonsense, or ended in IndexError
    ("run", in_notes("run", "run", "step", to=-5), "damaged checkpoint: .*step -5"),
    ("run", in_notes("run", "run", "step", to=99), "damaged checkpoint"),
    ("run", in_notes("run", "run", "history", "loss", to=["a", "b"]), "damaged checkpoint"),
    ("run", with_tensor("run", WEIGHT, None), f"{WEIGHT} is missing, expected float"),
    ("run", with_tensor("run", WEIGHT, torch.ones(5)), r"is float \(5,\), expected float \(4,\)"),
    ("run", with_tensor("run", "optimizer.1.0.exp_avg", None), "exp_avg is missing, expected"),
    ("run", with_tensor("run", "optimizer.9.9.step", torch.ones(())), "expected no such tensor"),
    ("run", with_tensor("run", "optimizer.0.0.x.y", torch.ones(())), "expected no such tensor"),
    ("gpt2", in_gpt2("n_embd", 10**9), r"has the sizes of \d+ parameters, and its weights"),
    ("gpt2", in_gpt2("n_layer", 10**6), "has the sizes of"),
    # the ledger: formats that read attributes or fill the memory, and files that are none
    ("ledger", in_ledger("measured", to="{x.real} {y}"), "row 'a': numbers: "),
    ("ledger", in_ledger("measured", to="{} {x} {y}"), "row 'a': numbers: "),
    ("ledger", in_ledger("numbers", "y", "show", to="999999999d"), "row 'a': numbers: show"),
    ("ledger", in_ledger("numbers", "y", "file", to="data//dev/zero"), "no file"),
    ("ledger", in_ledger("numbers", "x", "where", to={"nobody": "b"}), "'nobody'"),
    ("ledger", in_ledger("note", to=[1]), r"row 'a': note: \[1\], expected int"),
    ("ledger", given_bytes(b"row = 1"), "the ledger: verdicts: missing"),
    ("about", given_bytes(b"[1]"), "was made with"),
    ("about", given_bytes(b"\xff"), "not a JSON file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "says"), FOUND)
def test_what_the_inputs_found_stays_found(name, given, says, folder):
    assert judged(name, folder, given(folder)) == "refused"
    (folder / "again").mkdir()
    try:
        with pytest.raises((ValueError, TypeError, OSError), match=says):
            READERS[name].read(folder / "again", given(folder))
    finally:
        shutil.rmtree(folder / "again")


IDS, ODD = torch.tensor([[MASK, 7]]), torch.tensor([[0, 1]])
MISUSED = {
    "a canvas that is a list": (lambda: write(values.GPT, [[MASK, 7]]), "a canvas is an int tens"),
    "a complex canvas": (lambda: write(values.GPT, IDS.to(torch.complex64)), "a canvas is int"),
    "half a word a pass": (lambda: write(values.GPT, IDS, budget=0.5), "a budget is a number of"),
    "a block of nothing": (lambda: write(values.GPT, IDS, block=0.5), "block is a whole number"),
    "an answer too large": (lambda: dense(lambda b, h, q, k: torch.ones(17).bool(), 3), "shape"),
    "an answer of five axes": (
        lambda: dense(lambda b, h, q, k: torch.ones(1, 1, 1, 1, 1).bool(), 1),
        "answers with the shape",
    ),
    "an answer that does not fit": (lambda: dense(padding(ODD.bool()) & causal, 3), "cannot answ"),
    "no batch": (lambda: dense(causal, 3, batch=0), "a batch has at least 1 row, got 0"),
    "half a head": (lambda: dense(causal, 3, heads=0.5), "a number of heads is a whole number"),
    "bool indices": (lambda: dense(causal, torch.tensor([True])), "indices are a 1-D tensor of"),
    "NaN tokens": (lambda: dense(causal, math.nan), "a number of tokens is a whole number"),
    "a mask of nothing": (lambda: padding(None), r"padding\(valid\) takes a tensor, got None"),
    "rows of a list": (lambda: Mask(causal.rule, "mine", [[3]]), "mine: rows are tensors of shape"),
    "an empty prefix": (lambda: prefix_lm(torch.tensor([]).int()), "a prefix is a whole number"),
    "no matrix": (lambda: from_dense(0.5), "from_dense takes a bool tensor"),
    "a text of two axes": (lambda: Rows.padded([ODD]), r"document 0 is \(T,\), got \(1, 2\)"),
    "a text of floats": (lambda: Rows.padded([torch.ones(2)]), "document 0 is an int tensor"),
    "rows of nothing": (lambda: Rows(None, None, None), "tokens is an int tensor, got NoneType"),
    "a far document": (lambda: Rows(ODD, ODD + 8, ODD), r"documents are numbered -1\.\.1, found"),
    "a share below 0": (lambda: Denoising(keep_mask=-1), "keep_mask multiplies a loss"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_what_is_handed_over_wrongly_is_said(name):
    call, says = MISUSED[name]
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_texts_may_be_of_any_int_type():
    """They were a RuntimeError of torch once."""
    rows = Rows.padded([torch.tensor([7, 8]), torch.tensor([9], dtype=torch.int16)])
    assert rows.tokens.tolist() == [[7, 8], [9, 0]] and rows.tokens.dtype == torch.int64


def test_the_table_of_what_was_run_by_hand():
    with open(FUZZ / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["reader"] for row in rows] == list(READERS)
    for row in rows:
        counts = [int(row[name]) for name in ("accepted", "refused", "other")]
        assert sum(counts) == int(row["inputs"]) and row["other"] == "0", row
        assert min(counts[:2]) > 0, row  # the inputs are neither all right nor all wrong
        assert float(row["longest_s"]) < judging.SECONDS / 2 and int(row["peak_mib"]) < 1024, row
