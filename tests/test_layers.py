"""States of the layers, and what a line reads from them."""

from dataclasses import replace

import pytest
import tiny
import torch
from test_objectives import documents

from mylib.layers import direction_probe, linear_probe, states
from mylib.masks import bidirectional
from mylib.objectives import ForwardBackward, NextToken, Rows
from mylib.tokenizer import BOS, EOS


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def test_states_are_the_residual_stream():
    model = tiny.gpt(n_layer=3, vocab_size=506, dropout=0.5).train()
    (batch,) = NextToken().passes(Rows.padded(documents([6, 9])), chance())
    found = states(model, batch)
    assert len(found) == 4 and model.training  # read without dropout, left as it was
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.h)
    model.eval()
    x = model.wte(batch.inputs) + model.wpe(batch.positions)
    visible = torch.ones(8, 8, dtype=torch.bool).tril()
    for block, state in zip([None, *model.h], found, strict=True):
        x = x if block is None else block(x, visible)
        torch.testing.assert_close(state, x)
    given = batch.inputs, batch.mask, batch.positions
    torch.testing.assert_close(model.ln_f(found[-1]), model.hidden(*given))
    assert not found[-1].requires_grad


def test_a_line_finds_what_a_line_can_find():
    x = torch.randn(3000, 8, generator=chance())
    linear = x @ torch.randn(8, generator=chance(1)) > 0.3
    square = x[:, 0] * x[:, 1] > 0  # no line
    unit = torch.tensor([1e3] * 4 + [1e-3] * 4)
    for labels, low, high in ((linear, 0.97, 1), (square, 0.4, 0.6)):
        for shift in (0, 5):
            found = linear_probe(
                (x * unit + shift)[:2000], labels[:2000], (x * unit + shift)[2000:]
            )
            assert found.dtype == torch.bool
            assert low <= float((found == labels[2000:]).double().mean()) <= high
    assert (
        float((linear_probe(x[:2000], ~linear[:2000], x[2000:]) == linear[2000:]).double().mean())
        < 0.05
    )
    for wrong in (linear[:10] & False, linear[:10] | True):
        with pytest.raises(ValueError, match="a probe needs both labels, all 10 are"):
            linear_probe(x[:10], wrong, x[10:])


@pytest.mark.parametrize("told", [True, False])
def test_direction_shows_above_the_embedding_only(told):
    model = tiny.gpt(n_layer=3, vocab_size=506)
    texts = [
        torch.cat([torch.tensor([BOS]), words, torch.tensor([EOS])])
        for size, count in ((5, 150), (6, 3), (7, 150))
        for words in torch.randint(6, 506, (count, size), generator=chance())
    ]
    shares = direction_probe(model, ForwardBackward(direction_tokens=told), texts, 200)
    assert len(shares) == 4
    assert shares[0] == 0.5  # the same token at the same position goes in
    assert min(shares[1:]) > 0.6  # random attention already averages its side

    class Blind(ForwardBackward):
        """Both readings see the same: nothing can tell them apart but the tokens at the ends."""

        def passes(self, rows, generator):
            passes = super().passes(rows, generator)
            return tuple(replace(batch, mask=~bidirectional) for batch in passes)

    assert direction_probe(model, Blind(direction_tokens=told), texts, 200) == [0.5] * 4


def test_a_probe_needs_documents_to_be_judged_on():
    model = tiny.gpt(vocab_size=506)
    for known in (0, 2, 3):
        with pytest.raises(ValueError, match=f"{known} documents to fit on, of 2 that"):
            direction_probe(model, ForwardBackward(), documents([7, 8, 9]), known)
