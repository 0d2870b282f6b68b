"""The shipped checkpoints belong to the shipped grammar and tokens, and are as good as they say."""

import json

import pytest
import torch
from promises import FLOOR, kept

from mylib.commands.measures import (
    flag_counts,
    measure_causal,
    measure_denoiser,
    measure_diffusion,
    measure_dual,
    measure_masked,
    measure_mixed,
    measure_prefix,
)
from mylib.commands.pretrain import RECIPES, provenance
from mylib.files import data_path, read_safetensors
from mylib.gazette import Gazette
from mylib.metrics import bootstrap, paired_excess
from mylib.model import FORMAT, GPT
from mylib.objectives import ForwardBackward, NextToken, Rows
from mylib.tokenizer import BOS, EOS
from mylib.train import evaluate


@pytest.mark.parametrize("name", RECIPES)
def test_every_promise_is_kept_by_what_was_measured(name):
    """The bounds are those that a checkpoint trained anew is judged by, too."""
    facts = json.loads(data_path(f"checkpoints/{name}.json").read_text())
    if name != "mlm":  # its floor is that of a hidden word
        assert facts.get("floor", FLOOR) == FLOOR
    assert kept(facts, name) and all(kept(facts, name).values()), kept(facts, name)


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
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/causal.safetensors"))
    again = measure_causal(model, gazette, n=1000)
    low, high = again["excess_interval"]
    assert low <= facts["excess_interval"][1] and facts["excess_interval"][0] <= high
    assert low > 0, "below the floor: a leak"
    assert again["valid"] >= 0.95


def test_masked_model_meets_its_promise():
    """Within 0.05 nats per hidden word of the oracle, paired, 15 % hidden, all as [MASK]."""
    facts = json.loads(data_path("checkpoints/mlm.json").read_text())
    assert facts["excess_interval"][1] < 0.05
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/mlm.safetensors"))
    again = measure_masked(model, gazette, n=1000)
    low, high = again["excess_interval"]
    assert low <= facts["excess_interval"][1] and facts["excess_interval"][0] <= high
    assert low > 0, "below the floor: a leak"
    assert high < 0.06
    causal = GPT.load(data_path("checkpoints/causal.safetensors"))  # the measure can fail
    assert measure_masked(causal, gazette, n=100)["excess_interval"][0] > 1


def test_prefix_model_meets_its_promise():
    """Within 0.01 nats per asked word of the oracle; headline to story and back: 95 % valid."""
    facts = json.loads(data_path("checkpoints/prefix.json").read_text())
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/prefix.safetensors"))
    again = measure_prefix(model, gazette, n=300, samples=200)
    low, high = again["excess_interval"]
    assert low <= facts["excess_interval"][1] and facts["excess_interval"][0] <= high
    assert low > 0, "below the floor: a leak"
    for name in ("valid_story", "valid_headline"):
        assert abs(again[name] - facts[name]) < 0.05


def test_dual_model_meets_its_promise():
    """Within one percent of the floor in both directions, and writes in both."""
    facts = json.loads(data_path("checkpoints/dual.json").read_text())
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/dual.safetensors"))
    again = measure_dual(model, gazette, n=1000, samples=200)
    for way in ("forward", "backward"):
        low, high = again[f"{way}_excess_interval"]
        stored = facts[f"{way}_excess_interval"]
        assert low <= stored[1] and stored[0] <= high, way
        assert low > 0, "below the floor: a leak"
        assert abs(again[f"valid_{way}"] - facts[f"valid_{way}"]) < 0.05


def test_mixed_model_does_what_its_file_says():
    facts = json.loads(data_path("checkpoints/mixed.json").read_text())
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/mixed.safetensors"))
    again = measure_mixed(model, gazette, n=500, samples=60)
    for name in ("forward", "backward", "fill_in"):
        low, high = again[f"{name}_excess_interval"]
        stored = facts[f"{name}_excess_interval"]
        assert low <= stored[1] and stored[0] <= high, name
        assert low > 0, "below the floor: a leak"
    assert again["spoiled_found"] > 0.97 and again["false_flags"] < 0.001
    # 60 pages: four standard errors of a share near two thirds.
    assert abs(again["valid_confidence"] - facts["valid_confidence"]) < 0.25


