"""Exercises of chapter 07: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter07
from mylib.masks import dense, documents, prefix_lm, reach

NOTEBOOK = "07-between.ipynb"


def test_stubs_are_refused():
    for number, name, check in (
        (1, "leaks", chapter07.check_depths),
        (2, "how_far", chapter07.check_windows),
        (3, "row", chapter07.check_row),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    chapter07.check_depths(cell(NOTEBOOK, "exercise-1-solution")["leaks_solution"])
    chapter07.check_windows(cell(NOTEBOOK, "exercise-2-solution")["how_far_solution"])
    chapter07.check_row(cell(NOTEBOOK, "exercise-3-solution")["row_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 7.1 ---------------------------------------------------------------------------------------

RIGHT = {"A": (2, 7, 7), "B": (3, 3, 3), "C": (4, 4, 4), "D": (0, 0, 7), "E": (0, 0, 0)}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"A": (2, 2, 2), "D": (0, 0, 0)}, "A and D: one layer is not enough to check"),
        ({"D": (0, 0, 0)}, "D: one layer is not enough to check"),
        ({"A": (2, 2, 2)}, "A: one layer is not enough to check"),
        ({"A": (2, 5, 7)}, "by way of the tokens behind them"),
        ({"B": (0, 0, 0)}, "the given words see each other"),
        ({"C": (4, 7, 7)}, "no way leads into a later block"),
        ({"D": (0, 5, 7)}, "in any order that stays inside the row"),
        ({"E": (0, 0, 1)}, "no step leads to the right"),
        ({"C": (8, 8, 8)}, "only seven answers stand in the row"),
        ({"A": (7, 2, 2)}, "more layers never close a way"),
        ({"A": (2, 7)}, "three whole numbers"),
        ({"A": ("2", "7", "7")}, "three whole numbers"),
        ({"A": 2}, "three whole numbers"),
        ({"A": torch.tensor([2, 7, 7])}, "makes one of a tensor"),
        ({"F": (0, 0, 0)}, "three numbers for each mask"),
    ],
)
def test_wrong_depths_are_named(changed, line):
    with pytest.raises(NotSolved, match=line):
        chapter07.check_depths(RIGHT | changed)


def test_ranks_change_with_depth():
    """The best of one layer is the worst of three: the exercise shows what it is for."""
    found = {name: chapter07.leaks_by_depth(name) for name in chapter07.FIVE_MASKS}
    assert found == RIGHT
    assert found["D"][0] == min(counts[0] for counts in found.values())
    assert found["D"][2] == max(counts[2] for counts in found.values())


# -- 7.2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how_far", "line"),
    [
        (lambda ws: ws[-1], "is what one layer sees"),
        (max, "is what one layer sees"),
        (lambda ws: ws[0] - 1, "is what one layer sees"),
        (sum, "counts the token itself in every layer"),
        (lambda ws: sum(w - 1 for w in ws) + 1, "counts the token itself once"),
        (lambda ws: 3 * len(ws), r"\[1, 1, 1\]: a window of 1 is the token itself"),
        (lambda ws: len(ws) * (ws[0] - 1), "each layer adds its own step"),
        (lambda ws: len(ws) * (max(ws) - 1), "reach says 5, you 8"),
        (lambda ws: float(sum(ws)), "a whole number"),
        (lambda ws: None, "a whole number"),
        (lambda ws: ws[9], "stopped with IndexError"),
    ],
)
def test_wrong_windows_are_named(how_far, line):
    with pytest.raises(NotSolved, match=line):
        chapter07.check_windows(how_far)


# -- 7.3 ---------------------------------------------------------------------------------------


def packed(lengths, given, *, way="right", on=False):
    ids = torch.tensor([[0] * lengths[0] + [1] * lengths[1]])
    place = torch.cat([torch.arange(length) for length in lengths])
    marks = (place < torch.tensor(given)[ids[0]])[None]
    mask = {
        "right": documents(ids) & prefix_lm(marks),
        "or": documents(ids) | prefix_lm(marks),
        "or, row": documents(ids) | prefix_lm(given[0]),
        "row": documents(ids) & prefix_lm(given[0]),
        "apart": prefix_lm(marks),
        "open": documents(ids),
        "causal": documents(ids) & prefix_lm(0),
    }[way]
    visible = dense(mask, ids.shape[1])[0, 0]
    return visible, torch.arange(len(place)) if on else place


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (lambda n, g: packed(n, g, way="row"), "counts from the beginning of the row"),
        (lambda n, g: packed(n, g, way="or"), r"`\|` lets through what either mask allows"),
        (lambda n, g: packed(n, g, way="or, row"), r"`\|` lets through what either mask allows"),
        (lambda n, g: packed(n, g, on=True), "positions run on through the row"),
        (lambda n, g: packed(n, g, way="apart"), "which stands in another story"),
        (lambda n, g: packed(n, g, way="open"), "see each other and nothing behind them"),
        (lambda n, g: packed(n, g, way="causal"), "see each other and nothing behind them"),
        (lambda n, g: (packed(n, g)[0], packed(n, g)[1] + 1), "0, 1, 2, ... in each story"),
        (lambda n, g: (packed(n, g)[0].int(), packed(n, g)[1]), "a bool tensor"),
        (lambda n, g: (~packed(n, g)[0], packed(n, g)[1]), "which stands in another story"),
        (lambda n, g: packed(n, g)[0], "return two things"),
        (lambda n, g: (packed(n, g)[0], packed(n, g)[1].float()), "whole numbers: they choose"),
    ],
)
def test_wrong_rows_are_named(row, line):
    with pytest.raises(NotSolved, match=line):
        chapter07.check_row(row)


def test_a_right_row_leaks_nothing_that_is_asked():
    visible, _ = packed((5, 6), (2, 3))
    told = reach(visible, 4).diagonal(1)
    assert told[:4].tolist() == [True, False, False, False]  # output 0 is not asked: two are given
    assert not told[4]  # the next story's first token
    assert told[5:].tolist() == [True, True, False, False, False]
