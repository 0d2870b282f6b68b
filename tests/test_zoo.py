"""The zoo is what it says: causal, windowed where it should be, repeatable."""

import random

import numpy as np
import pytest
import torch

from mylib.mixers import layer_influence
from mylib.probes import influence
from mylib.zoo import ARCHITECTURES, RECURRENT, WINDOW, supports, tiny

EVERYONE = ARCHITECTURES + RECURRENT
T = 10
IDS = torch.arange(1, T + 1)
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
BAND = CAUSAL & ~CAUSAL.tril(-WINDOW)
ALL_WINDOWED = {"mistral", "ministral", "starcoder2", "phi3", "doge", "mixtral", "phimoe"}
GEMMAS = {"gemma2", "gemma3_text", "gemma3n_text", "vaultgemma"}
MIXED = {"gpt_neo", "cohere2", "olmo3", "exaone4", "cwm", "modernbert-decoder"} | GEMMAS
MIXED |= {"afmoe", "exaone_moe", "gpt_oss", "llama4_text"}


def patterns(model):
    """Which of the two kinds of layer each one is: (windowed, full) by name of the model."""
    chunk = torch.arange(T) // WINDOW
    chunked = CAUSAL & (chunk == chunk[:, None])
    narrow = chunked if model.config.model_type == "llama4_text" else BAND
    seen = list(layer_influence(model, IDS).values())
    windowed = [torch.equal(each, narrow) for each in seen]
    full = [torch.equal(each, CAUSAL) for each in seen]
    assert all(w or f for w, f in zip(windowed, full, strict=True)) and len(seen) >= 2
    return any(windowed), any(full)


@pytest.mark.parametrize("name", EVERYONE)
def test_untouched_models_are_causal(name):
    """Eager by probes, the whole by substitution and each layer by gradient; SDPA by parity."""
    model = tiny(name, "eager")
    ids = torch.arange(1, 25).view(2, 12)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        bare, masked = model(ids).logits, model(ids, attention_mask=ones).logits
    assert bare.shape == (2, 12, 64) and bare.dtype == torch.float32 and not model.training
    assert bare.isfinite().all()
    torch.testing.assert_close(bare, masked)
    two_bands = CAUSAL & ~CAUSAL.tril(-2 * WINDOW + 1)
    expected = two_bands if name in ALL_WINDOWED else CAUSAL
    assert torch.equal(influence(model, IDS, probe="substitution"), expected)
    if name in ARCHITECTURES:
        assert patterns(model) == (name in ALL_WINDOWED | MIXED, name not in ALL_WINDOWED)

    try:
        other = tiny(name, "sdpa")
    except ValueError as refused:
        assert name in str(refused)
        return
    assert other.config._attn_implementation == "sdpa"
    if name == "falcon-alibi":  # its backends scale the distances differently
        assert torch.equal(influence(other, IDS, probe="substitution"), CAUSAL)
        return
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, bare, rtol=0, atol=1e-4 * bare.abs().max())
        assert torch.equal(other(ids).logits, other(ids, attention_mask=ones).logits)


@pytest.mark.parametrize("name", sorted(ALL_WINDOWED | MIXED))
def test_windows_with_sdpa(name):
    if supports(name, "sdpa"):
        wanted = (name in ALL_WINDOWED | MIXED, name not in ALL_WINDOWED)
        assert patterns(tiny(name, "sdpa")) == wanted


@pytest.mark.parametrize("name", EVERYONE[::4])  # one function draws them all
def test_same_seed_same_weights(name):
    def globally():
        return (
            torch.get_rng_state().numpy().tobytes(),
            random.getstate(),
            str(np.random.get_state()),
        )

    once = tiny(name, "eager").state_dict()
    torch.rand(1)  # what the caller draws in between does not matter
    before = globally()
    again = tiny(name, "eager").state_dict()
    assert globally() == before
    assert once.keys() == again.keys()
    assert all(torch.equal(once[key], again[key]) for key in once)


def test_seeds_differ_and_backends_do_not():
    weights = [tiny("llama", "eager"), tiny("llama", "sdpa"), tiny("llama", "sdpa", seed=1)]
    eager, sdpa, other = (each.lm_head.weight for each in weights)
    assert torch.equal(eager, sdpa) and not torch.equal(sdpa, other)
    logits = [each(IDS[None]).logits for each in weights]
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neo", "gemma3_text", "bart", "jamba", "longcat_flash"]
)
def test_layers(name):
    def size(n):
        return sum(each.numel() for each in tiny(name, "eager", layers=n).parameters())

    sizes = [size(n) for n in (2, 4, 6)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


def test_a_pattern_alternates_over_the_layers():
    model = tiny("gemma2", "eager", layers=3)
    seen = layer_influence(model, IDS).values()
    assert [torch.equal(each, BAND) for each in seen] == [True, False, True]


def test_errors_name_what_was_meant():
    with pytest.raises(ValueError, match=r"'gemma22' in the zoo; did you mean gemma2 or"):
        tiny("gemma22")
    with pytest.raises(ValueError, match=r"no architecture '\?\?' in the zoo$"):
        supports("??", "eager")
    with pytest.raises(ValueError, match="bloom does not build with 'sdpa'"):
        tiny("bloom", "sdpa")
    with pytest.raises(ValueError, match="llama does not build with 'nonsense'"):
        tiny("llama", "nonsense")
    assert supports("llama", "sdpa") and not supports("bloom", "sdpa")


def test_the_names_are_many_and_apart():
    assert len(ARCHITECTURES) >= 40
    assert len(set(EVERYONE)) == len(EVERYONE)
