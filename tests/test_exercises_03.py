"""Exercises of chapter 03: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
import torch.nn.functional as F
from exercise_cells import cell

from mylib.exercises import NotSolved, chapter03

NOTEBOOK = "03-opening-a-decoder.ipynb"


def test_stubs_are_refused():
    for number, name, check in (
        (1, "attend", chapter03.check_pads),
        (2, "is_open", chapter03.check_is_open),
        (3, "change", chapter03.check_cache),
    ):
        with pytest.raises(NotSolved, match="write your answer"):
            check(cell(NOTEBOOK, f"exercise-{number}-stub")[name])


def test_solutions_pass(capsys):
    chapter03.check_pads(cell(NOTEBOOK, "exercise-1-solution")["attend_solution"])
    chapter03.check_is_open(cell(NOTEBOOK, "exercise-2-solution")["is_open_solution"])
    chapter03.check_cache(cell(NOTEBOOK, "exercise-3-solution")["change_solution"])
    assert capsys.readouterr().out.count("solved") == 3


# -- 3.1 ---------------------------------------------------------------------------------------


def attention(hide=None, *, low=-torch.inf, zero=False, outputs=False, scale=True):
    """``hide(valid)`` -> bool (B, T, T) to close, and the ways to miss the point."""

    def attend(q, k, v, valid):
        real = valid[..., None]
        if zero:
            k, v = k * real, v * real
        scores = q @ k.mT / (q.shape[-1] ** 0.5 if scale else 1)
        if hide is not None:
            scores = scores.masked_fill(hide(valid), low)
        found = scores.softmax(-1) @ v
        return found * real if outputs else found

    return attend


def keys(valid):
    return ~valid[:, None, :]


def both_axes(valid):
    return ~(valid[:, None, :] & valid[:, :, None])


def wrong_side(valid):
    return valid[:, None, :] & ~valid.all(1)[:, None, None]


def causal_and_keys(valid):
    return keys(valid) | torch.ones(valid.shape[1], valid.shape[1]).triu(1).bool()


def cut_away(q, k, v, valid):
    found = attention(both_axes)(q, k, v, valid)
    return torch.where(valid[..., None], found, 0.0)


@pytest.mark.parametrize(
    ("attend", "line"),
    [
        (attention(both_axes), "If you hid the pads' queries as well"),
        (attention(zero=True), "a zero vector is still a key"),
        (attention(outputs=True), "you hid what the pads say, not what they show"),
        (attention(), "you hid nothing"),
        (attention(wrong_side), "True means real in `valid`"),
        (attention(keys, scale=False), "square root of C"),
        (attention(keys, low=-1.0), "content of the pads still moves"),
        (attention(causal_and_keys, low=torch.finfo().min), "to both sides"),
        (cut_away, "gradients are not finite"),
        (lambda q, k, v, valid: q[:, :3], "outputs are"),
        (lambda q, k, v, valid: None, "return the outputs"),
        (lambda q, k, v, valid: q @ v, "stopped with RuntimeError"),
    ],
)
def test_wrong_attentions_are_named(attend, line):
    with pytest.raises(NotSolved, match=line):
        chapter03.check_pads(attend)


def test_other_right_attentions_pass():
    chapter03.check_pads(attention(keys, low=torch.finfo().min))
    chapter03.check_pads(attention(both_axes, low=torch.finfo().min))  # the note's way is finite
    chapter03.check_pads(
        lambda q, k, v, valid: F.scaled_dot_product_attention(q, k, v, valid[:, None, :])
    )


# -- 3.2 ---------------------------------------------------------------------------------------


def moved(model, at, mask=None, time=8):
    """Which outputs move when word ``at`` is replaced: bool (T,)."""
    batch = torch.arange(10, 10 + time).repeat(2, 1)
    batch[1, at] = 50
    outputs = model(batch) if mask is None else model(batch, mask.repeat(2, 1))
    return (outputs[0] - outputs[1]).abs().amax(-1) > 1e-4


def shapes_only(model):
    logits = model(torch.arange(16).view(2, 8), torch.ones(2, 8).long())
    return logits.shape == (2, 8, 64) and bool(logits.isfinite().all()) and bool(logits.any())


def last_row(model):
    return all(bool(moved(model, j)[-1]) for j in range(8))


def neighbour(model):
    return all(bool(moved(model, j)[j - 1]) for j in range(1, 8))


def alone(model):
    return all(bool(moved(model, j).all()) for j in range(8))


def mask_of_ones(model):
    return all(bool(moved(model, j, torch.ones(1, 8).long()).all()) for j in range(8))


def beside(model, asked=6):
    mask = (torch.arange(8) < 6).long()[None]
    return alone(model) and all(bool(moved(model, j, mask)[:6].all()) for j in range(asked))


def pads_too(model):
    return beside(model, asked=8)


def first_and_last(model):
    mask = (torch.arange(8) < 6).long()[None]
    return all(bool(moved(model, j, m)[i]) for m in (None, mask) for i, j in ((0, 5), (5, 0)))


def only_beside(model):
    mask = (torch.arange(8) < 6).long()[None]
    return all(bool(moved(model, j, mask)[:6].all()) for j in range(6))


def first_row_beside(model):
    """Asks with pads, and looks where a causal model answers, too."""
    mask = (torch.arange(8) < 6).long()[None]
    return alone(model) and bool(moved(model, 0, mask)[:6].all())


@pytest.mark.parametrize(
    ("is_open", "line"),
    [
        (shapes_only, "every word sees itself alone. Shapes, crashes"),
        (lambda model: True, "every word sees itself alone. Shapes, crashes"),
        (last_row, "The last word sees everything"),
        (neighbour, "one word ahead and no further"),
        (alone, "you never asked with pads"),
        (mask_of_ones, "causal when it is given a text and no attention_mask"),
        (first_and_last, "one word in the middle does not see its neighbour"),
        (only_beside, "causal when it is given a text and no attention_mask"),
        (first_row_beside, "causal in a padded batch, and your test passes it"),
        (pads_too, "refuses a model that is open. Do you ask the pads"),
        (lambda model: False, "refuses a model that is open"),
        (lambda model: None, "answer True or False"),
        (lambda model: model(torch.tensor([[99]])), "stopped with"),
    ],
)
def test_tests_that_mean_little_are_named(is_open, line):
    with pytest.raises(NotSolved, match=line):
        chapter03.check_is_open(is_open)


def test_another_right_test_passes():
    chapter03.check_is_open(beside)


# -- 3.3 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"layer": 1, "words": "all"}, "nobody has looked at anybody yet"),
        ({"layer": 0, "words": "all"}, "no layer 0"),
        ({"layer": 3, "words": "all"}, "as soon as keys are made"),
        ({"layer": 2, "words": "newest"}, "not only its neighbour"),
        ({"layer": 2, "words": "none"}, "every old word sees the new one"),
        ({"layer": 2, "words": 5}, "whose keys change"),
        ({"layer": "2", "words": "all"}, "whole number; 1 is the first layer"),
        ({"layer": 2}, "give"),
    ],
)
def test_wrong_caches_are_named(answer, line):
    with pytest.raises(NotSolved, match=line):
        chapter03.check_cache(answer)
