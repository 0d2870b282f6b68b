"""The floor of a masked model: every document written out is the reference."""

from dataclasses import replace

import brute
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib import masks
from mylib.evaluation import evaluate
from mylib.floors import answer_counts, answer_floor, bound_gap, excess_per_answer
from mylib.gazette import Gazette
from mylib.metrics import paired_excess
from mylib.objectives import (
    AbsorbingDiffusion,
    Labelled,
    MaskedLM,
    NextMasked,
    NextToken,
    Rows,
    Tagging,
)
from mylib.objectives.labels import Classifying
from mylib.tasks import tagged_documents
from mylib.tokenizer import BOS, EOS

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

HIDE = (1, 0, 0)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


GAZETTE = Gazette.load()
TEXTS = GAZETTE.sample(100, chance(1))


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(brute.grammars(), st.sampled_from([0.3, 0.7, 1.0]), st.integers(0, 999))
def test_it_is_what_all_documents_say(press, raw, rate, seed):
    gazette, every = press(raw)
    picked = torch.randint(len(every.ids), (5,), generator=chance(seed))
    texts = [row[: int((row == EOS).nonzero()[0]) + 1] for row in every.ids[picked]]
    rows = Rows.padded(texts)
    (batch,) = MaskedLM(rate, HIDE).passes(rows, chance(seed))
    found = answer_floor(gazette, batch)
    assert found.dtype == torch.float64 and len(found) == len(batch.targets)
    wanted = []
    for b, text in enumerate(texts):
        shown = ~batch.asked[b, : len(text)]
        spread, _ = every.posterior(text, shown)
        wanted += [spread[i, text[i]] for i in batch.asked[b].nonzero()[:, 0].tolist()]
    torch.testing.assert_close((-found).exp(), torch.stack(wanted), rtol=0, atol=1e-9)
    # Kept words are shown: they cost nothing, and tell their neighbours what they are.
    (some,) = MaskedLM(rate, (0.5, 0, 0.5)).passes(rows, chance(seed))
    floor = answer_floor(gazette, some)
    assert floor[some.copied].abs().max() < 1e-9 if some.copied.any() else True
    assert (floor >= -1e-9).all() and floor.isfinite().all()


def test_the_next_place_has_the_same_floor():
    rows = Rows.padded(TEXTS)
    chosen = MaskedLM(0.3).choose(rows, chance())
    one = MaskedLM(0.3, HIDE).hide(rows, chosen, chance())
    ahead = NextMasked(0.3, HIDE).hide(rows, chosen, chance())
    assert torch.equal(one.targets, ahead.targets) and torch.equal(one.source, ahead.source)
    assert torch.equal(one.inputs, ahead.inputs) and not torch.equal(one.asked, ahead.asked)
    floor = answer_floor(GAZETTE, one)
    assert torch.equal(floor, answer_floor(GAZETTE, ahead))
    assert floor.sum() > 10
    # 100 rows are two calls of the oracle; each row by itself is the same.
    parts = [answer_floor(GAZETTE, one.take(slice(i, i + 1))) for i in (0, 63, 64, 99)]
    owner = one.asked.nonzero()[:, 0]
    for i, part in zip((0, 63, 64, 99), parts, strict=True):
        torch.testing.assert_close(part, floor[owner == i])


def test_more_words_hidden_cost_more_in_all():
    """Chain rule: all words of a document hidden together cost at least what each costs alone."""
    rows = Rows.padded(TEXTS[:30])
    few = MaskedLM(0.15, HIDE)
    chosen = few.choose(rows, chance())
    every = few.eligible(rows)
    first = few.hide(rows, chosen, chance())
    whole = few.hide(rows, every, chance())
    of_chosen = answer_floor(GAZETTE, whole)[chosen[every]]
    assert of_chosen.sum() > answer_floor(GAZETTE, first).sum()


def test_determined_words_cost_nothing():
    text = TEXTS[0]
    certain = 0
    for place in range(1, len(text) - 1):
        log_probs = GAZETTE.posterior(text[None], torch.arange(len(text))[None] != place).log_probs
        if log_probs[0, place].max() > -1e-12:
            chosen = (torch.arange(len(text)) == place)[None]
            batch = MaskedLM(split=HIDE).hide(Rows.padded([text]), chosen, chance())
            assert answer_floor(GAZETTE, batch).abs().max() < 1e-9
            certain += 1
    assert certain >= 3


