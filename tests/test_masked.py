"""Masked language modelling: what is hidden, what is asked, and what never is."""

import math

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_objectives import documents, text

from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import bidirectional, causal, dense
from mylib.model import GPT, GPTConfig
from mylib.objectives import MaskedLM, NextMasked, Rows
from mylib.tokenizer import BOS, EOS, MASK, PAD, SPECIAL_TOKENS, lexicon
from mylib.train import fit

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

SPECIALS = torch.tensor(list(SPECIAL_TOKENS.values()))
GAZETTE = Gazette.load()
BOTH = pytest.mark.parametrize("kind", [MaskedLM, NextMasked])


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def hidden(objective, rows, seed=0):
    (batch,) = objective.passes(rows, chance(seed))
    return batch


def laid_out(layout, texts):
    return Rows.packed(texts, 24) if layout == "packed" else Rows.padded(texts)


def within(found, n, share, errors=4.5):
    """A count of n draws is that of a share, up to so many standard errors."""
    return abs(found - n * share) <= errors * math.sqrt(n * share * (1 - share)) + 1e-9


# -- by hand -----------------------------------------------------------------------------------


def test_a_batch_by_hand():
    rows = Rows.padded([text(BOS, 7, 8, 9, EOS), text(BOS, 6, EOS)])
    chosen = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]]).bool()
    batch = MaskedLM(split=(1, 0, 0)).hide(rows, chosen, chance())
    assert batch.inputs.tolist() == [[BOS, MASK, 8, MASK, EOS], [BOS, MASK, EOS, PAD, PAD]]
    assert torch.equal(batch.asked, chosen)
    assert batch.targets.tolist() == [7, 9, 6] and batch.source.tolist() == [1, 3, 1]
    assert batch.shown.tolist() == [[0, -1, 2, -1, 4], [0, -1, 2, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert batch.denominator == 3 and batch.weights.tolist() == [1] * 3
    assert not batch.copied.any()
    assert dense(batch.mask, 5)[:, 0, 0].int().tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert MaskedLM().length == "given" and MaskedLM().layout == "packed"


def test_the_word_before_names_it():
    rows = Rows.packed([text(BOS, 7, 8, 9, EOS), text(BOS, 6, EOS)], 9)
    chosen = torch.tensor([[0, 1, 0, 1, 0, 0, 1, 0, 0]]).bool()
    batch = NextMasked(split=(1, 0, 0)).hide(rows, chosen, chance())
    assert batch.asked.int().tolist() == [[1, 0, 1, 0, 0, 1, 0, 0, 0]]
    assert batch.targets.tolist() == [7, 9, 6] and batch.source.tolist() == [1, 3, 6]
    assert batch.inputs.tolist() == [[BOS, MASK, 8, MASK, EOS, BOS, MASK, EOS, PAD]]
    assert batch.shown.tolist() == [[0, -1, 2, -1, 4, 5, -1, 7, -1]]


def test_replaced_and_kept_words_by_hand():
    rows = Rows.padded([text(BOS, 7, 8, 9, EOS)])
    chosen = torch.tensor([[0, 1, 1, 1, 0]]).bool()
    wrong = MaskedLM(split=(0, 1, 0), replacements=range(7, 9)).hide(rows, chosen, chance())
    assert wrong.inputs[0, 1] == 8 and wrong.inputs[0, 2] == 7  # the only other word
    assert wrong.inputs[0, 3] in (7, 8)
    assert wrong.shown.tolist() == [[0, -1, -1, -1, 4]] and not wrong.copied.any()
    kept = MaskedLM(split=(0, 0, 1)).hide(rows, chosen, chance())
    assert torch.equal(kept.inputs, rows.tokens) and kept.copied.all()
    assert kept.shown.tolist() == [[0, 1, 2, 3, 4]] and kept.targets.tolist() == [7, 8, 9]


# -- shares ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("rate", "split"), [(0.15, (0.8, 0.1, 0.1)), (0.5, (0.2, 0.5, 0.3)), (1.0, (1.0, 0.0, 0.0))]
)
def test_shares_of_what_is_asked_and_of_what_stands_there(kind, rate, split):
    words = torch.randint(6, 411, (400, 200), generator=chance(1))
    words[:, 0] = BOS  # rows so long that none is ever empty by chance
    batch = hidden(kind(rate, split), Rows.padded(list(words)))
    n = int(batch.asked.sum())
    assert within(n, 400 * 199, rate)
    owner = batch.asked.nonzero()[:, 0]
    there = batch.inputs[owner, batch.source]
    assert torch.equal(batch.targets, words[owner, batch.source])
    masked, same = there == MASK, there == batch.targets
    for found, share in zip((masked, ~masked & ~same, same), split, strict=True):
        assert within(int(found.sum()), n, share)
    assert torch.equal(batch.copied, same)
    wrong = there[~masked & ~same]
    assert torch.isin(wrong, torch.tensor([*lexicon()])).all()
    # Every place alike: no favour for the beginning or the end.
    by_place = torch.bincount(batch.source, minlength=200)[1:]
    assert all(within(int(k), 400, rate, 5) for k in by_place)


def test_wrong_words_are_all_other_words_alike():
    objective = MaskedLM(1.0, (0, 1, 0), replacements=range(10, 14))
    for word, others in [(11, (10, 12, 13)), (13, (10, 11, 12)), (99, (10, 11, 12, 13))]:
        batch = hidden(objective, Rows.padded([torch.full((3000,), word)]))
        counts = torch.bincount(batch.inputs[0], minlength=14)
        assert set(batch.inputs.unique().tolist()) == set(others)
        assert all(within(int(counts[other]), 3000, 1 / len(others)) for other in others)


# -- what is never hidden ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("layout", ["padded", "packed"])
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(
    sizes=st.lists(st.integers(3, 12), min_size=1, max_size=6),
    rate=st.sampled_from([1e-9, 0.15, 1.0]),
    seed=st.integers(0, 99),
)
def test_pads_and_specials_are_left_alone(kind, layout, sizes, rate, seed):
    texts = documents(sizes, seed)
    for n, each in enumerate(texts):  # specials in the middle, too
        if len(each) > 4:
            each[2] = SPECIALS[1 + n % 5]
    rows = laid_out(layout, texts)
    batch = hidden(kind(rate), rows, seed)
    special = torch.isin(rows.tokens, SPECIALS)
    assert torch.equal(batch.inputs[special], rows.tokens[special])  # pads among them
    assert not torch.isin(batch.targets, SPECIALS).any()
    untouched = batch.inputs == rows.tokens
    owner = batch.asked.nonzero()[:, 0]
    asked = torch.zeros_like(special)
    asked[owner, batch.source] = True
    assert (asked | untouched).all() and not (asked & special).any()
    assert (rows.document[asked] >= 0).all()
    eligible = rows.valid & ~special
    if kind is NextMasked:
        eligible &= rows.position > 0
        output = batch.asked.nonzero(as_tuple=True)
        assert torch.equal(rows.document[output], rows.document[owner, batch.source])  # no border
        assert torch.equal(output[1] + 1, batch.source)
    assert torch.equal(asked.any(1), eligible.any(1))  # each row that has a word is asked one
    if rate == 1.0:
        assert torch.equal(asked, eligible)
    if rate < 0.1:
        assert (asked.sum(1) <= 1).all()
    assert torch.equal(batch.shown >= 0, rows.valid & (untouched | ~asked))
    assert torch.equal(batch.positions, rows.position)


@BOTH
def test_one_word_a_row_is_always_asked(kind):
    rows = Rows.padded([text(BOS, 50 + n, EOS) for n in range(200)])
    batch = hidden(kind(rate=1e-12), rows)
    assert batch.targets.tolist() == [50 + n for n in range(200)]
    # Among several, each is as likely to be the one.
    rows = Rows.padded([text(BOS, 50, 51, 52, EOS)] * 900)
    counts = torch.bincount(hidden(kind(rate=1e-12), rows).targets, minlength=53)[50:]
    assert all(within(int(count), 900, 1 / 3) for count in counts)
    # A row without a word beside rows with one: nothing is asked of it.
    mixed = hidden(kind(), Rows.padded([text(BOS, EOS), text(BOS, 50, EOS)]))
    assert mixed.asked.any(1).tolist() == [False, True] and mixed.take(slice(0, 1)) is None


@BOTH
def test_a_batch_in_which_nothing_can_be_hidden_is_refused(kind):
    for rows in (
        Rows.padded([text(BOS, EOS), text(BOS, MASK, EOS)]),
        Rows.packed([text(BOS, EOS), text(BOS)], 8),
    ):
        with pytest.raises(ValueError, match="no word of this batch can be hidden"):
            kind().passes(rows, chance())
    with pytest.raises(ValueError, match="nothing is asked"):
        rows = Rows.padded([text(BOS, 50, EOS)])
        kind().hide(rows, torch.zeros_like(rows.valid), chance())


def test_a_first_word_alone_has_no_output_before_it():
    rows = Rows.padded([text(50), text(51)])
    assert hidden(MaskedLM(), rows).targets.tolist() == [50, 51]
    with pytest.raises(ValueError, match="stand first, with no output before them"):
        NextMasked().passes(rows, chance())


@BOTH
@pytest.mark.parametrize(("row", "place"), [(0, 0), (0, 4), (1, 2), (1, 3)])
def test_places_that_may_not_be_hidden_are_refused_by_name(kind, row, place):
    rows = Rows.padded([text(BOS, 7, 8, 9, EOS), text(BOS, 6, EOS)])
    chosen = torch.tensor([[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    chosen[row, place] = True
    with pytest.raises(ValueError, match=f"token {place} of row {row} is no word"):
        kind().hide(rows, chosen, chance())


def test_other_tokenizers():
    """GPT-2's, say: other specials or none, another [MASK], ids 0 to 5 ordinary words."""
    rows = Rows.padded([torch.arange(5), torch.arange(3)])
    objective = MaskedLM(1.0, (1, 0, 0), mask_token=60, special=(), replacements=range(50))
    batch = hidden(objective, rows)
    assert batch.targets.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.inputs.tolist() == [[60] * 5, [60, 60, 60, PAD, PAD]]
    some = MaskedLM(1.0, (1, 0, 0), mask_token=60, special={4, 0}, replacements=range(50))
    assert hidden(some, rows).targets.tolist() == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "a rate lies above 0"),
        ({"rate": 1.1}, "a rate lies above 0"),
        ({"rate": -0.1}, "a rate lies above 0"),
        ({"rate": math.nan}, "a rate lies above 0"),
        ({"split": (0.8, 0.1)}, "three shares"),
        ({"split": (0.8, 0.1, 0.2)}, "three shares"),
        ({"split": (0.8, 0.1, 0.0)}, "three shares"),
        ({"split": (1.2, -0.1, -0.1)}, "three shares"),
        ({"split": (math.nan, 0.5, 0.5)}, "three shares"),
        ({"split": (0.5, 0.5, math.nan)}, "three shares"),
        ({"replacements": range(6, 7)}, "at least 2"),
        ({"replacements": range(0, 9)}, r"without \[MASK\]"),
        ({"replacements": range(6, 20, 2)}, "consecutive"),
        ({"mask_token": 10}, r"without \[MASK\]"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    for kind in (MaskedLM, NextMasked):
        with pytest.raises(ValueError, match=message):
            kind(**options)


def test_equal_generators_equal_batches():
    rows = laid_out("packed", documents([9, 4, 7]))
    one, same, other = (hidden(MaskedLM(0.5), rows, seed) for seed in (3, 3, 4))
    for name in ("inputs", "asked", "targets", "source", "shown", "copied"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.inputs, other.inputs)
    assert repr(MaskedLM(0.3)).startswith("MaskedLM(rate=0.3, split=(0.8, 0.1, 0.1)")


# -- no leak -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("mask", [bidirectional, causal], ids=lambda mask: mask.name)
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_it_is_sound_and_copies_what_it_says(kind, mask, layout):
    texts = GAZETTE.sample(60, chance(2))
    rows = Rows.packed(texts, 64) if layout == "packed" else Rows.padded(texts)
    found = certificate(kind(0.5, mask=mask), rows, 2, chance(1))
    batch = hidden(kind(0.5, mask=mask), rows, 1)
    assert found.sound and found.asked == len(batch.targets)
    # One place before a word, a causal output does not see it: there a kept word is no copy.
    sees = not (kind is NextMasked and mask is causal)
    assert found.copies == (int(batch.copied.sum()) if sees else 0)
    assert within(int(batch.copied.sum()), found.asked, 0.1)


@BOTH
def test_packed_documents_do_not_see_each_other(kind):
    texts = documents([6, 5, 7])
    rows = Rows.packed(texts, 20)
    batch = hidden(kind(0.4), rows)
    seen = dense(batch.mask, 20)[0, 0]
    same = rows.document[0][:, None] == rows.document[0][None, :]
    assert torch.equal(seen, same & rows.valid[0])
    model = tiny.gpt(vocab_size=506, n_positions=20)
    plain = model(batch.inputs, batch.mask, batch.positions)
    inputs = batch.inputs.clone()
    inputs[:, 7:13] = 99  # the second document
    moved = model(inputs, batch.mask, batch.positions)
    place = torch.arange(18)
    other = (place < 7) | (place >= 13)
    assert torch.equal(moved[:, :18][:, other], plain[:, :18][:, other])
    assert not torch.isclose(moved[:, 7:13], plain[:, 7:13]).all(-1).any()


@BOTH
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_parts_make_up_the_whole(kind, layout):
    rows = laid_out(layout, documents([9, 4, 7, 3, 5, 8, 6]))
    objective, model = kind(0.4), tiny.gpt(vocab_size=506, n_positions=24).double()
    batch = hidden(objective, rows, 3)
    whole = objective.loss(model.answers(batch), batch)
    assert whole > 0
    parts = [batch.take(slice(a, a + 1)) for a in range(len(rows.tokens))]
    assert {part.denominator for part in parts} == {batch.denominator}
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    total = sum(objective.loss(model.answers(part), part) for part in parts)
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)


@BOTH
def test_it_learns_and_slices_change_nothing(kind):
    objective = kind(0.3)
    runs = []
    for slices in (1, 3):
        config = GPTConfig(GAZETTE.vocab_size, n_positions=64, n_embd=32, n_layer=1, n_head=2)
        model = GPT.init(config, chance())
        history = fit(
            model, objective, GAZETTE, 25, batch=16, learning_rate=2e-2, accumulate=slices,
            progress=False,
        )  # fmt: skip
        runs.append(history.loss)
    assert runs[0][-1] < 0.75 * runs[0][0]
    assert runs[1][:3] == pytest.approx(runs[0][:3], rel=1e-4)