def test_the_mixed_model_is_told_its_direction_by_token_mask_and_positions():
    """Each of the three taken away costs more than the model's whole excess."""
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/mixed.safetensors"))
    rows = Rows.padded(gazette.sample(100, _chance()))
    right = ForwardBackward()
    for number, first in ((0, BOS), (1, EOS)):
        batch = right.passes(rows, _chance())[number]
        plain = ForwardBackward(direction_tokens=False).passes(rows, _chance())[number]
        assert (plain.inputs != batch.inputs).sum() == len(rows.tokens)
        assert (plain.inputs[plain.inputs != batch.inputs] == first).all()
        other = right.passes(rows, _chance())[1 - number].mask

        def nats(inputs, mask, positions, batch=batch):
            with torch.no_grad():
                logits = model(inputs, mask, positions)
            return float(right.nll(logits, batch).sum()) / len(rows.tokens)

        base = nats(batch.inputs, batch.mask, batch.positions)
        assert nats(plain.inputs, batch.mask, batch.positions) > base + 0.3
        assert nats(batch.inputs, other, batch.positions) > base + 10
        assert nats(batch.inputs, batch.mask, batch.positions + 3) > base + 0.3


def test_proofreader_meets_its_promise():
    """Of its flags and of the wrong words more than 95 % are the other; second thoughts help."""
    facts = json.loads(data_path("checkpoints/denoiser.json").read_text())
    gazette, model = Gazette.load("sunday"), GPT.load(data_path("checkpoints/denoiser.safetensors"))
    again = measure_denoiser(model, gazette, n=500, samples=60)
    for name in ("precision", "recall"):
        low, high = again[f"{name}_interval"]
        stored = facts[f"{name}_interval"]
        assert low <= stored[1] and stored[0] <= high, name
        assert stored[0] > 0.95 and again[name] > 0.95
    assert again["mask_at_mask"] < 1e-4
    assert facts["valid_revised_interval"][0] > facts["valid_plain_interval"][1]
    for name in ("valid_plain", "valid_revised"):  # four standard errors of 60 pages
        assert abs(again[name] - facts[name]) < 0.25
    # The measure can fail: a network that was trained to say the right word at a wrong one.
    other = GPT.load(data_path("checkpoints/mlm.safetensors"))
    found, _, wrong, *_ = flag_counts(other, gazette, gazette.sample(64, _chance())).sum(0)
    assert wrong > 200 and found < 0.05 * wrong


def test_diffusion_model_meets_its_promise():
    """Its bound lies within five percent above the entropy; 95 % valid in order of confidence."""
    facts = json.loads(data_path("checkpoints/diffusion.json").read_text())
    assert facts["floor"] == round(Gazette.load("sunday").entropy, 4)
    assert facts["gap_share"] == pytest.approx(facts["gap"] / facts["floor"], abs=1e-4)
    gazette = Gazette.load("sunday")
    model = GPT.load(data_path("checkpoints/diffusion.safetensors"))
    again = measure_diffusion(model, gazette, n=256, samples=40)
    low, high = again["gap_interval"]
    assert low <= facts["gap_interval"][1] and facts["gap_interval"][0] <= high
    assert 0 < high < 0.1 * facts["floor"]
    assert again["valid_confidence"] >= 0.9
    assert abs(again["valid_random"] - facts["valid_random"]) < 0.25  # of 40 pages
    causal = GPT.load(data_path("checkpoints/causal.safetensors"))  # the measure can fail
    assert measure_diffusion(causal, gazette, n=64, samples=2)["gap_share"] > 1


def test_an_untrained_model_does_not():
    gazette = Gazette.load("sunday")
    model = GPT.init(GPT.load(data_path("checkpoints/causal.safetensors")).config, _chance())
    fresh = gazette.sample(50, _chance())
    floor = -gazette.log_prob(gazette.canvas(fresh))
    assert paired_excess(evaluate(model, NextToken(), fresh), floor).low > 1
    assert bootstrap(floor).mean > 0


def _chance():
    return torch.Generator().manual_seed(1)