def test_questions_it_has_no_answer_to():
    rows = Rows.padded(TEXTS[:5])
    (wrong,) = MaskedLM(1.0, (0.5, 0.5, 0)).passes(rows, chance())
    with pytest.raises(ValueError, match=r"input \d+ of row \d shows a word that does not stand"):
        answer_floor(GAZETTE, wrong)
    (other,) = MaskedLM(0.5, HIDE, mask_token=829).passes(rows, chance())
    with pytest.raises(ValueError, match="shows a word that does not stand there"):
        answer_floor(GAZETTE, other)
    tagged = tagged_documents(GAZETTE, TEXTS[:3])
    for objective, texts in [
        (Tagging(), tagged),
        (Classifying(), [Labelled(text, 0) for text in TEXTS[:3]]),
    ]:
        (batch,) = objective.passes(objective.alone(texts), chance())
        with pytest.raises(ValueError, match="no clean words"):
            answer_floor(GAZETTE, batch)


@pytest.mark.parametrize(
    ("objective", "layout"),
    [
        (MaskedLM(0.3, HIDE, mask=masks.causal), "padded"),
        (MaskedLM(0.3, HIDE, mask=masks.sliding_window(2, 2)), "padded"),
        (MaskedLM(0.3, HIDE), "packed"),
        (NextToken(), "padded"),
    ],
    ids=["causal", "window", "packed", "next token"],
)
def test_a_reader_who_does_not_see_all_has_another_floor(objective, layout):
    rows = Rows.packed(TEXTS[:5], 64) if layout == "packed" else Rows.padded(TEXTS[:5])
    (batch,) = objective.passes(rows, chance())
    with pytest.raises(ValueError, match="hides words from outputs"):
        answer_floor(GAZETTE, batch)


def test_a_text_that_the_grammar_cannot_write_is_refused():
    foreign = torch.tensor([BOS, 20, 20, 20, EOS])
    (batch,) = MaskedLM(0.2, HIDE).passes(Rows.padded([*TEXTS[:70], foreign]), chance())
    with pytest.raises(ValueError, match="row 70 is no document of edition"):
        answer_floor(GAZETTE, batch)
    (batch,) = MaskedLM(0.2, HIDE).passes(Rows.padded(TEXTS[:3]), chance())
    with pytest.raises(ValueError, match="row 0 is no document"):  # a wrong word said to be right
        broken = batch.inputs.clone()
        broken[0, 0] = 20
        answer_floor(GAZETTE, replace(batch, inputs=broken))


def test_model_and_oracle_are_asked_the_same():
    model = tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=32, dropout=0.5).train()
    objective = MaskedLM(0.3, HIDE)
    counts = answer_counts(model, objective, TEXTS, chance(3), GAZETTE)
    assert model.training and counts.shape == (100, 3)
    nats = evaluate(model, objective, TEXTS, chance(3))  # dropout is off
    torch.testing.assert_close(counts[:, 1], nats, rtol=1e-4, atol=1e-4)
    noise, owner, floor = chance(3), [], []
    for start in range(0, 100, 64):
        (batch,) = objective.passes(Rows.padded(TEXTS[start : start + 64]), noise)
        owner.append(start + batch.asked.nonzero()[:, 0])
        floor.append(answer_floor(GAZETTE, batch))
    owner, floor = torch.cat(owner), torch.cat(floor)
    assert torch.equal(counts[:, 0], torch.bincount(owner, minlength=100).double())
    wanted = torch.zeros(100, dtype=torch.float64).index_add_(0, owner, floor)
    torch.testing.assert_close(counts[:, 2], wanted)
    excess = excess_per_answer(counts)
    answers, model_nats, oracle_nats = counts.sum(0).tolist()
    assert excess.mean == pytest.approx((model_nats - oracle_nats) / answers)
    assert excess.low < excess.mean < excess.high and excess.low > 0
    alone = answer_counts(model, objective, TEXTS, chance(3))
    assert torch.equal(alone[:, :2], counts[:, :2]) and not alone[:, 2].any()


