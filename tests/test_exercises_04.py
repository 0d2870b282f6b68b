"""Exercises of chapter 04: the stub is refused, the solution passes, wrong answers are named."""

import pytest
import torch
from exercise_cells import cell

from mylib import tokenizer
from mylib.exercises import NotSolved, chapter04
from mylib.tokenizer import FIRST_WORD, MASK, PAD

CHAPTER = "04-masked-language-modelling.ipynb"
EXERCISES = [  # exercise, name of the answer, check
    ("exercise-1", "make_batch", chapter04.check_batch_maker),
    ("exercise-2", "copies", chapter04.check_copies),
    ("exercise-3", "one_earlier", chapter04.check_next_position),
]


@pytest.mark.parametrize(("exercise", "answer", "check"), EXERCISES)
def test_stub_is_refused_and_solution_accepted(exercise, answer, check, capsys):
    with pytest.raises(NotSolved, match="write your answer"):
        check(cell(CHAPTER, f"{exercise}-stub", tokenizer=tokenizer)[answer])
    check(cell(CHAPTER, f"{exercise}-solution", tokenizer=tokenizer)[f"{answer}_solution"])
    assert "solved" in capsys.readouterr().out


def maker(
    *,
    eligible=lambda tokens: tokens >= FIRST_WORD,
    rate=0.15,
    edges=(0.8, 0.9),
    least=True,
    words=None,
    labels=lambda tokens, asked, inputs: tokens.masked_fill(~asked, -100),
    in_place=False,
    noise=None,
):
    """A batch maker with one thing changed."""

    def make(tokens, generator):
        can = eligible(tokens)
        source = noise or generator
        chance = torch.rand(tokens.shape, generator=source).masked_fill(~can, 2.0)
        asked = can & (chance < rate)
        if least:
            asked |= can & (chance == chance.min())
        kind = torch.rand(tokens.shape, generator=source)
        among = words or tokenizer.lexicon()
        other = torch.randint(among.start, among.stop, tokens.shape, generator=source)
        inputs = tokens if in_place else tokens.clone()
        clean = tokens.clone()
        swap = asked & (kind >= edges[0]) & (kind < edges[1])
        inputs[swap] = other[swap]
        inputs[asked & (kind < edges[0])] = MASK
        return inputs, labels(clean, asked, inputs)

    return make


def everything_changed(tokens, generator):
    inputs, labels = maker()(tokens, generator)
    return inputs.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.1, MASK), labels


WRONG_MAKERS = {
    "labels stand everywhere": maker(labels=lambda tokens, asked, inputs: tokens),
    "pads are hidden": maker(eligible=lambda tokens: torch.ones_like(tokens).bool()),
    "<bos> or <eos>": maker(eligible=lambda tokens: tokens != PAD),
    "nothing is asked at all": maker(least=False),
    "not what stands there now": maker(
        labels=lambda tokens, asked, inputs: inputs.masked_fill(~asked, -100)
    ),
    "clone them": maker(in_place=True),
    "15 %": maker(rate=0.5),
    "80/10/10": maker(edges=(1.0, 1.0)),
    "wanted 80, 10 and 10": maker(edges=(0.5, 0.6)),
    "gives itself away": maker(words=range(0, 830)),
    "words that are not asked have changed": everything_changed,
    "all labels are -100": lambda tokens, generator: (tokens, torch.full_like(tokens, -100)),
    "two tensors": lambda tokens, generator: (tokens, None),
    "like the tokens": lambda tokens, generator: (tokens, tokens[:, 1:]),
    "^equal generators": maker(noise=torch.Generator().manual_seed(5)),
    "hidden for ever": lambda tokens, generator: maker()(tokens, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("mistake", WRONG_MAKERS)
def test_wrong_batches_are_named(mistake):
    with pytest.raises(NotSolved, match=mistake):
        chapter04.check_batch_maker(WRONG_MAKERS[mistake])


@pytest.mark.parametrize("seed", range(5))
def test_right_batches_pass_whatever_the_draw(seed):
    def make(tokens, generator):
        number = int(torch.randint(2**31, (1,), generator=generator))
        return maker()(tokens, torch.Generator().manual_seed(number + seed))

    chapter04.check_batch_maker(make)


RIGHT = {"leak": "no", "all_kept": 0.0, "with_copies": 0.63}


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"leak": "yes"}, "not every visible answer is cheating"),
        ({"with_copies": 0.70}, "keeping is not free"),
        ({"with_copies": 0.07}, "what is the mean"),
        ({"all_kept": 0.7}, "nothing left to be surprised by"),
        ({"leak": True}, '"yes" or "no"'),
        ({"all_kept": "0"}, "two numbers"),
    ],
)
def test_wrong_prices_of_copies_are_named(change, mistake):
    chapter04.check_copies(RIGHT)
    with pytest.raises(NotSolved, match=mistake):
        chapter04.check_copies(RIGHT | change)


def shifted(labels):
    moved = torch.full_like(labels, -100)
    moved[:, 1:] = labels[:, :-1]
    return moved


def in_place(labels):
    labels[:, :-1] = labels[:, 1:].clone()
    labels[:, -1] = -100
    return labels


def across_rows(labels):
    flat = labels.flatten()
    moved = torch.full_like(flat, -100)
    moved[:-1] = flat[1:]
    return moved.view_as(labels)


WRONG_MOVES = {
    "stands behind everything": across_rows,
    "off by one": shifted,
    "hand its answer to the last": lambda labels: labels.roll(-1, 1),
    "nothing has moved": lambda labels: labels.clone(),
    "you changed the labels": in_place,
    "as many labels as outputs": lambda labels: labels[:, 1:],
    "one place before its hole": lambda labels: labels.roll(-2, 1),
}


@pytest.mark.parametrize("mistake", WRONG_MOVES)
def test_wrong_moves_are_named(mistake):
    with pytest.raises(NotSolved, match=mistake):
        chapter04.check_next_position(WRONG_MOVES[mistake])
