"""The torn sonnet, without a browser: what is torn, who fills it, and how it is shown."""

import pytest
import torch
from exercise_cells import cell

from mylib.files import data_path
from mylib.masks import bidirectional
from mylib.model import GPT, GPTConfig
from mylib.tokenizer import EOS, MASK, load_tokenizer
from mylib.widgets import chapter11

LINES = ["Love is not love", "Which alters when it alteration finds,", "O no! it is fix'd"]


@pytest.fixture(scope="module")
def folio():
    return load_tokenizer(data_path("shakespeare.tiktoken"))


@pytest.fixture(scope="module")
def sheet(folio):
    return chapter11.framed(folio, LINES)


@pytest.fixture(scope="module")
def model(folio):
    config = GPTConfig(folio.n_vocab, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    return GPT.init(config, torch.Generator().manual_seed(0))


def words_at(folio, sheet, places):
    return [chapter11.pieces(folio, sheet)[n].strip() for n in places.nonzero()[:, 0]]


def test_whole_words_are_one_token_and_nothing_beside_it(folio, sheet):
    found = words_at(folio, sheet, chapter11.whole_words(folio, sheet))
    every = {word.strip("!,") for line in LINES for word in line.split()}
    assert {"not", "love", "it", "is", "no", "O"} <= set(found) <= every
    assert not {"fix", "d", "alteration"} & set(found)  # an apostrophe, and several pieces


def test_a_share_of_the_whole_words_is_torn(folio, sheet):
    words = chapter11.whole_words(folio, sheet)
    for share in (0.0, 0.3, 1.0):
        torn = chapter11.tear(folio, sheet, share, seed=3)
        assert int(torn.sum()) == round(share * int(words.sum())) and not (torn & ~words).any()
    one, other = (chapter11.tear(folio, sheet, 0.5, seed) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, chapter11.tear(folio, sheet, 0.5, 0))


def test_candidates_follow_the_layout(folio, sheet):
    allowed = chapter11.candidates(folio, sheet)
    text = chapter11.pieces(folio, torch.arange(folio.n_vocab))
    words = chapter11.whole_words(folio, sheet).nonzero()[:, 0].tolist()
    assert all(allowed[place, sheet[place]] for place in words)  # the truth is among them
    for place in words:
        spaced = chapter11.pieces(folio, sheet)[place].startswith(" ")
        some = [text[i] for i in allowed[place].nonzero()[:, 0]]
        assert all(word.startswith(" ") == spaced and word.strip().isalpha() for word in some)
        assert spaced or all(word[0].isupper() for word in some)


@pytest.mark.parametrize("reader", chapter11.READERS)
def test_only_holes_are_written(folio, sheet, model, reader):
    holes = chapter11.tear(folio, sheet, 0.6, 0)
    allowed = chapter11.candidates(folio, sheet)
    page = chapter11.restore(model, sheet, holes, reader, allowed, passes=2)
    assert torch.equal(page[~holes], sheet[~holes]) and not (page == MASK).any()
    assert allowed[holes, page[holes]].all()
    none = torch.zeros_like(holes)
    assert torch.equal(chapter11.restore(model, sheet, none, reader, allowed), sheet)


def test_left_only_does_not_see_what_follows(folio, sheet, model):
    holes = chapter11.tear(folio, sheet, 0.4, 0)
    allowed = chapter11.candidates(folio, sheet)
    last = int(holes.nonzero()[-1, 0])
    other = sheet.clone()
    other[last + 1 : -1] = sheet[last + 1 : -1].flip(0)
    guesses = {
        reader: [
            chapter11.restore(model, each, holes, reader, allowed, passes=1)[holes]
            for each in (sheet, other)
        ]
        for reader in chapter11.READERS
    }
    assert torch.equal(*guesses["left only"])
    with torch.no_grad():  # the open mask sees it, whether or not its guesses change
        torn = torch.stack([sheet, other]).masked_fill(holes, MASK)
        assert not torch.allclose(*model(torn, bidirectional)[:, last])


def test_verse_shows_blanks_and_marks_guesses_by_more_than_colour(folio, sheet):
    holes = chapter11.tear(folio, sheet, 1.0, 0)
    torn = chapter11.verse("Torn", folio, [sheet], [holes])
    assert repr(torn).count("____") == int(holes.sum()) and not torn.key
    assert len(repr(torn).splitlines()) == 1 + len(LINES)
    guess = sheet.clone()
    first, second = holes.nonzero()[:2, 0].tolist()
    guess[first] = sheet[second]
    shown = chapter11.verse("Restored", folio, [sheet], [holes], [guess])
    assert "not(!is)" in repr(shown) and "love(=)" in repr(shown)
    html = shown._repr_html_()
    assert 'title="right"' in html and 'title="wrong"' in html and "double" in html
    assert "[is]" in html and "<br>" in html


def test_the_sonnets_of_the_notebook_fit_the_network(folio):
    for text in cell("11-real-text.ipynb", "sonnets").values():
        if isinstance(text, str) and text.count("\n") > 10:
            lines = text.splitlines()
            assert len(lines) == 14
            for part in (lines[:8], lines[8:]):
                sheet = chapter11.framed(folio, part)
                assert len(sheet) <= 128 and int(sheet[-1]) == EOS
                assert folio.decode(sheet[1:-1].tolist()) == "\n".join(part) + "\n"


def test_the_plays_do_not_hold_the_sonnets(real_data):
    from mylib.datasets import tiny_shakespeare

    words = tiny_shakespeare().split()
    seen = set(zip(*(words[i:] for i in range(5)), strict=False))
    for text in cell("11-real-text.ipynb", "sonnets").values():
        if isinstance(text, str) and text.count("\n") > 10:
            mine = text.split()
            assert not seen & set(zip(*(mine[i:] for i in range(5)), strict=False))


def test_moving_a_control_changes_the_picture(folio, sheet, model):
    widget = chapter11.TornSonnet(model, folio, [sheet, sheet])
    assert "come back (both sides, one pass)" in widget.picture.value
    seen = {widget.picture.value}
    moves = {"torn": 60, "tear": 4, "passes": "a word a pass", "reader": "left only"}
    for name, value in moves.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    assert "from the left" in widget.picture.value
    assert repr(widget) == "TornSonnet: run the cell to move torn, tear, passes, reader"
