"""Exercises of chapter 01: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter01

CHAPTER_01 = "01-causal-attention.ipynb"
EXERCISES = [  # notebook, exercise, name of the answer, check
    (CHAPTER_01, "exercise-1", "masked_head", chapter01.check_masked_head),
    (CHAPTER_01, "exercise-2", "causes", chapter01.check_below_the_floor),
    (CHAPTER_01, "exercise-3", "cached_step", chapter01.check_cached_step),
]


@pytest.mark.parametrize(("notebook", "exercise", "answer", "check"), EXERCISES)
def test_stub_is_refused_and_solution_accepted(notebook, exercise, answer, check, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(notebook, f"{exercise}-stub")[answer])
    check(cell(notebook, f"{exercise}-solution")[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


def test_a_mistake_is_shown_as_one_line_without_traceback():
    with pytest.raises(NotSolved) as caught:
        chapter01.check_masked_head(lambda *args: 1 / 0)
    (line,) = caught.value._render_traceback_()
    assert "ZeroDivisionError" in line and "\n" not in line
    assert caught.value.__cause__ is None and caught.value.__suppress_context__ is False


def head(hide, scale=True):
    """A masked head with its masking and its scaling replaced."""

    def masked_head(x, w_q, w_k, w_v, visible):
        q, k, v = x @ w_q, x @ w_k, x @ w_v
        return hide(q @ k.T / (q.shape[-1] ** 0.5 if scale else 1), visible) @ v

    return masked_head


WRONG_HEADS = {
    "after the softmax": head(lambda s, see: s.softmax(-1) * see),
    "use -inf": head(lambda s, see: s.masked_fill(~see, 0).softmax(-1)),
    "Polarity": head(
        lambda s, see: s.masked_fill(see & ~torch.eye(len(s)).bool(), -torch.inf).softmax(-1)
    ),
    "the future is visible": head(lambda s, see: s.softmax(-1)),
    "sqrt": head(lambda s, see: s.masked_fill(~see, -torch.inf).softmax(-1), scale=False),
    "hid what is visible": head(lambda s, see: s.masked_fill(see, -torch.inf).softmax(-1)),
    "NaN": head(lambda s, see: (s + ~see * -torch.inf).softmax(-1)),
    "queries and keys are swapped": lambda x, w_q, w_k, w_v, see: (
        ((x @ w_k) @ (x @ w_q).T / w_q.shape[-1] ** 0.5).masked_fill(~see, -torch.inf).softmax(-1)
        @ (x @ w_v)
    ),
    "dim=-1": head(lambda s, see: s.masked_fill(~see, -torch.inf).softmax(0)),
    "are the values made": lambda x, w_q, w_k, w_v, see: (
        ((x @ w_q) @ (x @ w_k).T / w_q.shape[-1] ** 0.5).masked_fill(~see, -torch.inf).softmax(-1)
        @ (x @ w_v if len(x) == x.shape[1] else x)
    ),
    "the `visible` you are given": head(
        lambda s, see: s.masked_fill(torch.ones_like(s).tril() == 0, -torch.inf).softmax(-1)
    ),
    "length of a query": lambda x, w_q, w_k, w_v, see: (
        (((x @ w_q) @ (x @ w_k).T / x.shape[-1] ** 0.5).masked_fill(~see, -torch.inf)).softmax(-1)
        @ (x @ w_v)
    ),
    "return a tensor": lambda x, *rest: x[0],
}


@pytest.mark.parametrize("line", WRONG_HEADS)
def test_wrong_heads_are_named(line):
    with pytest.raises(NotSolved, match=line):
        chapter01.check_masked_head(WRONG_HEADS[line])


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"A": "leak", "B": "memory", "C": "pads"}, "not always a leak"),
        ({"A": "memory", "B": "luck", "C": "pads"}, "eight documents"),
        ({"A": "luck", "B": "pads", "C": "memory"}, "trained on"),
        ({"A": "luck", "B": "memory", "C": "luck"}, "all positions"),
        ({"A": "luck", "B": "memory", "C": "magic"}, "one of luck"),
        ({"A": "luck"}, "each curve"),
    ],
)
def test_wrong_causes_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter01.check_below_the_floor(answer)


def step(position=None, tril=False, again=False, rows=1, place=1, itself=True, asks=True):
    """A cached step with one thing done wrong."""

    def cached_step(x, past_k, past_v, w_q, w_k, w_v, wpe):
        past = len(past_k)
        new = x[-1:] + place * wpe[past if position is None else position]
        k, v = torch.cat([past_k, new @ w_k]), torch.cat([past_v, new @ w_v])
        if again:
            full = x + wpe[: past + 1]
            k, v = full @ w_k, full @ w_v
        scores = (new if asks else x[-1:]) @ w_q @ k.T / k.shape[-1] ** 0.5
        if tril:
            scores = scores.masked_fill(torch.ones_like(scores).tril() == 0, -torch.inf)
        if not itself:
            scores[:, -1] = -torch.inf
        output = scores.softmax(-1) @ v
        return (output[0] if rows == 1 else output.expand(rows, -1)), k, v

    return cached_step


WRONG_STEPS = {
    "restarted at 0": step(position=0),
    "has no position": step(place=0),
    "one too small": step(position=3),
    "a position too far": step(position=5),
    "lacks its position": step(asks=False),
    "look at itself": step(itself=False),
    "still T x T": step(tril=True),
    "old keys recomputed": step(again=True),
    "one output": step(rows=3),
    "three things": lambda *args: torch.zeros(6),
}


@pytest.mark.parametrize("line", WRONG_STEPS)
def test_wrong_steps_are_named(line):
    with pytest.raises(NotSolved, match=line):
        chapter01.check_cached_step(WRONG_STEPS[line])
