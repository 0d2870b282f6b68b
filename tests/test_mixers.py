"""Which modules mix tokens: found by measuring, whatever they are called."""

import pytest
import tiny
import torch
from torch import nn

from mylib import zoo
from mylib.leaks import audit, layer_influence
from mylib.mixers import mixers, run
from mylib.probes import NotFinite, influence

T, C = 8, 6
IDS = torch.arange(1, T + 1)[None]


class Layer(nn.Module):
    """What a function does to (B, T, C), as a module."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        return self.rule(x)


class FakeAttention(Layer):
    """An attention by its name."""


class Net(nn.Module):
    """An embedding and some layers, one after the other."""

    def __init__(self, **layers):
        super().__init__()
        self.embed = nn.Embedding(24, C)
        nn.init.normal_(self.embed.weight, generator=torch.Generator().manual_seed(0))
        self.layers = nn.ModuleDict(
            {n: x if isinstance(x, nn.Module) else Layer(x) for n, x in layers.items()}
        )

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers.values():
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


def shift(steps):
    """Each token also gets the one ``steps`` before it (behind it, if negative); none wraps."""

    def rule(x):
        moved = torch.zeros_like(x)
        if steps > 0:
            moved[:, steps:] = x[:, :-steps]
        else:
            moved[:, :steps] = x[:, -steps:]
        return x + moved

    return rule


def convolution(x):
    kernel = torch.tensor([0.5, -1.0, 2.0]).view(1, 1, 3).repeat(C, 1, 1)
    return nn.functional.conv1d(nn.functional.pad(x.mT, (2, 0)), kernel, groups=C).mT


class MLPMixer(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tokens = nn.Parameter(torch.randn(T, T, generator=generator))
        self.channels = nn.Linear(C, C)

    def forward(self, x):
        return x + self.channels(torch.tanh(self.tokens @ x))


FULL = torch.ones(T, T, dtype=torch.bool)
LOWER = FULL.tril()
FOUND = {
    "cumsum": (lambda x: x.cumsum(1), LOWER),
    "convolution": (convolution, LOWER & ~LOWER.tril(-3)),
    "Fourier over time": (lambda x: torch.fft.fft(x, dim=1).real, None),
    "MLP-Mixer": (MLPMixer(), FULL),
    "mean": (lambda x: x - x.mean(1, keepdim=True), FULL),
    "pairs": (lambda x: x.view(-1, T // 2, 2, C).sum(2).repeat_interleave(2, 1), None),
    "last to first": (lambda x: torch.cat([x[:, :1] + x[:, -1:], x[:, 1:]], 1), None),
    "in a tuple": (lambda x: (x.cumsum(1), None), LOWER),
    "in place": (lambda x: x.copy_(x.cumsum(1)), LOWER),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_by_measuring(name):
    rule, pattern = FOUND[name]
    model = Net(before=nn.Linear(C, C), mix=rule, after=lambda x: torch.tanh(x))
    assert [each.name for each in mixers(model, IDS)] == ["layers.mix"]
    (seen,) = layer_influence(model, IDS[0]).values()
    assert pattern is None or torch.equal(seen, pattern)
    assert audit(model, "causal", IDS[0]).ok == (pattern is LOWER)


@pytest.mark.parametrize("steps", [*range(1, T), *range(-1, -T, -1)])
def test_every_distance_is_found(steps):
    model = Net(mix=shift(steps))
    assert [each.name for each in mixers(model, IDS)] == ["layers.mix"]
    (seen,) = layer_influence(model, IDS).values()
    assert torch.equal(seen, torch.eye(T, dtype=torch.bool) | torch.eye(T).roll(-steps, 1).bool()
                       & (LOWER if steps > 0 else LOWER.T))  # fmt: skip


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: torch.relu(x),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x * torch.arange(T)[:, None],
        lambda x: x.flip(-1),
        lambda x: x.detach() * 2,
        lambda x: x.mean(-1),
        nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C)),
    ],
)
def test_what_works_on_each_token_by_itself_is_none(rule):
    model = Net(layer=rule)
    if isinstance(rule, nn.Sequential) or model(IDS).dim() == 3:
        assert mixers(model, IDS) == []
        with pytest.raises(ValueError, match="no module of Net mixes tokens"):
            layer_influence(model, IDS)


def test_the_innermost_modules_count():
    inner = nn.Sequential(nn.Linear(C, C), Layer(lambda x: x.cumsum(1)), nn.Linear(C, C))
    assert [each.name for each in mixers(Net(block=inner), IDS)] == ["layers.block.1"]


def test_an_attention_counts_by_its_name():
    broken = FakeAttention(lambda x: x * 2)
    (each,) = mixers(Net(attn=broken), IDS)
    assert each.name == "layers.attn" and torch.equal(each.strengths() > 0, torch.eye(T).bool())
    # Around a mixer that is none, the attention is what is judged; around another one, that one.
    outer = FakeAttention(None)
    outer.rule = Layer(lambda x: x.cumsum(1))
    assert [each.name for each in mixers(Net(attn=outer), IDS)][-1] == "layers.attn"
    outer.rule = FakeAttention(lambda x: x.cumsum(1))
    assert [each.name for each in mixers(Net(attn=outer), IDS)] == ["layers.attn.rule"]


def test_a_module_that_is_called_twice():
    shared = Layer(lambda x: x.cumsum(1))
    model = Net(one=shared, other=nn.ReLU())
    model.layers["again"] = shared
    plain = model.forward
    assert [each.name for each in mixers(model, IDS)] == ["layers.one", "layers.one#2"]
    report = audit(model, "causal", IDS[0])
    assert set(report.cases) == {
        "whole model, one row",
        "layers.one, one row",
        "layers.one#2, one row",
    }
    assert plain == model.forward and not shared._forward_hooks and not shared._forward_pre_hooks
    # Its two calls may differ: here the second one looks ahead.
    calls = []

    def second_looks_ahead(x):
        calls.append(1)
        return x.cumsum(1) if bool(x[0, 0, 0] < 5) else x.flip(1).cumsum(1)

    shared.rule = second_looks_ahead
    model.layers["other"].forward = lambda x: x + 10
    seen = layer_influence(model, IDS)
    assert torch.equal(seen["layers.one"], LOWER)
    assert not torch.equal(seen["layers.one#2"], LOWER) and calls


def test_only_the_known_are_watched():
    model = Net(one=lambda x: x.cumsum(1), other=lambda x: x.flip(1))
    output, found = run(model, IDS, {}, [model.layers["other"]])
    assert [each.name for each in found] == ["layers.other"]
    assert torch.equal(output, model(IDS))
    assert run(model, IDS, {}, [])[1] == []


def test_a_row_of_a_batch():
    model = Net(mix=lambda x: torch.cat([x[:1], x[1:].cumsum(1)]))
    two = IDS.repeat(2, 1)
    assert torch.equal(layer_influence(model, two)["layers.mix"], torch.eye(T).bool())
    assert torch.equal(layer_influence(model, two, row=1)["layers.mix"], LOWER)


def test_what_a_module_received_is_kept_from_its_own_hands():
    model = Net(mix=lambda x: x.copy_(x.cumsum(1)))
    (each,) = mixers(model, IDS)
    assert torch.equal(each.args[0], model.embed(IDS))


def test_one_token_mixes_with_nobody():
    assert mixers(Net(mix=lambda x: x.cumsum(1)), IDS[:, :1]) == []
    assert len(mixers(Net(mix=lambda x: x.cumsum(1)), IDS[:, :2])) == 1


def test_hooks_go_and_modes_come_back_even_after_an_error():
    def stop(x):
        raise RuntimeError("stop")

    model = Net(one=lambda x: x.cumsum(1), other=stop).train()
    model.embed.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"):
        mixers(model, IDS)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert [module.training for module in model.modules()] == modes


def test_nan_within_a_mixer():
    model = Net(mix=lambda x: torch.where(x > 1e9, x, torch.nan), clean=torch.nan_to_num)
    with pytest.raises(NotFinite, match=r"the output of layers\.mix holds NaN"):
        mixers(model, IDS)


def test_a_scaled_question_uses_scaled_states():
    (each,) = mixers(Net(mix=lambda x: x.cumsum(1) ** 2), IDS)
    leaf, output = each.again(0.5)
    again, whole = each.again()
    torch.testing.assert_close(leaf, again * 0.5)
    torch.testing.assert_close(output, whole * 0.25)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gpt_oss"])
def test_a_cache_is_not_filled_twice(name):
    """Models write keys into their cache; asked again, a layer must not see them double."""
    model = zoo.tiny(name, "eager")
    for each in mixers(model, IDS, use_cache=True):
        assert each.strengths().shape == (T, T) and not each.strengths().triu(1).any()


def test_recurrences_and_attentions_side_by_side():
    found = {each.name.rsplit(".", 1)[-1] for each in mixers(zoo.tiny("jamba"), IDS)}
    assert "mamba" in found and "self_attn" in found
    assert list(layer_influence(tiny.gpt(vocab_size=24), IDS)) == ["h.0.attn", "h.1.attn"]


def test_nothing_changes_where_gradients_are_off():
    model = tiny.gpt(vocab_size=24)
    wanted = layer_influence(model, IDS)
    with torch.no_grad():
        found = layer_influence(model, IDS)
        assert torch.equal(influence(model, IDS), torch.ones(T, T).tril().bool())
        assert not torch.is_grad_enabled()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
