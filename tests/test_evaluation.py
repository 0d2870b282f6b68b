"""Predictions in order and in size, and a model that is left as it was."""

import pytest
import tiny
import torch
from test_objectives import documents
from torch import nn

from mylib.evaluation import answer_nll, evaluate, predict
from mylib.heads import TokenClassifier
from mylib.objectives import (
    Denoising,
    ForwardBackward,
    MaskedLM,
    NextToken,
    Tagged,
    Tagging,
)

TEXTS = documents([9, 4, 7, 3, 5, 8, 6])


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def model(**sizes):
    return tiny.gpt(vocab_size=506, **sizes)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_predictions_are_the_asked_logits_in_order(batch):
    gpt = model()
    found = predict(gpt, NextToken(), TEXTS, batch=batch)
    assert [tuple(each.shape) for each in found] == [(len(text) - 1, 506) for text in TEXTS]
    for each, text in zip(found, TEXTS, strict=True):
        torch.testing.assert_close(each, gpt(text[None])[0, :-1].detach())
    nll = evaluate(gpt, NextToken(), TEXTS, batch=batch)
    for each, text, nats in zip(found, TEXTS, nll, strict=True):
        wanted = -each.log_softmax(-1)[torch.arange(len(text) - 1), text[1:]].sum()
        torch.testing.assert_close(nats.float(), wanted)
    assert not found[0].requires_grad and found[0].dtype == torch.float32
    assert predict(gpt, NextToken(), []) == [] and len(evaluate(gpt, NextToken(), [])) == 0


def test_documents_of_which_nothing_is_asked_have_their_place():
    no_words = Tagged(TEXTS[0], *[torch.tensor([]).long()] * 3)
    one = Tagged(TEXTS[1], torch.tensor([1]), torch.tensor([2]), torch.tensor([2]))
    head = TokenClassifier(model(), "ab", chance())
    found = predict(head, Tagging(), [no_words, one, no_words])
    assert [tuple(each.shape) for each in found] == [(0, 2), (1, 2), (0, 2)]
    assert evaluate(head, Tagging(), [no_words, one]).tolist()[0] == 0
    with pytest.raises(ValueError, match="nothing is asked"):
        predict(head, Tagging(), [no_words])


def test_several_passes_cannot_be_predicted():
    with pytest.raises(ValueError, match=r"ForwardBackward.* makes several passes"):
        predict(model(), ForwardBackward(), TEXTS)
    both = ForwardBackward().passes(ForwardBackward().alone(TEXTS), chance())
    gpt = model()
    total = sum(float((answer_nll(gpt, ForwardBackward(), each) * each.weights).sum())
                for each in both)  # fmt: skip
    found = evaluate(gpt, ForwardBackward(), TEXTS, batch=3)
    assert float(found.sum()) == pytest.approx(total, rel=1e-5)


def test_rows_for_a_canvas_and_noise_from_a_generator():
    with pytest.raises(ValueError, match="works on a canvas"):
        predict(model(), Denoising(), TEXTS)
    found = predict(model(), Denoising(), TEXTS, row=12)
    assert [len(each) for each in found] == [12] * len(TEXTS)
    one, same, other = (predict(model(), MaskedLM(0.5), TEXTS, chance(s)) for s in (1, 1, 2))
    assert all(map(torch.equal, one, same))
    assert [len(each) for each in one] != [len(each) for each in other]
    plain = predict(model(), MaskedLM(0.5), TEXTS)
    assert all(map(torch.equal, plain, predict(model(), MaskedLM(0.5), TEXTS)))
    nll = evaluate(model(), MaskedLM(0.5), TEXTS, chance(1))
    batches = MaskedLM(0.5).passes(MaskedLM().alone(TEXTS), chance(1))
    by_hand = MaskedLM().loss(torch.cat(one), batches[0])
    assert float(nll.sum()) == pytest.approx(float(by_hand), rel=1e-5)


class Fails(nn.Module):
    """A model that counts to a certain call and gives up."""

    def __init__(self, calls):
        super().__init__()
        self.gpt, self.calls, self.seen = model(dropout=0.5), calls, []

    def answers(self, batch):
        self.seen.append((self.training, self.gpt.h[0].training, torch.is_grad_enabled()))
        if len(self.seen) > self.calls:
            raise RuntimeError("out of memory")
        return self.gpt.answers(batch)


@pytest.mark.parametrize("ask", [predict, evaluate])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("calls", [0, 1, 99])
def test_every_module_is_left_in_its_own_mode(ask, training, calls):
    fails = Fails(calls).train(training)
    fails.gpt.h[0].eval()  # frozen, whatever the rest does
    modes = [module.training for module in fails.modules()]
    if calls == 99:
        ask(fails, NextToken(), TEXTS, batch=3)
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            ask(fails, NextToken(), TEXTS, batch=3)
    assert [module.training for module in fails.modules()] == modes
    assert set(fails.seen) == {(False, False, False)}
    assert torch.is_grad_enabled()


def test_the_mode_is_put_back_after_bad_rows_and_several_passes_too():
    gpt = model(dropout=0.5).train()
    for objective, options in [
        (Denoising(), {}),
        (ForwardBackward(), {}),
        (NextToken(), {"row": 4}),
    ]:
        with pytest.raises(ValueError, match=r"canvas|several|does not fit"):
            predict(gpt, objective, TEXTS, **options)
        assert gpt.training
    assert torch.equal(evaluate(gpt, NextToken(), TEXTS), evaluate(gpt, NextToken(), TEXTS))
