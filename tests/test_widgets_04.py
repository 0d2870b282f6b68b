"""The widget of chapter 04: what may stand in the holes, model against oracle."""

import pytest
import torch

from mylib import tokenizer
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.model import GPT
from mylib.tokenizer import BOS, EOS, MASK
from mylib.widgets.chapter04 import HoleExplorer, guesses

TEXT = "On Saturday the brave mousetrap of Nell stopped after three good years. "
TEXT += "She has put a sad blue wig on it."


@pytest.fixture(scope="module")
def scene():
    story = torch.tensor([BOS, *tokenizer.encode(TEXT), EOS])
    model = GPT.load(data_path("checkpoints/mlm.safetensors"))
    return model, Gazette.load("sunday"), story


def test_guesses_are_the_oracle_s_and_the_model_s(scene):
    model, gazette, story = scene
    names = tokenizer.words(story)
    nell, she = names.index("Nell"), names.index("She")
    for hidden in ([nell], [nell, she], [2]):
        torn = story.clone()
        torn[hidden] = MASK
        true = gazette.denoiser(torn[None])[0].exp()
        found = guesses(model, gazette, story, hidden, n=20)
        assert list(found) == hidden
        for place, (words, oracle, mine) in found.items():
            ids = [tokenizer.encode(word)[0] for word in words]
            torch.testing.assert_close(oracle, true[place, ids])
            assert oracle.sum() == pytest.approx(1, abs=0.02)
            assert 0.9 < float(mine.sum()) <= 1 + 1e-6
            assert sorted(oracle.tolist(), reverse=True) == pytest.approx(oracle.tolist())
    women, everybody = (
        guesses(model, gazette, story, hidden, n=20)[nell][1] for hidden in ([nell], [nell, she])
    )
    assert [(p > 0.01).sum() for p in (women, everybody)] == [8, 16]


def test_moving_the_control_changes_the_picture(scene):
    panel = HoleExplorer(*scene)
    seen = [panel.picture.value]
    for hidden in [(7,), (7, 15), tuple(range(1, 9)), ()]:
        panel.controls["hide"].value = hidden
        seen.append(panel.picture.value)
    assert len(set(seen)) == len(seen)
    assert "Nothing is hidden" in seen[-1]
    assert all("alt=" in value for value in seen[:-1])


def test_every_word_can_be_hidden(scene):
    panel = HoleExplorer(*scene)
    for _, place in panel.controls["hide"].options:
        panel.controls["hide"].value = (place,)
        assert "<img" in panel.picture.value
