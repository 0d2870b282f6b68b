"""Widgets without a browser: the drawing function, the controls, what a notebook stores."""

import base64
import re

import pytest
import torch

from mylib import plots
from mylib.convert import make_bidirectional
from mylib.experiments.opening import flag_only
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.masks import causal, dense, reach
from mylib.model import GPT
from mylib.widgets import chapter02 as trellis
from mylib.widgets.chapter00 import MASKS, MaskExplorer, chosen
from mylib.widgets.chapter01 import NextWords, next_words
from mylib.widgets.chapter02 import LeakTrellis, way
from mylib.widgets.chapter03 import BATCHES, ConversionExplorer, judge, measure
from mylib.widgets.panel import Panel, picture

CONVERSIONS = {"untouched": lambda model: None, "flag": flag_only, "opened": make_bidirectional}
WORDS = ["Every", "effort", "moves", "you", "forward", "."]


@pytest.fixture(scope="module")
def scene():
    gazette = Gazette.load("sunday")
    story = gazette.sample(1, torch.Generator().manual_seed(0))[0]
    return GPT.load(data_path("checkpoints/causal.safetensors")), gazette, story


def test_moving_a_control_changes_the_picture(scene):
    widgets = {
        NextWords(*scene): {"temperature": 0.3, "top_k": 2, "place": 2},
        MaskExplorer(WORDS): {
            "mask": "prefix_lm(2)",
            "query": 4,
            "inverted": True,
            "two_stories": True,
        },
        LeakTrellis(WORDS): {"mask": "all but the next word", "layers": 2, "output": 3},
        ConversionExplorer(CONVERSIONS): {
            "conversion": "flag",
            "model": "gpt2",
            "backend": "sdpa",
            "batch": "left padding",
        },
    }
    for widget, moves in widgets.items():
        seen = {widget.picture.value}
        for name, value in moves.items():
            widget.controls[name].value = value
            assert widget.picture.value not in seen, f"{name} changes nothing"
            seen.add(widget.picture.value)


def test_a_picture_carries_words(scene):
    for widget in (
        NextWords(*scene),
        MaskExplorer(WORDS),
        LeakTrellis(WORDS),
        ConversionExplorer(CONVERSIONS),
    ):
        alt, data = re.fullmatch(
            r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)" style="[^"]+">',
            widget.picture.value,
        ).groups()
        assert len(alt) > 40 and base64.b64decode(data).startswith(b"\x89PNG")
    figure = plots.mask_picture(causal, 3)
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in picture(figure, 'a "b" <c>')


def test_the_mask_that_the_explorer_shows():
    seen = dense(chosen("causal", True, True, 6), 6)[0, 0]
    assert seen.nonzero().tolist() == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
    assert torch.equal(dense(chosen("causal", False, False, 6), 6), dense(causal, 6))
    for name in MASKS:
        for inverted in (False, True):
            for two in (False, True):
                dense(chosen(name, inverted, two, 6), 6)


def test_the_path_that_the_trellis_shows():
    for name, mask in trellis.MASKS.items():
        visible = dense(mask, 6)[0, 0]
        for layers in (1, 2, 3, 4):
            for output in range(6):
                path = way(name, 6, layers, output)
                if output == 5:
                    assert path is None  # its answer stands outside
                    continue
                assert (path is not None) == bool(reach(visible, layers)[output, output + 1])
                if path is not None:
                    assert len(path) == layers + 1
                    assert (path[0], path[-1]) == (output, output + 1)


def test_verdicts_of_the_conversion_explorer():
    def verdict(conversion, name, backend, batch):
        return judge(measure(CONVERSIONS[conversion], name, backend, batch), name, batch)[0]

    for batch in BATCHES:
        for name in ("llama", "mistral"):
            for backend in ("eager", "sdpa"):
                assert verdict("untouched", name, backend, batch) == "causal"
                assert verdict("opened", name, backend, batch) == "right"
        alone = batch == "one row"
        assert verdict("flag", "llama", "sdpa", batch) == ("right" if alone else "causal")
        assert verdict("flag", "mistral", "sdpa", batch) == "causal"
    ones = torch.ones(7, 7, dtype=torch.bool)
    assert judge(ones, "llama", "right padding")[0] == "pads are seen"
    assert judge(~ones, "llama", "one row")[0] == "causal"
    assert judge(ones.triu(), "llama", "one row")[0] == "not what it should be"

    def broken(model):
        raise KeyError("x")

    assert measure(broken, "llama", "sdpa", "one row") == "stops with KeyError"
    panel = ConversionExplorer({"broken": broken})
    assert "<b>stops with KeyError</b>" in panel.picture.value


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
