"""Who moves whom: the three probes on sound models, on known traps, and on Hugging Face models."""

import math

import pytest
import tiny
import torch
from torch import nn

from mylib import masks
from mylib.gazette import Gazette
from mylib.leaks import influence, layer_influence, prefix_invariance
from mylib.masks import dense, reach
from mylib.tokenizer import MASK

T = 7
LOWER = torch.ones(T, T).tril().bool()
IDS = torch.arange(6, 6 + T)
BACKENDS = ["eager", "sdpa"]


def hugging_face(kind, backend="sdpa", **more):
    """A tiny random model of transformers with weights large enough to measure."""
    import transformers as hf

    sizes = dict(vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    sizes |= dict(max_position_embeddings=32, intermediate_size=32)
    gpt2 = dict(vocab_size=24, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    config, model = {
        "gpt2": (hf.GPT2Config(**gpt2), hf.GPT2LMHeadModel),
        "llama": (hf.LlamaConfig(**sizes, num_key_value_heads=1), hf.LlamaForCausalLM),
        "mistral": (
            hf.MistralConfig(**sizes, num_key_value_heads=1, sliding_window=3),
            hf.MistralForCausalLM,
        ),
        "bert": (hf.BertConfig(**sizes), hf.BertModel),
    }[kind]
    config._attn_implementation = backend
    for name, value in more.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = model(config).eval()
    for weight in model.parameters():
        weight.data += 0.25 * torch.randn(weight.shape)
    return model


# -- sound models ------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", ["gradient", "substitution"])
@pytest.mark.parametrize("name", sorted(set(tiny.MASKS) - {"padding", "causal and padding"}))
def test_influence_of_our_model_is_the_reach_of_its_mask(name, probe):
    mask = tiny.MASKS[name]
    if getattr(mask, "batch", None):
        mask = mask.take(slice(1, 2))
    model, time = tiny.gpt(), 6
    if mask is not tiny.MASKS["per head"] and probe == "substitution" and hasattr(mask, "rows"):
        # One row is substituted into many: the mask has to fit them all.
        mask = masks.from_dense(dense(mask, time)[0, 0])
    seen = influence(model, tiny.ids(1, time), mask=mask, probe=probe)
    assert torch.equal(seen, reach(dense(mask, time, heads=2)[0].any(0), 2))


def test_three_probes_of_the_causal_model():
    model = tiny.gpt()
    assert torch.equal(influence(model, IDS), LOWER)
    assert torch.equal(influence(model, IDS, probe="substitution"), LOWER)
    assert not prefix_invariance(model, IDS).any()
    assert prefix_invariance(model, IDS, mask=masks.bidirectional).any()
    assert torch.equal(influence(model, IDS, mask=masks.bidirectional), torch.ones(T, T).bool())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_hugging_face_causal_models(kind, backend):
    model = hugging_face(kind, backend)
    assert torch.equal(influence(model, IDS), LOWER)
    assert torch.equal(influence(model, IDS, probe="substitution"), LOWER)
    assert not prefix_invariance(model, IDS).any()
    layers = layer_influence(model, IDS)
    assert len(layers) == 2 and all(torch.equal(seen, LOWER) for seen in layers.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_in_a_batch_with_padding(kind, backend, side):
    model = hugging_face(kind, backend)
    valid = torch.arange(T) < 5 if side == "right" else torch.arange(T) >= 2
    attention = torch.stack([valid, torch.ones(T).bool()]).long()
    seen = influence(model, torch.stack([IDS, IDS]), row=0, attention_mask=attention)
    wanted = (LOWER if kind != "bert" else torch.ones(T, T).bool()) & valid[None, :]
    assert torch.equal(seen[valid], wanted[valid])


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_is_seen_as_open(backend):
    model = hugging_face("bert", backend)
    assert influence(model, IDS).all() and influence(model, IDS, probe="substitution").all()
    assert prefix_invariance(model, IDS).any()
    assert all(seen.all() for seen in layer_influence(model, IDS).values())


def test_layers_show_themselves_and_windows_show_their_band():
    layers = layer_influence(tiny.gpt(n_layer=3), IDS, mask=masks.sliding_window(1, 0))
    band = dense(masks.sliding_window(1, 0), T)[0, 0]
    assert list(layers) == ["h.0.attn", "h.1.attn", "h.2.attn"]
    assert all(torch.equal(seen, band) for seen in layers.values())
    model = hugging_face("mistral")
    band = dense(masks.sliding_window(2, 0), T)[0, 0]
    assert all(torch.equal(seen, band) for seen in layer_influence(model, IDS).values())
    assert torch.equal(influence(model, IDS), reach(band, 2))
    with pytest.raises(ValueError, match="no module of Embedding mixes tokens"):
        layer_influence(nn.Embedding(30, 4), IDS)


# -- known traps -------------------------------------------------------------------------------


def test_a_layer_norm_at_the_end_hides_nothing():
    model = tiny.Toy(lambda self, x: self.layers["norm"](x.cumsum(1)), norm=nn.LayerNorm(8))
    x = model.embed(IDS[None]).detach().requires_grad_(True)
    (flat,) = torch.autograd.grad(model.then(model, x)[0, 3].sum(), x)
    assert flat.abs().max() < 1e-5  # the trap: the sum of a layer norm's output is constant
    assert torch.equal(influence(model, IDS), LOWER)


def test_dropout_is_off_and_every_mode_comes_back():
    model = tiny.gpt(dropout=0.5).train()
    model.h[1].eval()
    modes = [module.training for module in model.modules()]
    for probe in ("gradient", "substitution"):
        assert torch.equal(influence(model, IDS, probe=probe), LOWER)
    assert not prefix_invariance(model, IDS).any()
    layer_influence(model, IDS)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError):
        influence(model, IDS + 100)
    assert [module.training for module in model.modules()] == modes  # after an error, too
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_is_refused(bad):
    model = tiny.Toy(lambda self, x: x + torch.tensor([bad] + [1.0] * (x.shape[1] - 1))[:, None])
    for ask in (influence, prefix_invariance):
        with pytest.raises(ValueError, match="NaN or infinite"):
            ask(model, IDS)
    with pytest.raises(ValueError, match="NaN or infinite"):
        influence(model, IDS, probe="substitution")
    broken = tiny.gpt()
    broken.h[1].attn.c_attn.bias.data[-1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        layer_influence(broken, IDS)
    root = tiny.Toy(lambda self, x: (x - x).abs().sqrt() + x)  # finite, but its gradient is not
    with pytest.raises(ValueError, match="gradient of output 0"):
        influence(root, IDS)


def test_a_substitute_has_another_embedding():
    model = tiny.Toy(lambda self, x: x.cumsum(1))
    model.embed.weight.data[:23] = model.embed.weight.data[0].clone()  # all tied but the last
    seen = influence(model, IDS, probe="substitution")
    assert torch.equal(seen, LOWER)
    model.embed.weight.data[:] = 1.0
    with pytest.raises(ValueError, match="no token to put in place of 6"):
        influence(model, IDS, probe="substitution")


def test_a_batch_norm_over_time_leaks_in_training_only():
    norm = nn.BatchNorm1d(8)
    model = tiny.Toy(lambda self, x: self.layers["norm"](x.cumsum(1).mT).mT, norm=norm)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    model.eval()
    frozen = tiny.Toy(lambda self, x: nn.functional.batch_norm(
        x.cumsum(1).mT, norm.running_mean, norm.running_var).mT)  # fmt: skip
    assert torch.equal(influence(frozen, IDS), LOWER)
    assert influence(model, IDS).all()
    assert not model.training and not norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())


def test_positions_from_the_right_are_seen_by_prefixes_only():
    gpt = tiny.gpt()

    def model(ids):
        return gpt(ids, positions=torch.arange(ids.shape[1] - 1, -1, -1))

    assert torch.equal(influence(model, IDS), LOWER)
    changed = prefix_invariance(model, IDS)
    assert changed[:-1].tril().sum() == LOWER[:-1].sum() and not changed[-1].any()


def test_statistics_pooled_over_the_text():
    pooled = tiny.Toy(lambda self, x: x.cumsum(1) / x.square().mean(1, keepdim=True))
    assert influence(pooled, IDS).all() and prefix_invariance(pooled, IDS).any()
    # The length alone is a statistic that no token carries.
    length = tiny.Toy(lambda self, x: x.cumsum(1) / x.shape[1])
    assert torch.equal(influence(length, IDS), LOWER) and prefix_invariance(length, IDS).any()


def test_what_a_gradient_does_not_see_a_substitution_does():
    dead = tiny.Toy(lambda self, x: (x.cumsum(1) > 0).float() + 0 * x)
    assert torch.equal(influence(dead, IDS), torch.zeros(T, T).bool())
    seen = influence(dead, IDS, probe="substitution")
    assert seen.any() and not (seen & ~LOWER).any()


def test_the_oracle_is_causal():
    oracle = Gazette.load()
    (text,) = oracle.sample(1, torch.Generator().manual_seed(1))
    text = text[:10]
    seen = influence(oracle.causal, text)
    assert not seen.triu(1).any() and seen.diagonal().all()
    assert not prefix_invariance(oracle.causal, text).any()
    assert not prefix_invariance(oracle.denoiser, text).triu(1).any()
    hidden = torch.tensor([MASK, MASK, MASK, int(text[3])])
    assert prefix_invariance(oracle.denoiser, hidden).any()  # what comes later says what was


def test_log_probabilities_are_compared_in_one_scale():
    def causal_but_certain_at_the_end(ids):
        out = -ids.cumsum(1).double()[..., None].repeat(1, 1, 2)
        out[:, 5:, 0] = -math.inf
        return out

    assert not prefix_invariance(causal_but_certain_at_the_end, IDS[:6]).any()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda ids: ids.double(), r"\(B, T, \.\.\.\).*got \(1, 7\)"),
        (lambda ids: ids[:, :3, None].double(), r"got \(1, 3, 1\)"),
        (lambda ids: {"logits": 3}, "got dict"),
        (lambda ids: (ids[..., None].double(),), None),
    ],
)
def test_outputs_that_are_not_one_vector_a_token(model, message):
    if message is None:
        assert not prefix_invariance(model, IDS).any()
        return
    with pytest.raises(ValueError, match=message):
        prefix_invariance(model, IDS)


def test_probes_that_do_not_fit():
    with pytest.raises(ValueError, match="'guess'"):
        influence(tiny.gpt(), IDS, probe="guess")
    with pytest.raises(ValueError, match="needs a token embedding"):
        influence(lambda ids: ids[..., None].double(), IDS, probe="gradient")
    with pytest.raises(ValueError, match="give it one row"):
        influence(tiny.gpt(), torch.stack([IDS, IDS]), probe="substitution")
