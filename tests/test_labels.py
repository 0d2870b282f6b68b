"""Tags, spans and classes: documents that carry their labels, and the losses of them."""

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib.evaluation import evaluate, predict
from mylib.gazette import Gazette
from mylib.grammar import TAGS
from mylib.heads import SequenceClassifier, SpanExtractor, TokenClassifier
from mylib.leaks import certificate
from mylib.masks import bidirectional, causal, dense
from mylib.model import GPT, GPTConfig
from mylib.objectives import Answering, Asking, Classifying, Labelled, Tagged, Tagging
from mylib.tasks import asking, tagged_documents
from mylib.tokenizer import BOS, EOS, PAD
from mylib.train import fit

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

GAZETTE = Gazette.load()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def ints(*values):
    return torch.tensor(values, dtype=torch.long)


def bools(*values):
    return torch.tensor(values).bool()


def batch_of(objective, documents):
    (batch,) = objective.passes(objective.alone(documents), chance())
    return batch


LONG = Tagged(ints(BOS, 7, 8, 9, 10, EOS), ints(2, 0, 1), ints(1, 2, 4), ints(1, 3, 4))
SHORT = Tagged(ints(BOS, 6, EOS), ints(5), ints(1), ints(1))
WHERE = Asking(ints(BOS, 5, 6, 7, 8, EOS), bools(0, 0, 1, 1, 1, 0), 5, (2, 3))
ONE = Asking(ints(BOS, 9, EOS), bools(0, 1, 0), 2, (1, 1))
NONE = Asking(ints(BOS, 9, 8, EOS), bools(0, 1, 1, 0), 3, None)


# -- documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "first", "last", "message"),
    [
        ([0, 0], [1], [1], "2 tags for 1 first and 1 last"),
        ([0], [1, 2], [1, 2], "1 tags for 2 first"),
        ([0, 0], [1, 2], [2], "2 tags for 2 first and 1 last"),
        ([0], [2], [1], "from first to last token within 4 tokens"),
        ([0], [1], [4], "within 4 tokens"),
        ([0], [-1], [1], "within 4 tokens"),
        ([0], [-2], [-1], "within 4 tokens"),
        ([0, 0], [2, 1], [2, 1], "words stand in order"),
        ([0, 0], [1, 1], [1, 2], "words stand in order"),
        ([0, 0], [1, 2], [2, 2], "words stand in order"),
        ([-100], [1], [1], "tags are numbers from 0 on"),
        ([0, -1], [1, 2], [1, 2], "tags are numbers from 0 on"),
    ],
)
def test_labels_that_do_not_match_the_words(tags, first, last, message):
    with pytest.raises(ValueError, match=message):
        Tagged(ints(BOS, 7, 8, EOS), ints(*tags), ints(*first), ints(*last))


@pytest.mark.parametrize(
    ("candidates", "null", "answer", "message"),
    [
        ([0, 1, 1], 3, None, r"bool like ids \(4,\)"),
        ([[0, 1, 1, 0]], 3, None, "bool like ids"),
        ([0, 1, 1, 0], 4, None, "null is a token"),
        ([0, 1, 1, 0], -1, None, "null is a token"),
        ([0, 1, 1, 0], 2, None, "null is a token"),
        ([0, 1, 1, 0], 3, (2, 1), r"answer \(2, 1\) does not lie within"),
        ([0, 1, 1, 0], 3, (1, 4), "does not lie within"),
        ([0, 1, 1, 0], 3, (-1, 1), "does not lie within"),
        ([0, 1, 1, 0], 3, (0, 1), r"within the text, tokens \[1, 2\]"),
        ([0, 1, 1, 0], 3, (2, 3), "does not lie within"),
        ([1, 0, 1, 0], 3, (0, 2), "does not lie within"),  # across a gap
        ([0, 1, 1, 0], 3, (3, 3), "does not lie within"),  # the null is no answer
    ],
)
def test_spans_outside_the_context(candidates, null, answer, message):
    with pytest.raises(ValueError, match=message):
        Asking(ints(BOS, 7, 8, EOS), bools(*candidates), null, answer)


