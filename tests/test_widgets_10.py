"""You against the oracle, without a browser: what a pass makes known, what it risks, the count."""

import pytest
import torch

from mylib import tokenizer
from mylib.gazette import Gazette
from mylib.sampling import Certain, write
from mylib.tokenizer import MASK
from mylib.widgets import chapter10


@pytest.fixture(scope="module")
def evening():
    return Gazette.load("small")


@pytest.fixture(scope="module")
def story(evening):
    documents = evening.sample(14, torch.Generator().manual_seed(10))
    return evening.canvas(documents)[5]


def place(story, word):
    return tokenizer.words(story).index(word)


def test_alone_the_oracle_asks_one_word_a_pass(evening, story):
    game = chapter10.play(evening, story, (), ())
    assert torch.equal(game.frames[-1], story) and game.agree == []
    holes = [int((frame == MASK).sum()) for frame in game.frames]
    assert holes == sorted(holes, reverse=True) and holes[-1] == 0
    assert len(game.marks) == len(game.frames) and all(game.marks)
    usual = write(
        evening.denoiser,
        torch.full((40, evening.length), MASK),
        "uncertain",
        Certain(1.0, more=1),
        generator=torch.Generator().manual_seed(0),
    )
    assert len(game.frames) in usual.row_passes.unique().tolist()


def test_marks_are_what_became_known(evening, story):
    game = chapter10.play(evening, story, (), ())
    before, _ = chapter10._certain(evening, torch.full_like(story, MASK))  # before any pass
    for frame, marks in zip(game.frames, game.marks, strict=True):
        known = (frame != before).nonzero()[:, 0].tolist()
        assert sorted(marks) == known and set(marks.values()) == {"written"}
        before = frame


def test_words_of_one_draw_disagree_and_words_of_two_do_not(evening, story):
    known = [i for i, w in enumerate(tokenizer.words(story)) if w in ("lost", "blames", "<eos>")]
    pair = [place(story, "Whitby"), place(story, "Mole")]
    adjectives = [place(story, "brave"), place(story, "wet")]
    assert chapter10.play(evening, story, known, pair).agree[1] < 0.5
    assert chapter10.play(evening, story, known, adjectives).agree[1] == 1.0
    assert chapter10.play(evening, story, known, pair[:1]).agree[1] == 1.0


def test_known_words_and_empty_passes_cost_nothing(evening, story):
    alone = len(chapter10.play(evening, story, (), ()).frames)
    everything = range(evening.length)
    assert len(chapter10.play(evening, story, everything, ()).frames) == 1
    first = chapter10.play(evening, story, (place(story, "Whitby"),), ())
    again = chapter10.play(evening, story, (), (place(story, "Whitby"),))
    assert [f.tolist() for f in first.frames] == [f.tolist() for f in again.frames]
    both = chapter10.play(evening, story, everything, everything)
    assert len(both.frames) == 1 and len(both.agree) == 1
    assert alone > 1


def test_moving_a_control_changes_the_picture(evening, story):
    widget = chapter10.YouAgainstTheOracle(evening, story)
    seen = {widget.picture.value}
    assert "the oracle plays alone" in widget.picture.value
    for name, value in {"first": (1, 9), "second": (6,)}.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        assert "draws" in widget.picture.value
        seen.add(widget.picture.value)
    assert repr(widget) == "YouAgainstTheOracle: run the cell to move first, second"


def test_every_single_first_or_last_word_changes_the_picture(evening, story):
    """What the browser test does by keyboard: End or Home in either list."""
    widget = chapter10.YouAgainstTheOracle(evening, story)
    before = widget.picture.value
    for name in ("first", "second"):
        for index in (0, -1):
            widget.controls[name].value = (widget.controls[name].options[index][1],)
            assert widget.picture.value != before, (name, index)
            widget.controls[name].value = ()
