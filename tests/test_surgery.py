"""A larger vocabulary, fewer layers, a head of its own: what stays, and what learns."""

import pytest
import tiny
import torch
from test_objectives import documents

from mylib.masks import bidirectional, causal
from mylib.objectives import ForwardBackward, MaskedLM, NextToken, Rows
from mylib.surgery import OwnHead, with_vocabulary, without_last
from mylib.train import fit


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_old_ids_keep_their_logits(dtype):
    old = tiny.gpt().to(dtype)
    ids = tiny.ids(2, 7)
    for size in (16, 17, 40):
        new = with_vocabulary(old, size, chance())
        assert new.config.vocab_size == size and new.config.n_embd == old.config.n_embd
        assert {p.dtype for p in new.parameters()} == {dtype} and not new.training
        for mask in (causal, bidirectional):
            logits = new(ids, mask)
            assert logits.shape == (2, 7, size)
            # A product of another size is rounded in another order.
            torch.testing.assert_close(logits[..., :16], old(ids, mask), rtol=1e-2, atol=1e-3)
            if dtype != torch.bfloat16:
                torch.testing.assert_close(logits[..., :16], old(ids, mask))
            hidden = new.hidden(ids, mask)
            assert torch.equal(hidden, old.hidden(ids, mask))
        for name, weight in old.state_dict().items():
            assert torch.equal(new.state_dict()[name][: len(weight)], weight), name
            if name != "wte.weight":
                assert new.state_dict()[name].shape == weight.shape
        assert len({p.data_ptr() for p in [*old.parameters(), *new.parameters()]}) == 2 * len(
            [*old.parameters()]
        )  # a copy


def test_new_rows_are_near_the_mean_and_differ():
    old = tiny.gpt(vocab_size=400, n_embd=32)
    new = with_vocabulary(old, 700, chance())
    rows, weights = new.wte.weight[400:].detach(), old.wte.weight.detach()
    away = (rows - weights.mean(0)) / weights.std(0, correction=0)
    assert abs(float(away.std()) - 0.1) < 0.01 and abs(float(away.mean())) < 0.01
    assert len(rows.unique(dim=0)) == 300
    logits = new(torch.arange(6, 12)[None])[0]
    assert (logits[:, 400:].mean(1) - logits[:, :400].mean(1)).abs().max() < 0.1
    # In training mode if the old one was.
    assert with_vocabulary(old.train(), 401, chance()).training


def test_the_generator_alone_decides():
    old = tiny.gpt()
    rows = []
    for seed, torchs_own in [(1, 1), (1, 2), (2, 1)]:
        torch.manual_seed(torchs_own)
        rows.append(with_vocabulary(old, 20, chance(seed)).wte.weight[16:])
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_it_cannot_shrink():
    with pytest.raises(ValueError, match="16 tokens and cannot shrink to 15"):
        with_vocabulary(tiny.gpt(), 15, chance())


def test_training_goes_on_with_the_new_word():
    texts = documents([5, 9, 4])
    old = tiny.gpt(vocab_size=506, scale=0.02)
    before = {name: weight.clone() for name, weight in old.state_dict().items()}
    new = with_vocabulary(old, 507, chance())
    objective = MaskedLM(0.5, (1, 0, 0), mask_token=506)
    row = new.wte.weight[506].detach().clone()
    history = fit(new, objective, texts, 40, batch=3, learning_rate=2e-2, progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert not torch.equal(new.wte.weight[506], row)
    assert all(torch.equal(old.state_dict()[name], weight) for name, weight in before.items())
    with pytest.raises(ValueError, match=r"ids lie in 0\.\.505"):
        fit(old, objective, texts, 1, batch=3, progress=False)
    fit(new, NextToken(), texts, 1, batch=3, progress=False)


# -- fewer layers, and a head of its own -------------------------------------------------------


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_without_its_last_layers(gone):
    model, ids = tiny.gpt(n_layer=3), tiny.ids(2, 7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    shorter = without_last(model, gone)
    assert shorter.config.n_layer == 3 - gone == len(shorter.h) and not shorter.training
    x = model.wte(ids) + model.wpe(torch.arange(7))
    visible = torch.ones(7, 7, dtype=torch.bool).tril()
    for block in model.h[: 3 - gone]:
        x = block(x, visible)
    torch.testing.assert_close(shorter(ids), model.head(model.ln_f(x)))
    with torch.no_grad():
        shorter.h[0].mlp.c_fc.weight.add_(1)  # a copy: the model keeps its weights
        shorter.wte.weight.add_(1)
    assert all(torch.equal(model.state_dict()[n], w) for n, w in before.items())
    assert without_last(model.train(), gone).training


@pytest.mark.parametrize("gone", [-1, 3, 4])
def test_not_all_layers_and_no_negative_number(gone):
    with pytest.raises(ValueError, match=f"of 3 layers 0 to 2 can be removed, not {gone}"):
        without_last(tiny.gpt(n_layer=3), gone)


def test_its_own_head_begins_as_the_old_one_and_learns_alone():
    texts = documents([5, 9, 4, 7])
    model = tiny.gpt(vocab_size=506, scale=0.05)
    own = OwnHead(model)
    rows = Rows.padded(texts)
    for batch in ForwardBackward(direction_tokens=False).passes(rows, chance()):
        torch.testing.assert_close(own.answers(batch), model.answers(batch))
    before = {name: weight.clone() for name, weight in own.state_dict().items()}
    learning = {name for name, p in own.named_parameters() if p.requires_grad}
    assert learning == {"ln_f.weight", "ln_f.bias", "lm_head.weight"}
    objective = ForwardBackward(1.0, direction_tokens=False)
    history = fit(own, objective, texts, 60, batch=4, learning_rate=3e-2, progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]
    moved = {n for n, weight in own.state_dict().items() if not torch.equal(weight, before[n])}
    assert moved == learning
    again = OwnHead(model)  # the model itself has not moved
    for batch in objective.passes(rows, chance()):
        torch.testing.assert_close(again.answers(batch), model.answers(batch))
    assert all(p.requires_grad for p in model.parameters())
