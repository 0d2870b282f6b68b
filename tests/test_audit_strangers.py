"""The audit of networks that nobody here wrote: PyTorch's own layers, wrappers, closed
vocabularies, states that are kept. Right ones are not accused, and no wrong one passes."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mylib import zoo
from mylib.__main__ import main
from mylib.leaks import audit, certificate, influence
from mylib.masks import bidirectional, causal, sliding_window
from mylib.objectives import NextToken, Rows

WIDTH, WORDS = 8, 24


class Net(nn.Module):
    """Embedding, whatever ``then`` makes of states and real tokens (B, T, 1), and a head."""

    def __init__(self, then, mix=None):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.h = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.mix, self.then = mix, then

    def forward(self, ids, attention_mask=None):
        real = torch.ones_like(ids) if attention_mask is None else attention_mask
        return self.then(self, self.e(ids), real[..., None].float())


class Attending(nn.Module):
    """Layers of `nn.MultiheadAttention`: causal where closed, a window if there is one."""

    def __init__(self, rows_first, window=None, closed=(True, True), named=False):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.rows_first, self.window, self.closed = (
            nn.Embedding(WORDS, WIDTH), rows_first, window, closed
        )  # fmt: skip
        self.named = named
        self.a = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, 2, batch_first=rows_first) for _ in closed
        )

    def forward(self, ids):
        time, x = ids.shape[1], self.e(ids)
        x = x if self.rows_first else x.transpose(0, 1)
        for layer, shut in zip(self.a, self.closed, strict=True):
            hide = torch.full((time, time), shut).triu(1)
            if self.window:
                hide |= torch.ones(time, time).tril(-self.window).bool()
            how = dict(attn_mask=hide, need_weights=False)
            if self.named:
                x = x + layer(query=x, key=x, value=x, **how)[0]
            else:
                x = x + layer(x, x, x, **how)[0]
        return x if self.rows_first else x.transpose(0, 1)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("rows_first", [True, False])
def test_pytorchs_own_attention(rows_first, named):
    def says(expected, **how):
        return audit(Attending(rows_first, named=named, **how), expected)

    assert says("causal").ok
    assert says("bidirectional", closed=(False, False)).ok
    assert says(sliding_window(2, 0), window=3).ok
    assert not says("bidirectional", closed=(True, False)).ok
    assert not says("causal", closed=(True, False)).ok
    assert not says(sliding_window(1, 0), window=3).ok


def test_pytorchs_own_encoder():
    class Encoder(nn.Module):
        def __init__(self, shut):
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
            self.e, self.shut = nn.Embedding(WORDS, WIDTH), shut
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids):
            hide = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            return self.layers(self.e(ids), mask=hide if self.shut else None)

    assert audit(Encoder(True), "causal").ok and not audit(Encoder(True), "bidirectional").ok
    assert audit(Encoder(False), "bidirectional").ok and not audit(Encoder(False), "causal").ok


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.randn(1, 32, WIDTH))

    def forward(self, x):
        return self.p[:, : x.shape[1]]


def test_a_module_whose_output_does_not_depend_on_its_input():
    assert audit(
        Net(lambda net, x, r: net.h((x * r).cumsum(1) + net.mix(x)), Positions()), "causal"
    )


def expert_choice(x, real):
    score = x.sum(-1)
    best = torch.zeros_like(score).scatter(1, score.topk(3, 1).indices, 1.0)
    return (x * real).cumsum(1) + best[..., None]


LEAKS = {
    "choice": expert_choice,
    "length": lambda x, real: (x * real).cumsum(1) * x.shape[1],
    "batch": lambda x, real: (x * real).cumsum(1) + (3 * torch.arange(8.0) if len(x) > 1 else 0),
}


@pytest.mark.parametrize("fill", [-1e9, torch.finfo(torch.float32).min, float("-inf")])
@pytest.mark.parametrize("leak", LEAKS)
def test_a_closed_vocabulary_hides_nothing(leak, fill):
    """Outputs of -1e9 would make every other difference small beside them."""

    def then(net, x, real):
        logits = net.h(LEAKS[leak](x, real)).index_fill(-1, torch.arange(20, WORDS), fill)
        return logits.log_softmax(-1) if fill == float("-inf") else logits

    assert not audit(Net(then), "causal").ok


def test_a_neighbour_who_is_read_beside_left_padding():
    def then(net, x, real):
        y = (x * real).cumsum(1)
        if len(x) > 1 and not real[0, 0].all():
            y = y + x[1:2].sum(1, keepdim=True)
        return net.h(y)

    report = audit(Net(then), "causal")
    assert not report.ok and "left padding: another text beside it changes the row" in str(report)


def test_what_answers_twice_in_two_ways_is_not_judged():
    def noisy(net, x, real):
        return net.h(F.dropout((x * real).cumsum(1), 0.1))

    def keeps(net, x, real):
        y = x.sum(1, keepdim=True) + x + getattr(net, "past", 0)
        net.past = x.detach().mean((0, 1))
        return net.h(y)

    for then, expected in ((noisy, "causal"), (keeps, "bidirectional")):
        with pytest.raises(ValueError, match="other outputs when asked again"):
            audit(Net(then), expected)


def test_callables_that_take_an_attention_mask():
    def sums(ids, attention_mask=None):
        real = torch.ones_like(ids) if attention_mask is None else attention_mask
        return (ids * real).double().cumsum(1)[..., None]

    assert audit(sums, "causal").ok
    assert "sees the pad" in str(audit(lambda ids, attention_mask=None: sums(ids), "causal"))


def test_texts_that_show_nothing_are_refused():
    net = Net(lambda net, x, real: net.h(x.sum(1, keepdim=True) + x))
    for ids in (torch.tensor([5]), torch.tensor([], dtype=torch.long), torch.ones(2, 4).long()):
        with pytest.raises(ValueError, match=r"a text is ids \(T,\), two or more"):
            audit(net, "causal", ids)
    assert not audit(net, "causal", [5, 7, 9]).ok
    for length in (0, 1):
        with pytest.raises(ValueError, match=f"no text of {length} different tokens"):
            audit(net, "causal", length=length)
    with pytest.raises(ValueError, match="no text of 1000 different tokens"):
        audit(zoo.tiny("llama", "sdpa"), "causal", length=1000)


class Blind(nn.Module):
    """It takes a mask and sees its pads."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(WORDS, WIDTH)

    def forward(self, ids, attention_mask=None):
        return self.e(ids).cumsum(1)


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Blind()

    def forward(self, *args, **more):
        return self.inner(*args, **more)