class Oracle(torch.nn.Module):
    """The oracle where a network is expected, and how often it is asked in training mode."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def answers(self, batch):
        assert not self.training
        return GAZETTE.denoiser(batch.inputs)[batch.asked]


@pytest.mark.parametrize("hide", ["count", "each"])
def test_weights_count_for_model_and_oracle_alike(hide):
    model = tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=32)
    objective = AbsorbingDiffusion(hide)
    counts = answer_counts(model, objective, TEXTS[:70], chance(3), GAZETTE, row=32)
    noise, start = chance(3), 0
    for some in (TEXTS[:64], TEXTS[64:70]):  # 64 rows at once
        (batch,) = objective.passes(Rows.padded(some, 32).canvas, noise)
        with torch.no_grad():
            nats = objective.nll(model.answers(batch), batch)
        for row in range(len(some)):
            mine = batch.asked.nonzero()[:, 0] == row
            found = counts[start + row]
            assert found[0] == mine.sum()
            weights = batch.weights[mine].double()
            assert found[1].item() == pytest.approx((nats[mine] * weights).sum().item(), rel=1e-5)
            if mine.any():
                alone = answer_floor(GAZETTE, batch.take(slice(row, row + 1)))
                assert found[2].item() == pytest.approx((alone * weights).sum().item(), abs=1e-6)
        start += len(some)
    assert (counts[:, 1] > counts[:, 2]).sum() > 50 and counts.dtype == torch.float64


def test_a_perfect_reader_has_no_gap():
    counts = answer_counts(
        Oracle(), AbsorbingDiffusion(), TEXTS, chance(3), GAZETTE, row=GAZETTE.length
    )
    gap = bound_gap(counts)
    assert max(abs(side) for side in gap) < 1e-4
    # And its bound is the entropy: within the noise of what was hidden.
    error = counts[:, 2].std() / len(counts) ** 0.5
    assert abs(counts[:, 2].mean() - GAZETTE.entropy) < 4 * error and error < 2
    model = tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=32, scale=0.02)
    other = answer_counts(model, AbsorbingDiffusion(), TEXTS, chance(3), GAZETTE, row=32)
    assert torch.equal(other[:, 2], counts[:, 2])  # asked the same
    gap = bound_gap(other)
    assert gap == paired_excess(other[:, 1], other[:, 2])
    assert gap.mean == pytest.approx((other[:, 1] - other[:, 2]).mean().item()) and gap.low > 100


def test_a_canvas_needs_its_size():
    with pytest.raises(ValueError, match=r"say how many tokens it has \(row=\)"):
        answer_counts(Oracle(), AbsorbingDiffusion(), TEXTS[:2], chance(), GAZETTE)
    wide = answer_counts(Oracle(), AbsorbingDiffusion(), TEXTS[:5], chance(), GAZETTE, row=40)
    assert wide.isfinite().all()  # beyond the canvas there is only padding, and it costs nothing


def test_words_that_may_be_wrong_cost_the_oracle_next_to_nothing():
    """Chapter 04: one shown word in sixty is wrong, as 80/10/10 at 15 % has it."""
    gazette = Gazette.load("sunday")
    documents = gazette.sample(40, torch.Generator().manual_seed(0))
    (batch,) = MaskedLM(split=HIDE).passes(Rows.padded(documents), torch.Generator())
    visible = batch.shown >= 0
    owner = batch.asked.nonzero()[:, 0]
    nats = {}
    for noise in (0.0, 1 / 60, 0.9):
        log_probs = gazette.posterior(gazette.evidence(batch.inputs, visible, noise)).log_probs
        nats[noise] = float(-log_probs[owner, batch.source, batch.targets].mean())
    assert nats[0.0] == pytest.approx(float(answer_floor(gazette, batch).mean()))
    assert nats[0.0] - 1e-9 <= nats[1 / 60] < nats[0.0] + 1e-3
    assert nats[0.9] > nats[0.0] + 0.01  # the measure can tell
