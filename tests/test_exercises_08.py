"""Exercises of chapter 08: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter08

NOTEBOOK = "08-two-directions.ipynb"


def test_stubs_are_refused():
    for number, name, check in (
        (1, "backward", chapter08.check_labels),
        (2, "innocent", chapter08.check_innocent),
        (3, "plan", chapter08.check_plan),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    chapter08.check_labels(cell(NOTEBOOK, "exercise-1-solution")["backward_solution"])
    chapter08.check_innocent(cell(NOTEBOOK, "exercise-2-solution")["innocent_solution"])
    chapter08.check_plan(cell(NOTEBOOK, "exercise-3-solution")["plan_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 8.1 ---------------------------------------------------------------------------------------


def turned(rows, lengths, *, inputs=None, targets=None, positions=None, pads=False):
    """The right answer, with one part replaced."""
    place = torch.arange(1, rows.shape[1])
    asked = place < lengths[:, None]
    right = rows[:, 1:], rows[:, :-1], (lengths[:, None] - 1 - place).clamp(min=0)
    chosen = [
        r if c is None else c for r, c in zip(right, (inputs, targets, positions), strict=True)
    ]
    if not pads:
        chosen[1] = chosen[1].masked_fill(~asked, -100)
    return tuple(chosen)


def forward_labels(rows, lengths):
    after = torch.nn.functional.pad(rows[:, 2:], (0, 1), value=-100)
    return turned(rows, lengths, targets=after)


def no_bos(rows, lengths):
    inputs, targets, positions = turned(rows, lengths)
    targets = targets.clone()
    targets[:, 0] = -100
    return inputs, targets, positions


def one_too_high(rows, lengths):
    inputs, targets, positions = turned(rows, lengths)
    return inputs, targets, positions + 1


@pytest.mark.parametrize(
    ("backward", "line"),
    [
        (lambda r, n: turned(r, n, inputs=r[:, :-1], targets=r[:, 1:]), "wrong end is dropped"),
        (lambda r, n: turned(r, n, inputs=r[:, :-1]), "wrong end is dropped"),
        (forward_labels, "forward labels: your outputs must name the word to their right"),
        (lambda r, n: turned(r, n, targets=r[:, 1:]), "the labels are not shifted"),
        (lambda r, n: turned(r, n, pads=True), "stands on a pad is asked"),
        (no_bos, "output 0 must name <bos>"),
        (one_too_high, "one too high: <eos> is 0"),
        (
            lambda r, n: turned(r, n, positions=torch.arange(r.shape[1] - 1).expand(len(r), -1)),
            "they count from the start",
        ),
        (
            lambda r, n: turned(
                r, n, positions=torch.arange(r.shape[1] - 1).flip(0).expand(len(r), -1)
            ),
            "not from the end of the padded row",
        ),
        (lambda r, n: turned(r, n, inputs=r[:, 1:].flip(1)), "the reversed text"),
        (lambda r, n: turned(r, n)[:2], "return three tensors"),
        (lambda r, n: (r, r, r), "for rows"),
        (lambda r, n: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_labels_are_named(backward, line):
    with pytest.raises(NotSolved, match=line):
        chapter08.check_labels(backward)


# -- 8.2 ---------------------------------------------------------------------------------------


def replaced_only(read, story):
    said = read(story)
    for place in range(1, len(story) - 1):
        other = story.clone()
        other[place] = story[1] if story[place] != story[1] else story[2]
        if not torch.allclose(read(other)[place:], said[place:], atol=1e-4):
            return False
    return True


def longer_only(read, story, *, shift=True):
    said = read(story)
    longer = torch.cat([story[:1], story[1:3], story[1:]])
    again = read(longer)
    again = again[3:] if shift else again[1 : len(said)]
    return torch.allclose(again, said[1:], atol=1e-4)


def seen_from_the_end(read, story):
    """Looks at the last row alone, and so at nothing that an early word could move."""
    longer = torch.cat([story[:1], story[1:3], story[1:]])
    return torch.allclose(read(longer)[-1], read(story)[-1], atol=1e-4)


def mask_is_a_triangle(read, story):
    """Insists that every row sees everything to its right."""
    if not (replaced_only(read, story) and longer_only(read, story)):
        return False
    other = story.clone()
    other[-2] = story[1]
    return not torch.allclose(read(other)[1], read(story)[1], atol=1e-4)


@pytest.mark.parametrize(
    ("innocent", "line"),
    [
        (replaced_only, "is a right mask enough"),
        (lambda r, s: longer_only(r, s, shift=False), "compare row i with row i"),
        (lambda r, s: True, "you say True of all seven"),
        (lambda r, s: False, "you accuse the reader with the right mask and positions"),
        (mask_is_a_triangle, "To see less than is allowed"),
        (lambda r, s: len(s) > 11, "yes for one story, no for another"),
        (seen_from_the_end, "goes free"),
        (longer_only, "one reader peeks from a single place"),
    ],
)
def test_wrong_tests_are_named(innocent, line):
    with pytest.raises(NotSolved, match=line):
        chapter08.check_innocent(innocent)


def test_the_seven_readers_are_what_they_are_called():
    solve = cell(NOTEBOOK, "exercise-2-solution")["innocent_solution"]
    for name, (read, honest) in chapter08.readers().items():
        assert solve(read, chapter08._story(9)) is honest, name


# -- 8.3 ---------------------------------------------------------------------------------------


def plan(p_bw, steps, batch, corpus, die, *, below=None, total=False, every=1, fresh=None):
    below = below or (lambda n: n < round(10 * p_bw))
    passes = []
    for _ in range(steps):
        if total and len(passes) >= steps:
            break
        passes.append("fw")
        if [below(die()) for _ in range(every)][-1]:
            passes.append("bw")
    read = steps * batch
    return {
        "passes": passes,
        "forward": read,
        "fresh": min(read, corpus) if fresh is None else fresh(read),
    }


def inclusive(p_bw, *rest):
    return plan(p_bw, *rest, below=lambda n: n <= round(10 * p_bw))


def either(p_bw, steps, batch, corpus, die):
    answer = plan(p_bw, steps, batch, corpus, die)
    passes = ["bw" if die() < round(10 * p_bw) else "fw" for _ in range(steps)]
    return {**answer, "passes": passes}


def without_a_die(p_bw, steps, batch, corpus, die):
    """Backward at every so many steps: nothing is left to chance."""
    faces = iter(list(range(10)) * steps)
    return plan(p_bw, steps, batch, corpus, lambda: next(faces))


def wrong_order(*args):
    answer = plan(*args)
    order = answer["passes"] == ["fw", "bw"] * 40
    return {**answer, "passes": answer["passes"][::-1] if order else answer["passes"]}


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda *a: plan(*a, total=True), "equal tokens in all means fewer forward ones"),
        (either, "equal tokens in all means fewer forward ones"),
        (inclusive, "`<=` counts one face"),
        (lambda *a: plan(*a, fresh=lambda read: read), "do not become .* fresh ones"),
        (lambda *a: plan(*a, fresh=lambda read: 1), "different ones, not 1"),
        (lambda *a: plan(*a, below=lambda n: n < 5 and a[0] > 0), "of a fair die"),
        (lambda *a: plan(*a, below=lambda n: n >= round(10 * a[0])), "coin is upside down"),
        (lambda *a: {**plan(*a), "passes": [["fw", "bw"]]}, "one flat list of strings"),
        (lambda *a: plan(*a, every=2, below=lambda n: n % 5 < round(5 * a[0])), "upside|once|fair"),
        (without_a_die, "throw the die exactly once"),
        (wrong_order, "the forward reading comes first"),
        (lambda *a: {**plan(*a), "forward": 7}, "are 320 read forward"),
        (lambda *a: {}, "return a dictionary"),
        (lambda *a: {**plan(*a), "passes": ["x"]}, "nothing else"),
    ],
)
def test_wrong_plans_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter08.check_plan(answer)