def test_padding_is_not_skipped_in_silence():
    assert not audit(Blind(), "causal").ok
    assert not audit(nn.DataParallel(Blind()), "causal").ok
    assert "nothing was padded" in audit(Wrapper(), "causal").notes[0]


def test_tables_of_positions_are_not_those_of_tokens():
    class Learned(nn.Module):
        def __init__(self, shut):
            super().__init__()
            torch.manual_seed(0)
            self.wpe, self.wte = nn.Embedding(32, WIDTH), nn.Embedding(WORDS, WIDTH)
            self.shut = shut

        def forward(self, ids):
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            return x.cumsum(1) if self.shut else x + x.sum(1, keepdim=True)

    assert audit(Learned(True), "causal").ok and not audit(Learned(False), "causal").ok
    assert influence(Learned(False), torch.arange(5), probe="gradient").all()


def test_one_mask_of_a_list_is_not_one_for_all():
    model = zoo.tiny("llama", "sdpa")
    assert audit(model, causal).ok
    with pytest.raises(ValueError, match="1 masks are expected, but 2 modules mix tokens"):
        audit(model, [causal])


def test_a_network_without_modules_is_one_layer_and_that_is_said():
    def then(net, x, real):
        for _ in range(2):
            x = x + F.pad(x, (0, 0, 1, 0))[:, :-1]
        return net.h(x)

    report = audit(Net(then), sliding_window(1, 0))
    assert "no module that mixes tokens was found: the model counts as one layer" in report.notes


def test_it_judges_inside_of_inference_mode():
    model = zoo.tiny("gpt2", "sdpa")
    with torch.inference_mode():
        assert audit(model, "causal").ok
        assert not audit(model, "bidirectional").ok


def test_the_gradient_of_a_large_vocabulary_comes_in_parts(monkeypatch):
    model, ids = zoo.tiny("gpt2", "sdpa"), torch.arange(3, 12)
    whole = influence(model, ids, probe="gradient")
    for at_once in (1, 2_000):
        monkeypatch.setattr("mylib.probes.AT_ONCE", at_once)
        assert torch.equal(influence(model, ids, probe="gradient"), whole)


def test_weights_that_are_not_in_the_folder(tmp_path, capsys):
    """transformers would draw them at random, and that network would be judged."""
    import json

    zoo.tiny("llama", "sdpa").save_pretrained(tmp_path)
    assert main(["audit", str(tmp_path), "--expect", "causal"]) == 0
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))
    capsys.readouterr()
    assert main(["audit", str(tmp_path), "--expect", "causal"]) == 2
    assert "weights are not in the folder" in capsys.readouterr().err


def test_a_certificate_is_of_one_draw():
    class Sometimes(NextToken):
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            opens = torch.rand((), generator=generator) < 0.5
            return (replace(batch, mask=bidirectional),) if opens else (batch,)

    rows = Rows.padded([torch.arange(6, 10)])
    sound = {
        certificate(Sometimes(), rows, 2, torch.Generator().manual_seed(seed)).sound
        for seed in range(8)
    }
    assert sound == {True, False}
