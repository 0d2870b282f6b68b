"""The page: text, marks that are not told by colour alone, nothing executed."""

import re

import pytest
import torch

from mylib import tokenizer
from mylib.page import MARKS, page
from mylib.tokenizer import BOS, EOS, MASK, PAD


def ids(text):
    return torch.tensor([BOS, *tokenizer.encode(text), EOS, PAD])


def test_a_story_reads_as_its_text():
    text = "Dear Doctor, I can't sleep. It is the goose."
    shown = page("The Gazette", [ids(text)])
    assert repr(shown).splitlines() == ["The Gazette", f"  {text}"]
    assert re.sub("<[^>]+>", "", shown._repr_html_()) == "The Gazette" + text.replace("'", "&#x27;")


def test_a_hole_is_a_blank_and_marks_have_words():
    story = ids("Every effort moves you forward.")
    story[2] = MASK
    shown = page("T", [story], [{1: "given", 3: "wrong", 4: "flag"}], [{5: 7}])
    assert repr(shown).splitlines()[1] == "  Every ____ moves(!) you(?) forward[7]."
    html = shown._repr_html_()
    for name in ("given", "wrong", "flag"):
        style, meaning = MARKS[name]
        assert html.count(style) == 2 and f'title="{meaning}"' in html  # the word, and the key
    assert MARKS["written"][0] not in html
    assert "<sub" in html and "script" not in html


def test_foreign_text_is_escaped():
    html = page("<b>", [torch.tensor(tokenizer.encode("<script>x</script> & co"))])._repr_html_()
    assert "<script" not in html and "&lt;b&gt;" in html and "&amp;" in html


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 stories, 2 marks"):
        page("T", [ids("x")], [{}, {}])
    with pytest.raises(ValueError, match="not \\['red'\\]"):
        page("T", [ids("x")], [{1: "red"}])
