"""The zoo is what it says: causal, windowed where it should be, repeatable."""

import random

import numpy as np
import pytest
import torch

from mylib.mixers import layer_influence
from mylib.probes import influence
from mylib.zoo import ARCHITECTURES, BACKENDS, RECURRENT, WINDOW, supports, tiny

EVERYONE = ARCHITECTURES + RECURRENT
T = 10
IDS = torch.arange(1, T + 1)
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
BAND = CAUSAL & ~CAUSAL.tril(-WINDOW)
# They write into their embeddings or states in place, where no gradient passes.
IN_PLACE = {"ctrl", "rwkv"}
ALL_WINDOWED = {"mistral", "ministral", "starcoder2", "phi3", "doge", "mixtral", "phimoe"}
GEMMAS = {"gemma2", "gemma3_text", "gemma3n_text", "vaultgemma"}
MIXED = {"gpt_neo", "cohere2", "olmo3", "exaone4", "cwm", "modernbert-decoder"} | GEMMAS
MIXED |= {"afmoe", "exaone_moe", "gpt_oss", "llama4_text"}


def built(name, backend):
    try:
        return tiny(name, backend)
    except ValueError as refused:
        assert backend == "sdpa" and name in str(refused) and not supports(name, backend)
        pytest.skip(f"transformers has no {backend} for {name}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", EVERYONE)
def test_untouched_models_are_causal(name, backend):
    model = built(name, backend)
    ids = torch.arange(1, 25).view(2, 12)
    with torch.no_grad():
        bare, masked = model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits
    assert bare.shape == (2, 12, 64) and bare.dtype == torch.float32 and not model.training
    assert bare.isfinite().all()
    torch.testing.assert_close(bare, masked)

    # The probes take turns: the gradient is exact, substitution is fast.
    probe = "gradient" if backend == "eager" and name not in IN_PLACE else "substitution"
    two_bands = CAUSAL & ~CAUSAL.tril(-2 * WINDOW + 1)
    expected = two_bands if name in ALL_WINDOWED else CAUSAL
    assert torch.equal(influence(model, IDS, probe=probe), expected)


# Both backends where there are windows to get wrong; elsewhere one does.
@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "eager") for name in ARCHITECTURES]
    + [(name, "sdpa") for name in sorted(ALL_WINDOWED | MIXED)],
)
def test_each_attention_sees_the_past_or_its_window(name, backend):
    model = built(name, backend)
    seen = list(layer_influence(model, IDS).values())
    chunk = torch.arange(T) // WINDOW
    narrow = CAUSAL & (chunk == chunk[:, None]) if name == "llama4_text" else BAND
    windowed = [torch.equal(each, narrow) for each in seen]
    full = [torch.equal(each, CAUSAL) for each in seen]
    assert all(w or f for w, f in zip(windowed, full, strict=True)) and len(seen) >= 2
    assert any(full) == (name not in ALL_WINDOWED)
    assert any(windowed) == (name in ALL_WINDOWED | MIXED)


@pytest.mark.parametrize("name", EVERYONE)
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
