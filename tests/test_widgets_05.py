"""The garden path of chapter 05 without a browser."""

import re

import pytest
import torch

from mylib.gazette import Gazette
from mylib.grammar import TAGS
from mylib.heads import TokenClassifier
from mylib.masks import bidirectional, causal
from mylib.model import GPT, GPTConfig
from mylib.tasks import tag_log_probs
from mylib.tokenizer import BOS, EOS, encode
from mylib.widgets.chapter05 import KINDS, GardenPath, beliefs, of_kinds, reading

FIRM = "Marlow lost a small green kettle. The firm blames two boxes of wet jam."


@pytest.fixture(scope="module")
def scene():
    gazette = Gazette.load()
    chance = torch.Generator().manual_seed(0)
    base = GPT.init(GPTConfig(gazette.vocab_size, 80, n_embd=16, n_layer=1, n_head=2), chance)
    model = TokenClassifier(base, TAGS, chance).eval()
    return gazette, model, torch.tensor([BOS, *encode(FIRM), EOS])


def test_the_oracle_changes_its_mind_and_a_causal_reader_does_not(scene):
    gazette, model, story = scene
    exact, said = beliefs(model, causal, gazette, story, 1)
    assert exact.shape == said.shape == (len(story) - 2, len(KINDS))
    assert torch.allclose(exact.sum(1), torch.ones(len(exact)).double())
    left = tag_log_probs(gazette, [story], "left")[0]
    assert torch.allclose(exact[0], of_kinds(left[0].exp()), atol=1e-6)
    assert 0.2 < exact[0, 2] < 0.5 and exact[-1, 2] == 1
    assert torch.allclose(said, said[:1].expand_as(said), atol=1e-6)
    _, opened = beliefs(model, bidirectional, gazette, story, 1)
    assert (opened - opened[:1]).abs().max() > 1e-6


def test_without_a_model_the_first_belief_stays(scene):
    gazette, _, story = scene
    exact, said = beliefs(None, causal, gazette, story, 1)
    assert torch.equal(said, exact[:1].expand_as(exact))


def test_what_has_been_read(scene):
    _, _, story = scene
    assert reading(story, 1, 0) == "[Marlow]"
    assert reading(story, 1, 2) == "[Marlow] lost a"
    whole = reading(story, 1, 40)
    assert whole.startswith("[Marlow] lost") and whole.endswith("jam .")
    assert max(map(len, whole.splitlines())) <= 78


def test_moving_a_control_changes_the_picture(scene):
    gazette, model, story = scene
    widget = GardenPath(
        {"opened": (model, bidirectional), "causal": (model, causal)},
        gazette,
        {"Marlow": (story, 1), "kettle": (story, 6)},
    )
    seen = {widget.picture.value}
    for name, value in {"after": 8, "reader": "causal", "story": "kettle"}.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    widget.controls["after"].value = widget.controls["after"].max  # beyond the shorter text
    alt = re.search(r'alt="([^"]+)"', widget.picture.value)[1]
    assert "oracle" in alt and "causal" in alt and len(alt) > 60
    assert repr(widget) == "GardenPath: run the cell to move story, after, reader"
