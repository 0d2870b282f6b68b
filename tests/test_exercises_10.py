"""Exercises of chapter 10: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter10
from mylib.gazette import Gazette
from mylib.sampling import Flagged, Passes, Trace
from mylib.tokenizer import MASK

NOTEBOOK = "10-any-order.ipynb"
SOLUTION_2 = "exercise-2-solution"


def test_stubs_are_refused():
    for number, name, check in (
        (1, "at_once", chapter10.check_at_once),
        (2, "settings", chapter10.check_settings),
        (3, "revise", chapter10.check_revise),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    names = {"Passes": Passes, "MASK": MASK}
    chapter10.check_at_once(cell(NOTEBOOK, "exercise-1-solution")["at_once_solution"])
    chapter10.check_settings(cell(NOTEBOOK, SOLUTION_2, **names)["settings_solution"])
    chapter10.check_revise(cell(NOTEBOOK, "exercise-3-solution", **names)["revise_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 10.1 --------------------------------------------------------------------------------------


def product(tables, chance):
    found = 1.0
    for table in tables:
        found *= chance(table)
    return found


def squares(table):
    return sum(p * p for p in table.values())


@pytest.mark.parametrize(
    ("at_once", "line"),
    [
        (lambda tables: 1.0, "right words do not make a right pair"),
        (lambda tables: product(tables, lambda t: 1 / len(t)), "equally likely"),
        (lambda tables: product(tables, lambda t: max(t.values())), "the likeliest pair"),
        (lambda tables: product(tables, lambda t: 1 - squares(t)), "do .not. agree"),
        (lambda tables: product(tables, lambda t: sum(p**3 for p in t.values())), "p squared"),
        (lambda tables: sum(map(squares, tables)) / len(tables), "ninety per cent"),
        (lambda tables: squares(tables[0]), "ninety per cent"),
        (lambda tables: min(map(squares, tables)), "ninety per cent"),
        (lambda tables: sum(map(squares, tables)), "multiplied, not added"),
        (lambda tables: product(tables, squares), 'share "her"'),
        (lambda tables: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_chances_are_named(at_once, line):
    with pytest.raises(NotSolved, match=line):
        chapter10.check_at_once(at_once)


def test_the_chance_is_the_share_of_draws():
    table, chance = chapter10.MANY, torch.Generator().manual_seed(0)
    pairs, weights = list(table), torch.tensor(list(table.values()))
    firsts, seconds = (torch.multinomial(weights, 20_000, True, generator=chance) for _ in "ab")
    met = sum((pairs[a][0], pairs[b][1]) in table for a, b in zip(firsts, seconds, strict=True))
    assert abs(met / 20_000 - chapter10._met(table)) < 0.015


# -- 10.2 --------------------------------------------------------------------------------------


def pages(ids, passes=10):
    return Trace(ids, (ids,) * passes, ids, ids, torch.full((len(ids),), passes))


@pytest.fixture(scope="module")
def evening():
    return Gazette.load()


@pytest.fixture(scope="module")
def fresh(evening):
    return evening.canvas(evening.sample(100, torch.Generator().manual_seed(0)))


def test_good_pages_pass_and_each_fault_is_named(evening, fresh):
    none = torch.zeros(100).double()
    chapter10.judge_settings(pages(fresh), evening, none)
    with pytest.raises(NotSolved, match="you take 11 passes"):
        chapter10.judge_settings(pages(fresh, 11), evening, none)
    with pytest.raises(NotSolved, match="repeats one good page"):
        chapter10.judge_settings(pages(fresh[:1].expand(100, -1)), evening, none)
    with pytest.raises(NotSolved, match="does not lie above zero"):
        chapter10.judge_settings(pages(fresh), evening, torch.ones(100).double())
    with pytest.raises(NotSolved, match="does not lie above zero"):
        chapter10.judge_settings(pages(fresh.flip(1)), evening, none)


def test_likely_pages_alone_are_refused(evening):
    many = evening.canvas(evening.sample(600, torch.Generator().manual_seed(1))).unique(dim=0)
    likely = many[(-evening.log_prob(many)).argsort()[:100]]
    with pytest.raises(NotSolved, match="leave out the rare ones"):
        chapter10.judge_settings(pages(likely), evening, torch.zeros(100).double())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (lambda: dict(order="random", budget=Passes(20)), "extra passes are no skill"),
        (lambda: dict(order="random", generator=None), "by settings only"),
        (lambda: None, "return a dictionary"),
        (lambda: dict(order="best"), "stopped with ValueError"),
    ],
)
def test_settings_that_cannot_be_tried_are_named(settings, line):
    with pytest.raises(NotSolved, match=line):
        chapter10.check_settings(settings)


def test_the_greedy_writer_is_refused():
    greedy = dict(order="confidence", budget=Passes(10), revise=Flagged(), temperature=0)
    with pytest.raises(NotSolved, match="validity alone rewards"):
        chapter10.check_settings(lambda: greedy)


# -- 10.3 --------------------------------------------------------------------------------------


def reviser(
    *,
    at_once=False,
    prompts=False,
    never=False,
    looks=False,
    forever=False,
    late=False,
    wait=False,
):
    """The right answer, with one mistake."""

    def revise(read, canvas, passes):
        ids, given = canvas.clone(), canvas != MASK
        left = passes
        while left > 0 or (forever and (ids == MASK).any()):
            holes = (ids == MASK).nonzero()[:, 0]
            if not len(holes):
                break
            words, flags = read(ids)
            doubted = flags & (ids != MASK) & (prompts | ~given)
            share = len(holes) if at_once else -(-len(holes) // max(left, 1))
            now = holes[: 1 if wait and left > 1 else share]
            ids[now] = words[now]
            if looks:
                doubted = read(ids)[1] & (ids != MASK) & ~given
            open_ = left > 1 and (ids == MASK).any()
            if not never and (open_ or late or (forever and doubted.any())):
                ids[doubted] = MASK
            left -= 1
        return ids

    return revise


def test_the_right_answer_passes_without_a_mistake(capsys):
    chapter10.check_revise(reviser())
    assert "solved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("revise", "line"),
    [
        (reviser(at_once=True), "all holes in the first pass"),
        (reviser(wait=True), "3, 3, 3 and 2"),
        (reviser(prompts=True), "prompt words are the author's"),
        (reviser(never=True), "still stand"),
        (reviser(looks=True), "a look at the flags is a pass"),
        (reviser(forever=True), "do not come to an end"),
        (reviser(late=True), "still has holes"),
        (lambda read, canvas, passes: canvas, "still has holes"),
        (lambda read, canvas, passes: None, "return the page"),
        (lambda read, canvas, passes: canvas.clamp(min=5), "not written down"),
        (lambda read, canvas, passes: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_revisers_are_named(revise, line):
    with pytest.raises(NotSolved, match=line):
        chapter10.check_revise(revise)
