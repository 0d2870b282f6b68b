"""Exercises of chapter 02: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter02
from mylib.gazette import Gazette
from mylib.leaks import influence, prefix_invariance
from mylib.masks import bidirectional, causal, dense

NOTEBOOK = "02-leakage.ipynb"
VERDICTS = {"A": "clean", "B": (8, 9), "C": (0, 1), "D": "clean", "E": "clean", "F": "length"}


@pytest.fixture(scope="module")
def suspects():
    return chapter02.line_up()


def test_stubs_are_refused(suspects):
    for number, name, check in (
        (1, "plateaus", chapter02.check_plateau),
        (2, "layers_needed", chapter02.check_layers),
        (3, "verdicts", lambda answer: chapter02.check_line_up(answer, suspects)),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(suspects, capsys):
    chapter02.check_plateau(cell(NOTEBOOK, "exercise-1-solution")["plateaus_solution"])
    chapter02.check_layers(cell(NOTEBOOK, "exercise-2-solution")["layers_needed_solution"])
    tools = dict(influence=influence, prefix_invariance=prefix_invariance, dense=dense)
    context = dict(causal=causal, bidirectional=bidirectional, suspects=suspects, **tools)
    solution = cell(NOTEBOOK, "exercise-3-solution", **context)["verdicts_solution"]
    assert solution == VERDICTS
    chapter02.check_line_up(solution, suspects)
    assert capsys.readouterr().out.count("solved") == 3


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({8: 0.0, 16: 0.0, 32: 0.0}, "does not go to zero"),
        ({8: 1.6, 16: 1.6, 32: 1.6}, "what the last word costs"),
        ({8: 1.4, 16: 1.5, 32: 1.55}, "the other way round"),
        ({8: 0.1, 16: 0.1, 32: 0.1}, "its share falls"),
        ({8: 0.2, 16: 0.12, 32: 0.05}, "for windows of 16"),
        ({8: 0.2, 16: 0.1}, "one number for each length"),
        ({8: "0.2", 16: 0.1, 32: 0.05}, "a loss is a number"),
    ],
)
def test_wrong_plateaus_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter02.check_plateau(answer)


RIGHT_LAYERS = {"A": None, "B": 1, "C": 2, "D": 3, "E": 1}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"C": None}, "no direct edge is not yet safe"),
        ({"D": None}, "can be joined"),
        ({"E": None}, "the residual stream"),
        ({"E": 2}, "the residual stream"),
        ({"A": 2}, "A: every step"),
        ({"B": 2}, "B: the window opens"),
        ({"A": "None"}, "without quotes"),
        ({"D": 0}, "from 1 on"),
        ({"C": 1}, "two hops are needed"),
        ({"D": 2}, "count the hops"),
    ],
)
def test_wrong_depths_are_named(change, line):
    with pytest.raises(NotSolved, match=line):
        chapter02.check_layers(RIGHT_LAYERS | change)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"E": (0, 1)}, "open influence is no leak"),
        ({"E": "length"}, "open influence is no leak"),
        ({"D": (0, 1)}, "Its loss is no evidence"),
        ({"A": "length"}, "Its loss is no evidence"),
        ({"C": "clean"}, "C: not clean, whatever its loss"),
        ({"B": "clean"}, "at least twelve different words"),
        ({"B": (9, 8)}, "rows and columns swapped"),
        ({"B": (9, 10)}, "another pair comes first"),
        ({"F": "clean"}, "cut the text short"),
        ({"F": (0, 1)}, "cut the text short"),
        ({"F": "guilty"}, "a verdict is"),
    ],
)
def test_wrong_verdicts_are_named(change, line, suspects):
    with pytest.raises(NotSolved, match=line):
        chapter02.check_line_up(VERDICTS | change, suspects)


def test_the_line_up_is_solved_by_the_tools_and_not_by_the_losses(suspects):
    """On any text long enough the tools give the verdicts; no threshold on the loss does."""
    for ids in (torch.arange(100, 112), torch.arange(300, 280, -1)):
        assert {s.name: chapter02.solve(s, ids) for s in suspects} == VERDICTS
    gazette = Gazette.load("sunday")
    chance = torch.Generator().manual_seed(9)
    documents = chapter02.documents_of_one_length(gazette, 1500, chance)
    losses = {s.name: chapter02.price(s, documents) for s in suspects}
    next_word = sorted("ABCDF", key=losses.get)
    # An innocent and a leak at one price, and the dearest is guilty: no threshold helps.
    assert abs(losses["A"] - losses["C"]) < 0.005 and abs(losses["D"] - losses["C"]) < 0.005
    assert next_word[-1] == "F" and next_word[-2] == "B"
