"""The regime composer: what it says is what the leak check says, and every control matters."""

import itertools

import matplotlib.pyplot as plt
import pytest
import torch

from mylib.leaks import certificate
from mylib.objectives import NextToken, Rows
from mylib.widgets import chapter12
from mylib.widgets.chapter12 import MASKS, OBJECTIVES, POSITIONS, SAMPLERS, composed, judged


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("mask", ["causal", "causal, or two ahead", "open (bidirectional)"])
def test_leaks_are_the_certificate_s(mask, layers):
    rows = Rows.padded([chapter12.STORY])
    found = certificate(NextToken(MASKS[mask]), rows, layers)
    said = judged(mask, "the next word", SAMPLERS[0], layers, POSITIONS[0])
    assert said.leaks == len(found.leaks) and said.answers == found.asked
    assert said.path == (found.leaks[0].path if found.leaks else None)


def test_all_regimes_that_are_accepted():
    """Two layers: those that keep all promises, and can write."""
    accepted = {
        names
        for names in itertools.product(MASKS, OBJECTIVES, SAMPLERS, POSITIONS)
        if judged(names[0], names[1], names[2], 2, names[3]).accepted
    }
    written = {names for names in accepted if names[2] != "fills holes"}
    assert written == {
        ("causal", "the next word", "left to right", "from the left"),
        ("window: one back", "the next word", "left to right", "from the left"),
        ("anticausal", "the word before", "right to left", "from the end"),
    }
    holes = {names for names in accepted if names[2] == "fills holes"}
    assert {names[1] for names in holes} == {"hidden words, pads too"}
    assert {names[0] for names in holes} == set(MASKS)  # hidden from all: no mask can tell


def test_who_knows_the_length():
    def length(mask, objective, positions):
        return judged(mask, objective, SAMPLERS[0], 2, positions).length

    assert length("anticausal", "the word before", "from the end") == "free"
    assert length("anticausal", "the word before", "from the left") == "given"
    assert length("causal", "the next word", "from the left") == "free"
    assert length("causal", "the next word", "from the end") == "given"
    assert length("open (bidirectional)", "some hidden words", "from the left") == "given"
    for positions in POSITIONS:
        assert length("open (bidirectional)", "hidden words, pads too", positions) == "free"


def test_hindrances_are_named():
    def says(mask, objective, sampler, positions="from the left"):
        return judged(mask, objective, sampler, 2, positions).fits

    assert "never seen a hole" in says("causal", "the next word", "fills holes")
    assert "where the text ends" in says("open (bidirectional)", "some hidden words", "fills holes")
    assert "not written yet" in says("open (bidirectional)", "the next word", "left to right")
    assert "was told the length" in says("anticausal", "the word before", "right to left")
    assert "name the next word" in says("causal", "the word before", "left to right")


def test_a_blind_output_is_refused():
    found = judged("causal, or two ahead", "the next word", SAMPLERS[0], 2, POSITIONS[0])
    assert not found.blind
    lines = chapter12.verdict_lines(
        chapter12.Verdict(**{**vars(found), "blind": True}), SAMPLERS[0], 2
    )
    assert "may look at nobody" in lines[0]


def test_the_words_say_what_is_drawn():
    figure, words = composed("causal, or two ahead", "the next word", SAMPLERS[0], 2, POSITIONS[0])
    assert "REFUSED: leak check: 5 of 6 answers are told, the first by 0 <- 2 <- 1" in words
    title = figure._suptitle.get_text()
    assert all(part in title for part in ("REFUSED", "0 <- 2 <- 1", "knows the length: nobody"))
    drawn = [list(line.get_xdata()) for line in figure.axes[2].lines]
    assert [0, 2, 1] in drawn
    plt.close(figure)
    figure, words = composed("causal", "the next word", SAMPLERS[0], 2, POSITIONS[0])
    assert "ACCEPTED: leak check: sound" in words
    assert not any(patch.get_hatch() for patch in figure.axes[0].patches)
    plt.close(figure)


def test_the_flip_is_the_published_mask():
    found = judged("causal, rows flipped", "the word before", SAMPLERS[1], 2, POSITIONS[1])
    assert torch.equal(found.visible, torch.ones(6, 6).tril().flip(0).bool())
    assert found.leaks == found.answers - 1


def test_moving_a_control_changes_the_picture():
    widget = chapter12.ComposeRegime()
    seen = {widget.picture.value}
    moves = {
        "mask": "anticausal",
        "objective": "the word before",
        "sampler": "right to left",
        "layers": 3,
        "positions": "from the end",
    }
    for name, value in moves.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    assert "ACCEPTED" in widget.picture.value
    assert repr(widget).endswith("move mask, objective, sampler, layers, positions")
