"""The widget of chapter 09: a page dissolves; flags of the network, doubts of the oracle."""

import pytest
import tiny
import torch

from mylib import tokenizer
from mylib.gazette import Gazette
from mylib.masks import bidirectional
from mylib.tokenizer import BOS, EOS, FIRST_WORD, MASK
from mylib.widgets import chapter09


@pytest.fixture(scope="module")
def scene():
    gazette = Gazette.load()
    model = tiny.gpt(vocab_size=gazette.vocab_size, n_positions=gazette.length, scale=0.1)
    return model, gazette, gazette.sample(1, torch.Generator().manual_seed(3))[0]


def test_a_page_dissolves_word_by_word(scene):
    story = scene[2]
    words = story >= FIRST_WORD
    lexicon, before = tokenizer.lexicon(), story
    for spoiled in range(int(words.sum()) // 2 + 1):
        page = chapter09.dissolved(story, spoiled, 3)
        wrong, hidden = (page != story) & (page != MASK), page == MASK
        assert int(wrong.sum()) == spoiled and int(hidden.sum()) == 3
        assert not (wrong & ~words).any() and not (hidden & ~words).any()
        assert all(token in lexicon for token in page[wrong].tolist())
        assert int((page != before).sum()) == (1 if spoiled else 3)  # the others stay
        before = page
    assert torch.equal(chapter09.dissolved(story, 0, 0), story)
    assert not torch.equal(
        chapter09.dissolved(story, 4, 0), chapter09.dissolved(story, 4, 0, seed=1)
    )


@pytest.mark.parametrize("counts", [(-1, 0), (0, -1), (40, 0), (10, 40)])
def test_only_words_that_are_there_can_go(scene, counts):
    with pytest.raises(ValueError, match=r"spoiled and .* hidden of"):
        chapter09.dissolved(scene[2], *counts)


def test_flags_are_the_model_s_mask_probability(scene):
    model, gazette, story = scene
    canvas = gazette.canvas([story, chapter09.dissolved(story, 3, 2)])
    with torch.no_grad():
        says = model(canvas, bidirectional).softmax(-1)
    torch.testing.assert_close(chapter09.flags(model, canvas), says[..., MASK])


def test_doubts_by_bayes_on_a_page_of_one_choice():
    """She for He: eight men's names against one, as in the chapter (Sunday edition)."""
    gazette = Gazette.load("sunday")
    text = "On Friday Hugo opened a shop in Oslo. She sells solemn red ink, and sings."
    ids = torch.tensor([BOS, *tokenizer.encode(text), EOS])
    names = tokenizer.words(ids)
    canvas = gazette.canvas([ids])
    doubt = chapter09.doubts(gazette, canvas, 0.05)[0]
    assert doubt[names.index("Hugo")] == pytest.approx(8 / 9, abs=1e-4)
    assert doubt[names.index("She")] == pytest.approx(1 / 9, abs=1e-4)
    assert doubt[names.index("Oslo")] < 0.01
    torn = canvas.clone()
    torn[0, names.index("She")] = MASK
    again = chapter09.doubts(gazette, torn, 0.05)[0]
    assert again[names.index("She")] == 0 and again[names.index("Hugo")] < 0.01


def test_a_clean_page_of_words_is_not_doubted(scene):
    _, gazette, story = scene
    assert chapter09.doubts(gazette, gazette.canvas([story]), 0.02).max() < 0.01


def test_moving_a_control_changes_the_picture(scene):
    panel = chapter09.Dissolve(*scene)
    seen = [panel.picture.value]
    for name, value in (("spoiled", 5), ("hidden", 4), ("spoiled", 0), ("hidden", 0)):
        panel.controls[name].value = value
        seen.append(panel.picture.value)
    assert len(set(seen)) == len(seen)
    assert all('alt="' in value for value in seen)
    assert "5 words spoiled" in seen[1] and "4 hidden" in seen[2]
    assert repr(panel) == "Dissolve: run the cell to move spoiled, hidden"


def test_every_setting_can_be_reached(scene):
    panel = chapter09.Dissolve(*scene)
    for control in panel.controls.values():
        control.value = control.max
    assert "<img" in panel.picture.value
