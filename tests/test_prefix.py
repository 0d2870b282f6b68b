"""A prefix that is given and the rest that is asked: batches, floors, leaks."""

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objectives import documents

from mylib.evaluation import answer_nll, evaluate
from mylib.floors import answer_counts, excess_per_answer, left_floor
from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import causal, dense, prefix_lm
from mylib.metrics import paired_excess
from mylib.model import GPT, GPTConfig
from mylib.objectives import MaskedLM, NextToken, PrefixLM, PreviousToken, Rows
from mylib.tokenizer import EOS, PAD
from mylib.train import fit


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


GAZETTE = Gazette.load()
TEXTS = GAZETTE.sample(40, chance(1))
SIZES = st.lists(st.integers(2, 12), min_size=1, max_size=6)


def given_tokens(batch, rows):
    """Tokens of each document that stand before its first answer: {(row, document): number}."""
    found = {}
    for b, i in batch.asked.nonzero().tolist():
        key = (b, int(rows.document[b, i]))
        found.setdefault(key, int(rows.position[b, i]) + 1)
    return found


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 999), st.booleans())
def test_every_word_after_the_prefix_is_asked_once(sizes, seed, packed):
    texts = documents(sizes, seed)
    objective = PrefixLM()
    rows = objective.rows(texts, 24) if packed else objective.alone(texts)
    (batch,) = objective.passes(rows, chance(seed))
    for b, i in batch.asked.nonzero().tolist():
        assert rows.document[b, i] == rows.document[b, i + 1] >= 0
    owner, output = batch.asked.nonzero(as_tuple=True)
    assert torch.equal(batch.source, output + 1)
    assert torch.equal(batch.targets, rows.tokens[owner, output + 1])
    assert (batch.weights == 1).all() and batch.denominator == len(owner)
    first = given_tokens(batch, rows)
    assert len(first) == len(texts)  # every document answers at least once ...
    for (b, number), prefix in first.items():
        mine = (rows.document[b] == number).nonzero()[:, 0]
        assert 1 <= prefix < len(mine)
        asked = batch.asked[b, mine[:-1]]  # ... and at every place from there on
        assert torch.equal(asked, torch.arange(len(mine) - 1) >= prefix - 1)
    # Each document by itself is a prefix-LM, and nobody sees another.
    seen = dense(batch.mask, batch.inputs.shape[1], batch=len(rows.tokens))[:, 0]
    for (b, number), prefix in first.items():
        here = (rows.document[b, :-1] == number) & (rows.document[b, 1:] == number)
        mine = here.nonzero()[:, 0]
        assert torch.equal(seen[b][mine][:, mine], dense(prefix_lm(prefix), len(mine))[0, 0])
        assert not seen[b][mine][:, ~here].any()
    assert (batch.inputs[batch.shown < 0] == PAD).all()
    for layers in (1, 2, 5):
        assert certificate(objective, rows, layers, chance(seed)).sound


def test_the_cut_is_uniform_and_new_at_every_step():
    text = documents([6])
    rows = PrefixLM().alone(text * 1)
    noise, counts = chance(), torch.zeros(7)
    for _ in range(2000):
        (batch,) = PrefixLM().passes(rows, noise)
        counts[given_tokens(batch, rows)[0, 0]] += 1
    assert counts[0] == counts[6] == 0  # <bos> is always given, one word is always asked
    assert ((counts[1:6] - 400).abs() < 80).all()  # four standard deviations
    # Documents of a packed row are cut each by itself.
    both = PrefixLM().rows(documents([6, 6]), 12)
    pairs = {
        tuple(given_tokens(PrefixLM().passes(both, noise)[0], both).values()) for _ in range(400)
    }
    assert len(pairs) == 25


@pytest.mark.parametrize("packed", [False, True])
def test_a_prefix_of_none_or_of_bos_is_next_token(packed):
    texts = documents([5, 9, 3])
    rows = NextToken().rows(texts, 20) if packed else Rows.padded(texts)
    (plain,) = NextToken().passes(rows, chance())
    for prefix in (0, 1):
        (batch,) = PrefixLM(prefix).passes(rows, chance())
        for name in ("inputs", "positions", "asked", "targets", "source", "shown"):
            assert torch.equal(getattr(batch, name), getattr(plain, name)), name
        size = batch.inputs.shape[1]
        seen, wanted = (dense(m.mask, size, batch=len(rows.tokens)) for m in (batch, plain))
        real = (batch.shown >= 0)[:, None, :, None]
        assert torch.equal(seen & real, wanted & real & real.mT)


def test_after_a_token():
    a, b, stop = 7, 8, 9
    texts = [torch.tensor(t) for t in ([1, a, stop, b, stop, 2], [1, a, b, 2], [1, a, a, stop])]
    for rows in (Rows.padded(texts), Rows.packed(texts, 14)):
        (batch,) = PrefixLM(after=stop).passes(rows, chance())
        # The first alone has something after its first stop; the others ask nothing.
        assert batch.targets.tolist() == [b, stop, 2]
        assert rows.position[:, :-1][batch.asked].tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="nothing is asked"):
        PrefixLM(after=stop).passes(Rows.padded(texts[1:]), chance())


