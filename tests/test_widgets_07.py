"""The widget of chapter 07: two masks joined, what leaks, and by which way."""

import base64
import re

import matplotlib.pyplot as plt
import pytest
import torch

from mylib.leaks import certificate
from mylib.masks import dense
from mylib.objectives import NextToken, Rows
from mylib.widgets import chapter07
from mylib.widgets.chapter07 import MASKS, TOKENS, composed, joined, leaking

FIRST, OTHER = "causal_head(4): the note's hybrid", "documents: two of four tokens"


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_counts_are_the_certificate_s(name, layers):
    """One text of nine tokens, of which eight are read: what `NextToken` asks."""
    mask = MASKS[name]
    found = certificate(NextToken(mask), Rows.padded([torch.arange(6, 7 + TOKENS)]), layers)
    told = leaking(dense(mask, TOKENS)[0, 0], layers)
    assert told == [leak.output for leak in found.leaks]


def test_outputs_before_the_first_asked_do_not_count():
    visible = dense(MASKS["prefix_lm(4)"], TOKENS)[0, 0]
    assert leaking(visible, 3) == [0, 1, 2]
    assert leaking(visible, 3, first=3) == []


@pytest.mark.parametrize("first", MASKS)
@pytest.mark.parametrize("second", MASKS)
def test_and_closes_or_opens(first, second):
    one, other = (dense(MASKS[name], TOKENS)[0, 0] for name in (first, second))
    found = {join: dense(joined(first, join, second), TOKENS)[0, 0] for join in chapter07.JOINS}
    assert torch.equal(found["&"], one & other)
    assert torch.equal(found["|"], one | other)
    assert torch.equal(found["alone"], one)
    for layers in (1, 3):  # what the chapter's answers say
        fewest = set(leaking(one, layers)) & set(leaking(other, layers))
        assert set(leaking(found["&"], layers)) <= fewest
        if not leaking(one, layers) and not leaking(other, layers):
            assert not leaking(found["|"], layers)


def test_the_words_say_what_is_drawn():
    figure, words = composed(FIRST, "alone", OTHER, 1)
    assert "4 of 7 if every next token is asked, 4 of 4 if the first 4 are given" in words
    assert words.endswith("first path 3 <- 4")
    plt.close(figure)
    figure, words = composed(FIRST, "alone", OTHER, 2)
    assert "7 of 7" in words and words.endswith("first path 0 <- 4 <- 1")
    plt.close(figure)
    figure, words = composed("causal", "|", "window: two back", 4)
    assert "0 of 7" in words and words.endswith("no leak")
    plt.close(figure)


def test_moving_a_control_changes_the_picture():
    widget = chapter07.ComposeMasks()
    seen = {widget.picture.value}
    for name, value in {
        "join": "|",
        "second": "causal",
        "first": "prefix_lm(4)",
        "layers": 3,
    }.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    assert repr(widget) == "ComposeMasks: run the cell to move first, join, second, layers"


def test_the_picture_carries_words():
    alt, data = re.fullmatch(
        r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)" style="[^"]+">',
        chapter07.ComposeMasks().picture.value,
    ).groups()
    assert alt.endswith("first path 4 &lt;- 5")
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_frames_stand_at_what_is_asked():
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    figure = chapter07.reach_pictures([[("one", seen, 1), ("two", ~seen, 0)]])
    white = [p for p in figure.axes[0].patches if p.get_edgecolor()[:3] == (1.0, 1.0, 1.0)]
    assert sorted(round(p.get_y() + 0.45) for p in white) == [1, 2]
    assert any(p.get_hatch() for p in figure.axes[1].patches)
    plt.close(figure)