def test_candidates_are_bool_and_classes_are_numbers():
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        Asking(ints(BOS, 7, EOS), ints(0, 1, 0), 2, None)
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        Labelled(ints(BOS, EOS), -1)
    with pytest.raises(ValueError, match="'middle'"):
        Tagging(ask="middle")


def test_reading_twice_asks_in_the_second_reading():
    again = LONG.twice()
    assert again.ids.tolist() == [BOS, 7, 8, 9, 10, EOS, 7, 8, 9, 10, EOS]
    assert torch.equal(again.tags, LONG.tags)
    for name in ("first", "last"):
        assert torch.equal(again.ids[getattr(again, name)], LONG.ids[getattr(LONG, name)])
        assert (getattr(again, name) > 5).all()
    asked = WHERE.twice()
    assert asked.ids.tolist() == [BOS, 5, 6, 7, 8, EOS, 5, 6, 7, 8, EOS]
    assert asked.answer == (7, 8) and asked.null == 10
    assert asked.candidates.nonzero()[:, 0].tolist() == [7, 8, 9]
    assert NONE.twice().answer is None


@pytest.mark.parametrize(
    ("objective", "document"),
    [(Tagging(), LONG), (Answering(), WHERE), (Classifying(), Labelled(LONG.ids, 1))],
    ids=["tags", "spans", "classes"],
)
def test_a_text_longer_than_the_row_or_the_window_is_refused(objective, document):
    rows = objective.rows([document], 6)
    assert rows.rows.tokens.shape == (1, 6)
    with pytest.raises(ValueError, match="a text of 6 tokens does not fit rows of 5"):
        objective.rows([document], 5)
    with pytest.raises(ValueError, match="no documents"):
        objective.alone([])
    head = {
        Tagging: lambda base: TokenClassifier(base, "abcdef", chance()),
        Answering: lambda base: SpanExtractor(base, chance()),
        Classifying: lambda base: SequenceClassifier(base, 2, chance()),
    }[type(objective)](tiny.gpt(n_positions=5))
    with pytest.raises(ValueError, match=r"5 positions \(n_positions\), asked for 0\.\.5"):
        evaluate(head, objective, [document])
    with pytest.raises(ValueError, match="a text of 6 tokens"):
        fit(head, objective, [document], 1, batch=1, progress=False)


# -- batches -----------------------------------------------------------------------------------


def test_words_are_asked_at_their_first_or_last_token():
    for ask, places in [("first", [1, 2, 4]), ("last", [1, 3, 4])]:
        batch = batch_of(Tagging(ask=ask), [SHORT, LONG, SHORT])
        assert batch.inputs.tolist()[0] == [BOS, 6, EOS, PAD, PAD, PAD]
        assert batch.asked[1].nonzero()[:, 0].tolist() == places
        assert batch.asked[0].nonzero()[:, 0].tolist() == [1]
        assert batch.targets.tolist() == [5, 2, 0, 1, 5]
        assert batch.denominator == 5 and batch.weights.tolist() == [1] * 5
        assert batch.source.tolist() == [-1] * 5 and not batch.copied.any()
        assert batch.shown[0].tolist() == [0, 1, 2, -1, -1, -1]
        assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 0], [*range(6)], [0, 1, 2, 0, 0, 0]]
        assert dense(batch.mask, 6)[0, 0, 0].int().tolist() == [1, 1, 1, 0, 0, 0]
    assert Tagging().ask == "last" and "bidirectional" in repr(Tagging())
    seen = dense(batch_of(Tagging(causal), [LONG, SHORT]).mask, 6)[:, 0]
    assert torch.equal(seen[0], torch.ones(6, 6).tril().bool())
    assert torch.equal(seen[1, :, 3:], torch.zeros(6, 3).bool())


def test_candidates_and_the_null_are_asked():
    batch = batch_of(Answering(), [WHERE, ONE, NONE])
    assert batch.asked.int().tolist() == [
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
    ]
    assert batch.targets.tolist() == [1, 2, 0, 0, 3, 0, 0, 0, 3]
    assert batch.denominator == 3


