"""The shipped checkpoints belong to the shipped grammar and tokens, and are as good as they say."""

import json

import pytest
import torch

from mylib.commands.pretrain import RECIPES, measure, provenance
from mylib.files import data_path, read_safetensors
from mylib.gazette import Gazette
from mylib.metrics import bootstrap, paired_excess
from mylib.model import FORMAT, GPT
from mylib.objectives import NextToken
from mylib.train import evaluate


@pytest.mark.parametrize("name", RECIPES)
def test_checkpoint_belongs_to_its_grammar_and_tokens(name):
    path = data_path(f"checkpoints/{name}.safetensors")
    _, header = read_safetensors(path, FORMAT)
    for key, value in provenance(RECIPES[name]).items():
        assert header[key] == value, f"{name}: stale {key}; run `python -m mylib pretrain {name}`"
    assert path.stat().st_size < 4_000_000
    assert GPT.load(path).config.vocab_size == Gazette.load(RECIPES[name].edition).vocab_size


def test_data_is_small():
    folder = data_path("gazette.toml").parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 25_000_000


def test_causal_model_meets_its_promise():
    """Excess at most 0.1 nats per document, at least 95 % of samples valid, on fresh documents."""
    facts = json.loads(data_path("checkpoints/causal.json").read_text())
    assert facts["excess"] <= 0.1
    assert facts["valid"] >= 0.95
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/causal.safetensors"))
    again = measure(model, gazette, NextToken(), n=1000)
    low, high = again["excess_interval"]
    assert low <= facts["excess_interval"][1] and facts["excess_interval"][0] <= high
    assert low > 0, "below the floor: a leak"
    assert again["valid"] >= 0.95


def test_an_untrained_model_does_not():
    gazette = Gazette.load("sunday")
    model = GPT.init(GPT.load(data_path("checkpoints/causal.safetensors")).config, _chance())
    fresh = gazette.sample(50, _chance())
    floor = -gazette.log_prob(gazette.canvas(fresh))
    assert paired_excess(evaluate(model, NextToken(), fresh), floor).low > 1
    assert bootstrap(floor).mean > 0


def _chance():
    return torch.Generator().manual_seed(1)
