"""Widgets without a browser: the drawing function, the controls, what a notebook stores."""

import pytest
import torch

from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.model import GPT
from mylib.widgets.chapter01 import NextWords, next_words
from mylib.widgets.panel import Panel


@pytest.fixture(scope="module")
def scene():
    gazette = Gazette.load("sunday")
    story = gazette.sample(1, torch.Generator().manual_seed(0))[0]
    return GPT.load(data_path("checkpoints/causal.safetensors")), gazette, story


def test_moving_a_control_changes_the_picture(scene):
    widget = NextWords(*scene)
    seen = {bytes(widget.picture.value)}
    assert next(iter(seen)).startswith(b"\x89PNG")
    for name, value in {"temperature": 0.3, "top_k": 2, "place": 2}.items():
        widget.controls[name].value = value
        assert bytes(widget.picture.value) not in seen, f"{name} changes nothing"
        seen.add(bytes(widget.picture.value))


def test_every_setting_can_be_drawn(scene):
    model, gazette, story = scene
    for place in range(1, len(story)):
        for temperature, top_k in [(0.0, 0), (1.0, 1), (2.0, 10)]:
            words, true, mine = next_words(model, gazette, story, place, temperature, top_k)
            assert len(words) == len(true) == len(mine) >= 1
            assert torch.isfinite(true).all() and torch.isfinite(mine).all()


def test_next_words_agree_with_the_oracle(scene):
    model, gazette, story = scene
    _, true, _ = next_words(model, gazette, story, 4, 1.0, 0, n=500)
    expected = gazette.causal(story[None, :4])[0, -1].exp()
    assert float(true.sum()) == pytest.approx(float(expected.sum()), abs=0.01)
    assert float(true.max()) == pytest.approx(float(expected.max()), abs=1e-10)


def test_temperature_zero_and_top_1_are_the_same_choice(scene):
    model, gazette, story = scene
    _, _, greedy = next_words(model, gazette, story, 4, 0.0, 0)
    _, _, first = next_words(model, gazette, story, 4, 1.0, 1)
    assert float(greedy.max()) == float(first.max()) == 1.0


def test_a_notebook_stores_no_number_of_a_widget(scene):
    assert repr(NextWords(*scene)) == "NextWords: run the cell to move place, temperature, top_k"


def test_panel_takes_html_too():
    import ipywidgets

    panel = Panel({"n": ipywidgets.IntSlider(1)}, lambda state: f"<b>{state['n']}</b>")
    panel.controls["n"].value = 7
    assert panel.picture.value == "<b>7</b>"
