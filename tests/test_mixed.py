"""Several objectives over one set of weights: each keeps its own layout and its own loss."""

import pytest
import tiny
import torch
from test_objectives import LONG, SHORT, documents, text
from test_train import TEXTS, fresh, same, trained

from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import bidirectional, causal
from mylib.objectives import Denoising, ForwardBackward, Mixed, NextToken, PreviousToken, Rows
from mylib.tokenizer import BOS, EOS, MASK, PAD
from mylib.train import evaluate

NOISE = torch.Generator()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


class Times(NextToken):
    """The same question with another loss."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def nll(self, logits, batch):
        return self.factor * super().nll(logits, batch)


def logits_for(batch, seed=1):
    return torch.randn(*batch.inputs.shape, 506, generator=chance(seed))


# -- batches -----------------------------------------------------------------------------------


def test_each_part_reads_in_its_own_layout():
    mixed = Mixed(NextToken(), Denoising(), PreviousToken())
    rows = mixed.rows([LONG, SHORT], 7)
    assert rows.tokens.tolist() == [[BOS, 7, 8, 9, EOS, PAD, PAD], [BOS, 6, EOS, *[PAD] * 4]]
    assert not rows.valid.all()
    forward, page, backward = mixed.passes(rows, chance())
    for batch in (forward, backward):
        assert batch.asked.sum() == 4 + 2 and PAD not in batch.targets
    assert page.asked.all() and page.inputs.shape == (2, 7) and page.mask is bidirectional
    assert page.positions.tolist() == [[*range(7)]] * 2
    assert forward.mask is causal


def same_batch(one, two):
    names = ("inputs", "positions", "asked", "targets", "weights", "source", "shown", "copied")
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)


def test_passes_and_make_are_those_of_the_parts_in_their_order():
    texts = documents([9, 4, 7])
    parts = (ForwardBackward(p_bw=0.0), Denoising(), ForwardBackward(p_bw=1.0))
    mixed, rows = Mixed(*parts), Rows.padded(texts, 12)
    for method, owners in [("passes", [0, 0, 1, 2, 2]), ("make", [0, 1, 2, 2])]:
        found = getattr(mixed, method)(rows, chance(3))
        one = chance(3)  # all parts draw from one generator
        wanted = [
            batch
            for part, own in zip(parts, (rows, rows.canvas, rows), strict=True)
            for batch in getattr(part, method)(own, one)
        ]
        assert [batch.owner for batch in found] == owners
        assert len(wanted) == len(found) and all(map(same_batch, found, wanted))
        assert [b.denominator for b in found] == [b.denominator for b in wanted]


def test_a_mix_of_mixes_is_one_mix():
    inner = Mixed(NextToken(), Denoising())
    outer = Mixed(inner, PreviousToken())
    assert outer.parts == (*inner.parts, outer.parts[2])
    found = outer.passes(Rows.padded([LONG, SHORT]), chance())
    assert [batch.owner for batch in found] == [0, 1, 2]


def test_packed_rows_are_for_parts_that_take_them():
    rows = Rows.packed([LONG, SHORT], 9)
    found = Mixed(NextToken(), PreviousToken()).passes(rows, NOISE)
    wanted = (*NextToken().passes(rows, NOISE), *PreviousToken().passes(rows, NOISE))
    assert all(map(same_batch, found, wanted))
    with pytest.raises(ValueError, match="a canvas holds one"):
        Mixed(NextToken(), Denoising()).passes(rows, NOISE)


# -- losses ------------------------------------------------------------------------------------


def test_each_batch_has_the_loss_of_its_own_part():
    parts = (Times(1), Times(3), Times(10))
    mixed = Mixed(*parts)
    batches = mixed.passes(Rows.padded([LONG, SHORT]), NOISE)
    losses, nlls = [], []
    for batch in batches:
        losses.append(mixed.loss(logits_for(batch), batch).item())
        nlls.append(mixed.nll(logits_for(batch), batch).sum().item())
    assert losses == pytest.approx([losses[0], 3 * losses[0], 10 * losses[0]]) == nlls


def test_a_denoising_part_keeps_its_discounts_and_no_other_gets_them():
    # A word follows itself, so that input and target of the forward pass are equal there.
    rows = Rows.padded([text(BOS, *[7] * 30, EOS)] * 8, 34)
    gentle = Denoising(keep_mask=0.1, mask_correct=0.2)
    mixed = Mixed(NextToken(), gentle, Denoising())
    forward, page, other = mixed.passes(rows, chance())
    for batch, part in [(forward, NextToken()), (page, gentle), (other, Denoising())]:
        logits = logits_for(batch)
        logits[..., MASK] = 9.0  # always the likeliest
        found = mixed.loss(logits, batch)
        assert torch.equal(found, part.loss(logits, batch))
        plain = mixed.nll(logits, batch).sum()
        if batch is forward:
            assert torch.equal(found, plain)
        else:
            assert found < 0.7 * plain


def test_a_part_of_a_batch_and_a_moved_batch_keep_their_owner():
    mixed = Mixed(NextToken(), Denoising())
    for batch in mixed.passes(Rows.padded(documents([9, 4, 7]), 12), chance()):
        for moved in (batch.to("cpu"), batch.take(slice(1, 3)), batch.take(slice(0, 1)).to("cpu")):
            assert moved.owner == batch.owner and moved is not batch
        logits = logits_for(batch)
        logits[..., MASK] = 5.0
        whole = mixed.loss(logits, batch)
        pieces = [slice(0, 1), slice(1, 3)]
        total = sum(mixed.loss(logits[piece], batch.take(piece)) for piece in pieces)
        torch.testing.assert_close(total, whole)


# -- leaks and settings ------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_every_pass_of_every_part_is_certified(layers):
    texts = Gazette.load().sample(8, chance())
    answers = sum(len(each) - 1 for each in texts)
    mixed = Mixed(ForwardBackward(p_bw=0.0), Denoising())
    found = certificate(mixed, mixed.rows(texts, 34), layers, chance(1))
    assert found.sound and found.asked == 2 * answers + 8 * 34 and found.copies > 0
    leaky = Mixed(Denoising(), NextToken(bidirectional))
    found = certificate(leaky, leaky.rows(texts, 34), layers)
    assert {leak.batch for leak in found.leaks} == {1}


def test_length_is_given_as_soon_as_one_part_is_told():
    assert Mixed(NextToken(), Denoising()).length == "free"
    assert Mixed(PreviousToken()).length == "free"
    assert Mixed(NextToken(), PreviousToken("start"), Denoising()).length == "given"
    assert Mixed(NextToken(), Denoising()).layout == "padded"
    assert Mixed(NextToken(), PreviousToken()).layout == "packed"


def test_name_says_the_parts_in_their_order():
    mixed = Mixed(ForwardBackward(p_bw=1.0), Denoising(replacements=range(6, 9)))
    assert repr(mixed) == (
        "Mixed(ForwardBackward(p_bw=1.0, direction_tokens=True, either=False), "
        "Denoising(keep_mask=0.25, mask_correct=0.5, rates='total', replacements=range(6, 9)))"
    )


def test_what_cannot_be_mixed():
    with pytest.raises(ValueError, match="at least one objective"):
        Mixed()
    with pytest.raises(TypeError, match="one by one, not list"):
        Mixed([NextToken(), Denoising()])
    with pytest.raises(TypeError, match="one by one, not type"):
        Mixed(NextToken(), Denoising)


# -- training and evaluation -------------------------------------------------------------------


def test_evaluate_adds_the_parts():
    model, both = tiny.gpt(vocab_size=506), Mixed(NextToken(), PreviousToken())
    one_way = evaluate(model, NextToken(), TEXTS) + evaluate(model, PreviousToken(), TEXTS)
    torch.testing.assert_close(evaluate(model, both, TEXTS), one_way)
    found = evaluate(model, Mixed(NextToken(), Denoising()), TEXTS, chance(4), row=12)
    assert found.shape == (7,)
    (page,) = Denoising().passes(Rows.padded(TEXTS, 12).canvas, chance(4))
    nll = Denoising().nll(model(page.inputs, page.mask, page.positions), page)
    repaired = nll.view(7, -1).double().sum(1)
    torch.testing.assert_close(found, evaluate(model, NextToken(), TEXTS) + repaired)
    alone = evaluate(model, Denoising(), TEXTS, chance(4), row=12)
    torch.testing.assert_close(alone, repaired)
    for objective in (Denoising(), Mixed(NextToken(), Denoising())):
        with pytest.raises(ValueError, match=r"how many tokens it has \(row=\)"):
            evaluate(model, objective, TEXTS)


def test_a_run_resumes_to_the_same_weights(tmp_path):
    mixed = Mixed(ForwardBackward(), Denoising())
    whole, history = trained(mixed, steps=3)
    assert not same(whole, fresh()) and len(history.loss) == 3

    def die(step, model):
        if step == 2:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(mixed, steps=3, checkpoint=path, save_every=1, on_step=die)
    resumed, again = trained(mixed, steps=3, checkpoint=path, save_every=1)
    assert same(whole, resumed) and again == history
    other = Mixed(ForwardBackward(), Denoising(keep_mask=0.5))
    with pytest.raises(ValueError, match=r"objective was .*keep_mask=0\.25.*now .*keep_mask=0\.5"):
        trained(other, steps=3, checkpoint=path)
    sliced, _ = trained(mixed, steps=3, accumulate=3)
    for p, q in zip(whole.parameters(), sliced.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_the_training_loss_is_the_sum_over_the_parts():
    _, history = trained(Mixed(NextToken(), PreviousToken()), steps=1)
    _, forward = trained(NextToken(), steps=1)
    _, backward = trained(PreviousToken(), steps=1)
    assert history.loss[0] == pytest.approx(forward.loss[0] + backward.loss[0], rel=1e-5)
