"""Side road A3: its exercises, by the cells of the notebook itself and by wrong answers."""

import copy
import json
from functools import partial

import exercise_cells
import pytest
import torch

from mylib.exercises import NotSolved, many_machines
from mylib.gazette import Gazette
from mylib.objectives import MaskedLM, NextToken

NOTEBOOK = "A3-many-machines.ipynb"
cell = partial(exercise_cells.cell, NOTEBOOK)


def apart(found, wanted):
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def texts():
    """Stories of 22 tokens, and some of other lengths."""
    return Gazette.load().sample(80, torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def names(texts):
    """What the solution of A3.2 finds in the cells above it."""
    equal = [text for text in texts if len(text) == 22][:8]
    runs = vars(many_machines)
    return dict(
        **{name: runs[name] for name in ("one_process", "sealed_runs")},
        **dict(of_one_length=equal, texts=texts[:10], apart=apart),
        **dict(NextToken=NextToken, MaskedLM=MaskedLM),
    )


@pytest.mark.parametrize(
    ("exercise", "answer", "check"),
    [
        ("exercise-1", "share", many_machines.check_share),
        ("exercise-2", "diagnosis", many_machines.check_diagnoses),
        ("exercise-3", "changes", many_machines.check_changes),
    ],
)
def test_stub_is_refused_and_solution_accepted(exercise, answer, check, names, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(f"{exercise}-stub")[answer])
    check(cell(f"{exercise}-solution", **names)[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


# -- A3.1 --------------------------------------------------------------------------------------


def asked(losses):
    return sum(map(len, losses))


def total(rows):
    return sum((row.sum() for row in rows), torch.zeros(()))


def mean(rows):
    return total(rows) / max(asked(rows), 1)


def even(losses, rank, world):
    size = len(losses) // world
    return losses[rank * size : (rank + 1) * size]


def padded(losses, rank, world):
    """As many rows for each: the first ones are taken twice."""
    more = -len(losses) % world
    return (losses + losses[:more])[rank::world]


def in_chunks(size):
    """All take ``size`` rows (a function of rows and processes), the last one what is left."""

    def share(losses, rank, world):
        each = size(len(losses), world)
        end = (rank + 1) * each if rank < world - 1 else len(losses)
        return total(losses[rank * each : end]) / asked(losses)

    return share


def first_takes_all(losses, rank, world):
    return total(losses if rank == 0 else []) / asked(losses)


WRONG_SHARES = {
    "A mean of means is another number": lambda all, r, w: mean(all[r::w]) / w,
    "own count": lambda all, r, w: mean(all[r::w]),
    "the mean of nothing": lambda all, r, w: (
        torch.cat([torch.zeros(0), *all[r::w]]).mean() * asked(all[r::w]) / asked(all)
    ),
    "nobody reads row 4 of 5": lambda all, r, w: total(even(all, r, w)) / asked(all),
    "is read by more than one": lambda all, r, w: total(padded(all, r, w)) / asked(all),
    "reads every row: nothing is shared": lambda all, r, w: total(all) / asked(all) / w,
    "sum of all losses": lambda all, r, w: total(all[r::w]),
    "Multiply by the number of processes only": lambda all, r, w: w * total(all[r::w]) / asked(all),
    "nobody has multiplied by it": lambda all, r, w: total(all[r::w]) / asked(all) / w,
    "a mean of the rows' means": lambda all, r, w: (
        total([row.mean() for row in all[r::w] if len(row)]) / sum(len(row) > 0 for row in all)
    ),
    "of 4 rows the 2 processes read 4, 0. Share the work evenly": first_takes_all,
    "of 5 rows the 4 processes read 2, 2, 1, 0": in_chunks(lambda rows, world: -(-rows // world)),
    "of 7 rows the 4 processes read 1, 1, 1, 4": in_chunks(lambda rows, world: rows // world),
    "returns None": lambda all, r, w: None,
    "return one number": lambda all, r, w: torch.cat([torch.zeros(2), *all[r::w]]),
    "stopped with ZeroDivisionError": lambda all, r, w: 1 / 0,
}


@pytest.mark.parametrize("line", WRONG_SHARES)
def test_wrong_shares_are_named(line):
    with pytest.raises(NotSolved, match=line):
        many_machines.check_share(WRONG_SHARES[line])


@pytest.mark.parametrize(
    "rows",
    [
        lambda losses, rank, world: losses[rank::world],
        lambda losses, rank, world: losses[
            round(rank * len(losses) / world) : round((rank + 1) * len(losses) / world)
        ],
    ],
)
def test_any_cut_will_do(rows, capsys):
    many_machines.check_share(lambda all, r, w: total(rows(all, r, w)) / asked(all))
    many_machines.check_share(
        lambda all, r, w: sum(row.sum() for row in rows(all, r, w)) / asked(all)  # 0 is a number
    )
    assert capsys.readouterr().out.count("solved") == 2


# -- A3.2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), many_machines.SEALED.items())
def test_each_bug_shows_and_vanishes(name, kind, names, texts):
    equal, unequal = names["of_one_length"], sorted(texts[:10], key=len)[1::2]
    run, vanishes, shows = many_machines.sealed_runs()[name], [], []
    if kind == "right":
        vanishes = [(NextToken(), unequal), (MaskedLM(0.3), unequal)]
    if kind == "same noise":
        vanishes, shows = [(NextToken(), unequal)], [(MaskedLM(0.3), equal[:4])]
    if kind == "own denominator":
        vanishes, shows = [(NextToken(), equal[:4])], [(NextToken(), unequal)]
    if kind == "rows left out":
        vanishes = [(NextToken(), equal[:4]), (MaskedLM(0.3), unequal[:4])]
        shows = [(NextToken(), equal[:5])]
    if kind == "not exchanged":
        shows = [(NextToken(), equal[:4])]
        first = run(*shows[0], steps=1)
        assert apart(first, many_machines.one_process(*shows[0], steps=1)) < 1e-4
    for experiment in vanishes:
        assert apart(run(*experiment), many_machines.one_process(*experiment)) < 1e-5
    for experiment in shows:
        assert apart(run(*experiment), many_machines.one_process(*experiment)) > 1e-4


def test_the_right_run_is_the_witness_and_one_document_is_refused(names):
    assert "right" not in repr(many_machines.sealed_runs()["C"])  # a look at it says nothing
    with pytest.raises(ValueError, match="two processes need two documents, got 1"):
        many_machines.sealed_runs()["A"](NextToken(), names["of_one_length"][:1])


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("A", "right", "nothing is wrong where nothing is drawn"),
        ("A", "own denominator", "draws holes"),
        ("B", "rows left out", "documents of one length against documents of several"),
        ("C", "same noise", "Which experiment made you suspect it"),
        ("D", "own denominator", "who moves the weights"),
        ("E", "own denominator", "Try four, then five"),
        ("E", "sound", "choose among right, own denominator"),
    ],
)
def test_wrong_diagnoses_are_named(name, given, line):
    with pytest.raises(NotSolved, match=line):
        many_machines.check_diagnoses(many_machines.SEALED | {name: given})


@pytest.mark.parametrize("answer", [None, {}, {"A": "right"}, "right"])
def test_diagnoses_for_all_runs_are_asked(answer):
    with pytest.raises(NotSolved, match="one diagnosis for each run, A to E"):
        many_machines.check_diagnoses(answer)


# -- A3.3 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", many_machines.CHANGES)
def test_wrong_changes_are_named(name):
    right = {each: answer for each, (answer, _) in many_machines.CHANGES.items()}
    for other in {"same", "half", "other"} - {right[name]}:
        with pytest.raises(NotSolved, match=name):
            many_machines.check_changes(right | {name: other})


def test_the_stub_asks_for_what_the_check_knows():
    stub = cell("exercise-3-stub")["changes"]
    assert list(stub) == list(many_machines.CHANGES) and set(stub.values()) == {...}


# -- the script that both processes run --------------------------------------------------------


def test_the_script_alone_is_one_process(tmp_path):
    """In one process the control is the run itself, whatever the rank is said to be elsewhere."""
    path = exercise_cells.NOTEBOOKS / NOTEBOOK
    cells = json.loads(path.read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if c["id"] == "script")
    script = source.split("'''")[1]
    names = {"__name__": "machines"}
    exec(script, names)
    dice, plain = names["OwnDice"](0.3), MaskedLM(0.3)
    (_, one), (_, other) = (names["train"](each, steps=2) for each in (dice, plain))
    assert one == other
    names["RANK"] = 1
    assert names["train"](copy.copy(dice), steps=2)[1] != other