def test_the_open_prefix_is_seen():
    """Words of the prefix see those after them, and no word of the rest does."""
    texts, model = documents([8]), tiny.gpt(vocab_size=506)
    (batch,) = PrefixLM(4).passes(Rows.padded(texts), chance())
    inputs = batch.inputs.clone()
    inputs[0, 3] = 100
    before, after = (model(i, batch.mask, batch.positions) for i in (batch.inputs, inputs))
    moved = (before - after).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [True] * 7
    inputs = batch.inputs.clone()
    inputs[0, 4] = 100
    after = model(inputs, batch.mask, batch.positions)
    assert ((before - after).abs().amax(-1)[0] > 1e-6).tolist() == [False] * 4 + [True] * 3


def test_the_same_mask_leaks_where_the_prefix_is_asked():
    """Sound is the pair of mask and objective: next-token targets inside the prefix are seen."""
    rows = Rows.padded(documents([8]))
    found = certificate(NextToken(prefix_lm(4)), rows, 1)
    assert {leak.output for leak in found.leaks} == {0, 1, 2}
    assert certificate(PrefixLM(4), rows, 6).sound


# -- errors ------------------------------------------------------------------------------------


def test_what_cannot_be_a_prefix():
    with pytest.raises(ValueError, match="one of the two"):
        PrefixLM(3, after=9)
    with pytest.raises(ValueError, match="0 or more; got -1"):
        PrefixLM(-1)
    for rows in (Rows.padded(documents([5, 9])), Rows.packed(documents([5, 9]), 16)):
        for prefix in (5, 6, 30):
            with pytest.raises(ValueError, match=f"{prefix} tokens leaves .* document of 5"):
                PrefixLM(prefix).passes(rows, chance())
        assert len(PrefixLM(4).passes(rows, chance())[0].targets) == 1 + 5
    assert repr(PrefixLM(after=3)) == "PrefixLM(prefix=None, after=3)"
    assert PrefixLM().length == "free" and PrefixLM().layout == "packed"


# -- the floor ---------------------------------------------------------------------------------


def test_its_floor_is_the_chain_of_surprises():
    for objective in (NextToken(), PrefixLM(), PrefixLM(5)):
        rows = objective.alone(TEXTS)
        (batch,) = objective.passes(rows, chance())
        found = left_floor(GAZETTE, batch)
        assert found.dtype == torch.float64
        every = GAZETTE.surprise(rows.tokens)
        owner = batch.asked.nonzero()[:, 0]
        torch.testing.assert_close(found, every[owner, batch.source])
        if isinstance(objective, NextToken):
            total = torch.zeros(len(TEXTS), dtype=torch.float64).index_add_(0, owner, found)
            torch.testing.assert_close(total, -GAZETTE.log_prob(GAZETTE.canvas(TEXTS)))


def test_the_oracle_has_no_excess_and_counts_are_evaluates():
    objective = PrefixLM(4)
    model = tiny.gpt(vocab_size=GAZETTE.vocab_size, n_positions=64)
    counts = answer_counts(model, objective, TEXTS, chance(), GAZETTE, left_floor)
    assert counts[:, 0].tolist() == [len(text) - 4 for text in TEXTS]
    torch.testing.assert_close(counts[:, 1], evaluate(model, objective, TEXTS))

    class Oracle:
        config, training = model.config, False
        modules = model.modules
        parameters = model.parameters

        def answers(self, batch):
            log_p = torch.zeros(len(batch.targets), GAZETTE.vocab_size, dtype=torch.float64)
            nats = left_floor(GAZETTE, batch)
            rest = torch.log1p(-(-nats).exp()) - torch.tensor(GAZETTE.vocab_size - 1.0).log()
            log_p += rest.clamp(min=-50)[:, None]
            log_p[torch.arange(len(nats)), batch.targets] = -nats
            return log_p

    (batch,) = objective.passes(objective.alone(TEXTS[:10]), chance())
    torch.testing.assert_close(
        answer_nll(Oracle(), objective, batch).double(),
        left_floor(GAZETTE, batch),
        atol=1e-5,
        rtol=1e-5,
    )


def test_left_floor_refuses_who_sees_more_or_less():
    rows = Rows.padded(TEXTS[:5])
    for objective in (
        NextToken(prefix_lm(6)),
        NextToken(causal & (lambda b, h, q, k: q - k < 2)),
        PreviousToken(),
        MaskedLM(0.3, (1, 0, 0)),
    ):
        (batch,) = objective.passes(rows, chance())
        with pytest.raises(ValueError, match="sees more or less than the words on its left"):
            left_floor(GAZETTE, batch)


def test_training_approaches_the_floor_from_above():
    config = GPTConfig(GAZETTE.vocab_size, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    model = GPT.init(config, chance())
    fit(model, PrefixLM(), GAZETTE, 120, learning_rate=1.5e-2, batch=32, progress=False)
    counts = answer_counts(
        model, PrefixLM(), GAZETTE.sample(500, chance(9)), chance(), GAZETTE, left_floor
    )
    excess = excess_per_answer(counts)
    assert excess.low > 0 and excess.high < 1
    nats, floor = counts[:, 1].float(), counts[:, 2].float()
    assert paired_excess(nats, floor).low > 0
    assert EOS in (PrefixLM().passes(Rows.padded(TEXTS), chance())[0].targets)