def test_a_text_is_classified_once_at_its_end():
    texts = [Labelled(ints(BOS, 7, 8, EOS), 1), Labelled(ints(BOS, EOS), 0)]
    batch = batch_of(Classifying(), texts)
    assert batch.asked.int().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert batch.targets.tolist() == [1, 0] and batch.denominator == 2


@pytest.mark.parametrize("mask", [bidirectional, causal], ids=lambda mask: mask.name)
def test_no_choice_of_mask_is_a_leak(mask):
    for objective, texts in [
        (Tagging(mask), [LONG, SHORT]),
        (Answering(mask), [WHERE, NONE]),
        (Classifying(mask), [Labelled(LONG.ids, 1)]),
    ]:
        found = certificate(objective, objective.alone(texts), 3)
        assert found.sound and found.copies == 0 and found.asked > 0


def test_parts_of_a_batch_are_batches_of_their_documents():
    for objective, texts, outputs in [
        (Tagging(), [LONG, SHORT, LONG], 6),
        (Answering(), [WHERE, NONE, ONE], 2),
        (Classifying(), [Labelled(LONG.ids, 1), Labelled(SHORT.ids, 0)], 2),
    ]:
        batch = batch_of(objective, texts)
        logits = torch.randn(*batch.inputs.shape, outputs, generator=chance())
        whole = objective.nll(logits, batch)
        parts = []
        for i, one in enumerate(texts):
            part = batch.take(slice(i, i + 1))
            assert torch.equal(part.targets, batch_of(objective, [one]).targets)
            assert part.denominator == batch.denominator
            parts.append(objective.nll(logits[i : i + 1], part))
        torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("objective", "texts"),
    [(Tagging(), [LONG, SHORT]), (Classifying(), [Labelled(LONG.ids, 5)])],
)
def test_a_label_that_the_head_does_not_have_is_refused(objective, texts):
    batch = batch_of(objective, texts)
    assert objective.nll(torch.zeros(len(batch.targets), 6), batch).isfinite().all()
    with pytest.raises(ValueError, match="label 5 for a head of 5 outputs"):
        objective.nll(torch.zeros(len(batch.targets), 5), batch)


# -- the loss of a span ------------------------------------------------------------------------


def by_hand(logits, document):
    """-log p(start) - log p(end) of one text, from its logits (T, 2), one token at a time."""
    may = [i for i in range(len(document.ids)) if document.candidates[i] or i == document.null]
    first, last = document.answer or (document.null, document.null)
    total = 0.0
    for column, place in ((0, first), (1, last)):
        scores = logits[may, column].double()
        total += float(scores.logsumexp(0) - logits[place, column].double())
    return total


@st.composite
def askings(draw):
    size = draw(st.integers(2, 9))
    null = draw(st.integers(0, size - 1))
    candidates = [draw(st.booleans()) and i != null for i in range(size)]
    runs = [
        (a, b) for a in range(size) for b in range(a, size) if all(candidates[a : b + 1])
    ]  # fmt: skip
    answer = draw(st.sampled_from([None, *runs]))
    return Asking(torch.arange(6, 6 + size), bools(*candidates), null, answer)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(st.lists(askings(), min_size=1, max_size=4), st.integers(0, 99))
