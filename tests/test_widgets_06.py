"""The dial of chapter 06 without a browser: what it draws, and what its controls change."""

import base64
import re

import pytest
import torch

from mylib.gazette import Gazette
from mylib.heads import SpanExtractor
from mylib.masks import bidirectional, causal
from mylib.model import GPT, GPTConfig
from mylib.tasks import asking
from mylib.tokenizer import words
from mylib.widgets import chapter06


@pytest.fixture(scope="module")
def letters():
    gazette = Gazette.load()
    return {
        side: [asking(a) for a in gazette.questions(8, torch.Generator().manual_seed(1), side, 0.0)]
        for side in (0.0, 1.0)
    }


@pytest.fixture(scope="module")
def model():
    chance = torch.Generator().manual_seed(0)
    config = GPTConfig(Gazette.load().vocab_size, n_positions=60, n_embd=8, n_layer=1, n_head=1)
    return SpanExtractor(GPT.init(config, chance), chance)


def make(model, letters):
    return chapter06.EvidenceDial(
        {"causal": (model, causal), "open": (model, bidirectional)},
        letters[0.0],
        letters[1.0],
        {"causal": (1.0, 0.6), "open": (1.0, 1.0)},
        (1.0, 0.6),
    )


def test_the_probabilities_are_those_of_two_softmaxes(model, letters):
    asked = letters[1.0][0]
    probs = chapter06.span_probs(model, causal, asked)
    assert probs.shape == (len(asked.ids),) * 2
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-5)
    may = asked.candidates.clone()
    may[asked.null] = True
    assert (probs[~may] == 0).all() and (probs[:, ~may] == 0).all()
    with torch.no_grad():
        logits = model(asked.ids[None], causal)[0][may].softmax(0)
    assert torch.allclose(probs[may][:, may], logits[:, :1] * logits[:, 1], atol=1e-6)


def test_what_is_no_answer(letters):
    asked = letters[0.0][0]
    closed = chapter06.forbidden(asked)
    for i in range(len(asked.ids)):
        for j in range(len(asked.ids)):
            text = bool(asked.candidates[i] and asked.candidates[j]) and i <= j
            assert bool(closed[i, j]) != (text or i == j == asked.null)


def test_a_map_shows_the_question_the_deciding_sentence_and_the_null(letters):
    for asked in letters[0.0] + letters[1.0]:
        keep = chapter06.shown_tokens(asked)
        shown = [words(asked.ids)[i] for i in keep]
        assert shown[-1] == "<eos>" and shown[0] == "What" and "Dear" not in shown
        assert "Yours" not in shown and "troubles" in shown
        assert set(range(asked.answer[0], asked.answer[1] + 1)) <= set(keep)


def test_the_dial_turns_letters_round(letters):
    left, right = letters[0.0], letters[1.0]
    for dial, count in ((0.0, 0), (0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)):
        chosen = chapter06.choose_letters(left, right, dial)
        assert sum(each is other for each, other in zip(chosen, right, strict=True)) == count
        pairs = zip(left, right, strict=True)
        assert all(each in pair for each, pair in zip(chosen, pairs, strict=True))


def test_moving_a_control_changes_the_picture(model, letters):
    widget = make(model, letters)
    seen = {widget.picture.value}
    for name, value in {"dial": 0.0, "letter": 3, "reader": "open"}.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    assert repr(widget) == "EvidenceDial: run the cell to move dial, letter, reader"


def test_the_picture_carries_words(model, letters):
    alt, data = re.fullmatch(
        r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)" style="[^"]+">',
        make(model, letters).picture.value,
    ).groups()
    assert "evidence on the right" in alt and "right is" in alt
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_as_many_letters_on_both_sides(model, letters):
    with pytest.raises(ValueError, match="8 letters with evidence left, 3 right"):
        chapter06.EvidenceDial(
            {"causal": (model, causal)}, letters[0.0], letters[1.0][:3], {}, (1.0, 0.6)
        )
