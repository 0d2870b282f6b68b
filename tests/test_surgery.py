"""A larger vocabulary: the old model is still there, and it goes on learning."""

import pytest
import tiny
import torch
from test_objectives import documents

from mylib.masks import bidirectional, causal
from mylib.objectives import MaskedLM, NextToken
from mylib.surgery import with_vocabulary
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