def test_the_loss_of_a_span_is_two_cross_entropies(texts, seed):
    objective = Answering()
    batch = batch_of(objective, texts)
    logits = 3 * torch.randn(*batch.inputs.shape, 2, generator=chance(seed))
    nll = objective.nll(logits, batch)
    assert (nll >= 0).all()
    owner = batch.asked.nonzero()[:, 0]
    per_text = torch.zeros(len(texts)).index_add(0, owner, nll)
    wanted = torch.tensor([by_hand(logits[i], one) for i, one in enumerate(texts)])
    torch.testing.assert_close(per_text, wanted.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(nll, objective.nll(logits[batch.asked], batch))
    torch.testing.assert_close(objective.loss(logits, batch), wanted.float().sum())
    # What is not asked, pads among it, and a constant for a whole row change nothing.
    other = logits.clone()
    other[~batch.asked] = 77.0
    assert torch.equal(objective.nll(other, batch), nll)
    moved = logits + torch.randn(len(texts), 1, 2, generator=chance(seed))
    torch.testing.assert_close(objective.nll(moved, batch), nll, rtol=1e-4, atol=1e-4)


def test_a_token_that_is_ruled_out_costs_nothing_elsewhere():
    batch = batch_of(Answering(), [WHERE])
    logits = torch.zeros(1, 6, 2, requires_grad=True)
    closed = torch.zeros(1, 6, 2)
    closed[0, 4] = -torch.inf
    nll = Answering().nll(logits + closed, batch)
    assert nll.tolist() == pytest.approx([torch.tensor(3.0).log().item()] * 2 + [0.0, 0.0])
    nll.sum().backward()
    assert logits.grad.isfinite().all()


def test_half_precision_is_counted_in_float():
    batch = batch_of(Answering(), [WHERE, NONE])
    logits = torch.randn(2, 6, 2, generator=chance()).bfloat16()
    nll = Answering().nll(logits, batch)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, Answering().nll(logits.float(), batch))


# -- training ----------------------------------------------------------------------------------


def base(**sizes):
    sizes = {"n_positions": 48, "n_embd": 32, "n_layer": 1, "n_head": 2} | sizes
    return GPT.init(GPTConfig(GAZETTE.vocab_size, **sizes), chance(1))


def tasks():
    texts = GAZETTE.sample(200, chance(3))
    tagged = tagged_documents(GAZETTE, texts)
    questions = [asking(each) for each in GAZETTE.questions(200, chance(4))]
    labelled = [Labelled(text, int(len(text) > 20)) for text in texts]
    return {
        "tags": (Tagging(), tagged, lambda: TokenClassifier(base(), TAGS, chance(2))),
        "spans": (Answering(), questions, lambda: SpanExtractor(base(), chance(2))),
        "classes": (Classifying(), labelled, lambda: SequenceClassifier(base(), 2, chance(2))),
    }


@pytest.fixture(scope="module")
def every_task():
    return tasks()


@pytest.mark.parametrize("name", ["tags", "spans", "classes"])
def test_fit_learns_in_slices_and_after_a_stop(every_task, name, tmp_path):
    objective, texts, make = every_task[name]
    settings = dict(batch=16, learning_rate=1e-2, progress=False)
    model = make()
    history = fit(model, objective, texts, 40, **settings)
    assert sum(history.loss[-5:]) / 5 < 0.75 * history.loss[0]
    start = evaluate(make(), objective, texts[:50]).sum()
    assert evaluate(model, objective, texts[:50]).sum() < 0.75 * start
    # The loss of evaluate is the loss of the objective.
    batch = batch_of(objective, texts[:50])
    with torch.no_grad():
        loss = objective.loss(model.answers(batch), batch)
    assert float(evaluate(model, objective, texts[:50]).sum()) == pytest.approx(float(loss), 1e-4)
    # Slices, and a run that is stopped and taken up again.
    sliced = fit(make(), objective, texts, 3, **settings | dict(accumulate=5, warmup=0.0))
    whole = fit(make(), objective, texts, 3, **settings | dict(warmup=0.0))
    assert sliced.loss == pytest.approx(whole.loss, rel=1e-3)

    class Stop(Exception):
        pass

    def stop(step, model):
        if step == 2:
            raise Stop

    keep = settings | dict(checkpoint=tmp_path / "run.safetensors", save_every=2, warmup=0.0)
    with pytest.raises(Stop):
        fit(make(), objective, texts, 3, on_step=stop, **keep)
    resumed = make()
    assert fit(resumed, objective, texts, 3, **keep).loss == whole.loss
    unbroken = make()
    fit(unbroken, objective, texts, 3, **settings | dict(warmup=0.0))
    assert all(map(torch.equal, resumed.parameters(), unbroken.parameters()))


def test_predictions_come_in_the_order_of_the_words(every_task):
    objective, texts, make = every_task["tags"]
    found = predict(make(), objective, texts[:7], batch=3)
    assert [len(each) for each in found] == [len(text.tags) for text in texts[:7]]
