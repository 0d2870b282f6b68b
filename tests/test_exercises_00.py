"""Exercises of chapter 00: the stub is refused, the solution passes, wrong answers are named."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from exercise_cells import cell

from mylib import tokenizer
from mylib.exercises import NotSolved, chapter00
from mylib.gazette import Gazette
from mylib.masks import dense, sliding_window
from mylib.tokenizer import BOS, EOS

NOTEBOOK = "00-start-here.ipynb"
SETUP = {"Gazette": Gazette, "Path": Path, "page": lambda *_: None, "tempfile": tempfile}
RIGHT = [math.log(16 / 3), 0, 0, math.log(2), 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.fixture(scope="module")
def pocket():
    return cell(NOTEBOOK, "pocket", **SETUP)["pocket"]


@pytest.fixture(scope="module")
def doubled(pocket):
    names = {**SETUP, **cell(NOTEBOOK, "pocket", **SETUP)}
    return cell(NOTEBOOK, "exercise-3-check", **names)["doubled"]


@pytest.fixture(scope="module")
def lost():
    text = "Maud lost her red wig. She blames the goose."
    return torch.tensor([BOS, *tokenizer.encode(text), EOS])


def test_mask_stub_and_solution(capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        chapter00.check_mask(cell(NOTEBOOK, "exercise-1-stub")["my_mask"])
    chapter00.check_mask(cell(NOTEBOOK, "exercise-1-solution")["my_mask_solution"])
    assert "Exercise 0.1: solved" in capsys.readouterr().out


def test_price_stub_and_solution(pocket, lost, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        stub = cell(NOTEBOOK, "exercise-2-stub")["my_prices"]
        chapter00.check_prices(stub, pocket, lost)
    solution = cell(NOTEBOOK, "exercise-2-solution")["my_prices_solution"]
    chapter00.check_prices(solution, pocket, lost)
    assert "Exercise 0.2: solved" in capsys.readouterr().out


def test_doubling_stub_and_solution(pocket, doubled, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        stub = cell(NOTEBOOK, "exercise-3-stub")["my_entropy"]
        chapter00.check_doubling(stub, pocket, doubled)
    solution = cell(NOTEBOOK, "exercise-3-solution", pocket=pocket)["my_entropy_solution"]
    chapter00.check_doubling(solution, pocket, doubled)
    assert "Exercise 0.3: solved" in capsys.readouterr().out


PLACE = torch.arange(5)
BACK = PLACE[:, None] - PLACE[None, :]
WRONG_MASKS = {
    "rows and columns are swapped": (BACK <= 0) & (BACK >= -2),
    "True was read as hidden": (BACK < 0) | (BACK > 2),
    "swapped and inverted": (BACK > 0) | (BACK < -2),
    "one before, not two": (BACK >= 0) & (BACK <= 1),
    "three before": (BACK >= 0) & (BACK <= 3),
    "looks both ways": BACK.abs() <= 2,
    "the diagonal is True": (BACK > 0) & (BACK <= 2),
    "a mask is boolean": ((BACK >= 0) & (BACK <= 2)).int(),
    r"tensor \(5, 5\)": torch.ones(4, 4, dtype=torch.bool),
    "word 3 may not look at word 0; your": BACK >= 0,
}


def test_a_mask_is_a_torch_tensor():
    with pytest.raises(NotSolved, match="not a ndarray"):
        chapter00.check_mask(lambda: WRONG_MASKS["looks both ways"].numpy())


@pytest.mark.parametrize("line", WRONG_MASKS)
def test_wrong_masks_are_named(line):
    with pytest.raises(NotSolved, match=line):
        chapter00.check_mask(lambda: WRONG_MASKS[line])
    assert not torch.equal(WRONG_MASKS[line].bool(), dense(sliding_window(2, 0), 5)[0, 0]) or (
        WRONG_MASKS[line].dtype != torch.bool
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({2: math.log(2)}, "word 3 costs nothing. An agreeing word is free"),
        ({6: 0.3}, "word 7 costs nothing"),
        ({0: math.log(4)}, "word 1: the first word tells the kind"),
        ({3: math.log(4)}, "word 4: among how many"),
        ({0: -1.0}, "never below 0"),
        (dict(enumerate([0.2] * 12)), "not every word costs something"),
        (dict(enumerate(p / math.log(2) for p in RIGHT)), "these are bits"),
        ({0: math.log(16 / 3) + math.log(2), 3: 0}, "paid at the first word that tells it"),
        ({0: "ln 4"}, "a price is a number"),
    ],
)
def test_wrong_prices_are_named(change, line, pocket, lost):
    with pytest.raises(NotSolved, match=line):
        chapter00.check_prices([change.get(i, p) for i, p in enumerate(RIGHT)], pocket, lost)
    chapter00.check_prices([1.7, 0, 0, torch.tensor(0.7), *[0] * 8], pocket, lost)  # rounded
    with pytest.raises(NotSolved, match="12 words are to be priced, found 11"):
        chapter00.check_prices(RIGHT[:11], pocket, lost)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda h: 2 * h, "it does not double"),
        (lambda h: math.log(2) * 3 / 4, "that is the increase"),
        (lambda h: h + math.log(2), "is there one in every story"),
        (lambda h: h, "cannot stay the same"),
        (lambda h: h + 0.75, "bits to nats"),
        (lambda h: h + 0.25 * math.log(2), "How often is it drawn"),
        (lambda h: "more", "a number"),
    ],
)
def test_wrong_entropies_are_named(answer, line, pocket, doubled):
    with pytest.raises(NotSolved, match=line):
        chapter00.check_doubling(answer(pocket.entropy), pocket, doubled)
