"""Forward and backward over one document: the coin, the direction tokens, what is refused."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_objectives import LONG, SHORT, TWO, documents, text

from mylib import masks
from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import dense
from mylib.objectives import ForwardBackward, NextToken, PreviousToken, Rows
from mylib.tokenizer import BOS, BW, EOS, FW, PAD
from mylib.train import evaluate

NOISE = torch.Generator()
WINDOWS = [text(7, 8, 9, 10), text(9, 10, 11)]
SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=8)


def both(rows, **options):
    return ForwardBackward(**options).passes(rows, NOISE)


def equal(one, two, *but):
    """Two batches, field by field; those named in ``but`` are left out."""
    time = one.inputs.shape[1]
    assert torch.equal(dense(one.mask, time), dense(two.mask, time))
    for name in vars(one).keys() - {"mask", *but}:
        mine, other = getattr(one, name), getattr(two, name)
        assert mine == other if isinstance(mine, float) else torch.equal(mine, other), name


# -- batches -----------------------------------------------------------------------------------


def test_both_passes_by_hand():
    rows = Rows.padded([LONG, SHORT, TWO])
    forward, backward = both(rows)
    assert forward.inputs.tolist() == [[FW, 7, 8, 9], [FW, 6, PAD, PAD], [FW, PAD, PAD, PAD]]
    assert forward.shown.tolist() == [[-1, 1, 2, 3], [-1, 1, -1, -1], [-1] * 4]
    assert forward.targets.tolist() == [7, 8, 9, EOS, 6, EOS, EOS]
    assert forward.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0]]
    assert forward.mask is masks.causal
    assert backward.inputs.tolist() == [[7, 8, 9, BW], [6, BW, PAD, PAD], [BW, PAD, PAD, PAD]]
    assert backward.shown.tolist() == [[1, 2, 3, -1], [1, -1, -1, -1], [-1] * 4]
    assert backward.targets.tolist() == [BOS, 7, 8, 9, BOS, 6, BOS]
    assert backward.positions.tolist() == [[3, 2, 1, 0], [1, 0, 0, 0], [0] * 4]
    assert dense(backward.mask, 4)[1, 0].int().tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        *[[0] * 4] * 2,
    ]
    assert forward.denominator == backward.denominator == 7
    assert not forward.copied.any() and not backward.copied.any()


def test_packed_passes_by_hand():
    forward, backward = both(Rows.packed([LONG, SHORT], 9))
    assert forward.inputs.tolist() == [[FW, 7, 8, 9, PAD, FW, 6, PAD]]
    assert forward.shown.tolist() == [[-1, 1, 2, 3, -1, -1, 6, -1]]
    assert backward.inputs.tolist() == [[7, 8, 9, BW, PAD, 6, BW, PAD]]
    assert backward.shown.tolist() == [[1, 2, 3, -1, -1, 6, -1, -1]]


@given(SIZES, st.sampled_from(["padded", "packed"]))
def test_only_the_direction_token_differs_from_one_way_reading(sizes, layout):
    texts = documents(sizes)
    rows = Rows.padded(texts) if layout == "padded" else Rows.packed(texts, 14)
    forward, backward = both(rows)
    (next_,), (previous,) = NextToken().passes(rows, NOISE), PreviousToken().passes(rows, NOISE)
    equal(forward, next_, "inputs", "shown")
    equal(backward, previous, "inputs", "shown")
    for mine, alone, old, new in [(forward, next_, BOS, FW), (backward, previous, EOS, BW)]:
        turned = alone.inputs == old
        assert int(turned.sum()) == len(texts)
        assert torch.equal(mine.inputs, alone.inputs.masked_fill(turned, new))
        assert torch.equal(mine.shown, alone.shown.masked_fill(turned, -1))
        # It opens each document: every asked output of the document sees it.
        owner, output = mine.asked.nonzero(as_tuple=True)
        seen = dense(mine.mask, mine.inputs.shape[1], batch=len(mine.inputs))[owner, 0, output]
        assert ((seen & turned[owner]).sum(-1) == 1).all()


def test_without_direction_tokens_windows_will_do():
    for rows in (Rows.padded(WINDOWS), Rows.packed(WINDOWS, 7), Rows.padded([LONG, SHORT])):
        forward, backward = both(rows, direction_tokens=False)
        equal(forward, *NextToken().passes(rows, NOISE))
        equal(backward, *PreviousToken().passes(rows, NOISE))


@pytest.mark.parametrize(
    "broken",
    [text(7, 8, 9), text(BOS, 7, 8), text(7, 8, EOS), text(BOS), text(EOS), text(EOS, 7, BOS)],
    ids=["window", "no end", "no start", "start alone", "end alone", "turned round"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_direction_tokens_want_whole_documents(broken, place):
    texts = [LONG, SHORT]
    texts.insert(place, broken)  # one is enough
    for rows in (Rows.padded(texts), Rows.padded(texts, 8), Rows.packed(texts, 12)):
        for method in ("passes", "make"):
            with pytest.raises(ValueError, match="does not have both; give whole documents"):
                getattr(ForwardBackward(), method)(rows, torch.Generator())


# -- the coin ----------------------------------------------------------------------------------


def is_backward(batch):
    assert (batch.inputs == BW).any() != (batch.inputs == FW).any()
    return bool((batch.inputs == BW).any())


def drawn(n, **options):
    """Which passes ``n`` steps make: True = backward."""
    generator, rows = torch.Generator().manual_seed(0), Rows.padded([SHORT])
    objective = ForwardBackward(**options)
    return [[is_backward(each) for each in objective.make(rows, generator)] for _ in range(n)]


@pytest.mark.parametrize("either", [False, True])
@pytest.mark.parametrize(("p_bw", "n"), [(0.0, 200), (1.0, 200), (0.3, 1000)])
def test_the_coin_is_exact(p_bw, n, either):
    found = drawn(n, p_bw=p_bw, either=either)
    backward = sum(any(step) for step in found)
    assert abs(backward - n * p_bw) <= 4 * math.sqrt(n * p_bw * (1 - p_bw))
    if either:
        assert all(len(step) == 1 for step in found)
    else:  # the forward pass is always there, and first
        assert all(step in ([False], [False, True]) for step in found)


@pytest.mark.parametrize("either", [False, True])
def test_the_coin_is_exact_to_the_last_digit(either, monkeypatch):
    # Chance draws an exact 0 once in sixteen million: a coin of 0 must not fall on heads then.
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.zeros(*size))
    assert drawn(1, p_bw=0.0, either=either) == [[False]]
    assert True in drawn(1, p_bw=1e-9, either=either)[0]


def test_the_coin_falls_once_a_step_for_all_rows():
    rows = Rows.padded([LONG, SHORT] * 8)
    for seed in range(20):
        for batch in ForwardBackward(either=True).make(rows, torch.Generator().manual_seed(seed)):
            assert ((batch.inputs == (BW if is_backward(batch) else FW)).sum(1) == 1).all()
            assert batch.denominator == 6 * 8


def test_the_coin_is_the_generator_s():
    one, two = drawn(50), drawn(50)
    assert one == two
    state = torch.get_rng_state()
    drawn(3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p_bw", [-0.1, 1.1, math.nan])
def test_p_bw_is_a_probability(p_bw):
    with pytest.raises(ValueError, match=f"p_bw is a probability, got {p_bw}"):
        ForwardBackward(p_bw)


# -- leaks and losses --------------------------------------------------------------------------


def newspapers(n):
    return Gazette.load().sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("direction_tokens", [True, False])
def test_it_is_sound_and_both_passes_are_certified_whatever_the_odds(direction_tokens, layers):
    texts = newspapers(8)
    answers = sum(len(each) - 1 for each in texts)
    for rows in (Rows.padded(texts), Rows.packed(texts, 64)):
        for p_bw in (0.0, 0.3, 1.0):
            for either in (False, True):
                objective = ForwardBackward(p_bw, direction_tokens, either)
                found = certificate(objective, rows, layers)
                assert found.sound and found.asked == 2 * answers and found.copies == 0


def test_direction_tokens_do_not_hide_a_wrong_mask():
    class Turned(ForwardBackward):
        """Backward labels under the forward mask: note 4, as it stands."""

        def passes(self, rows, generator):
            forward, backward = super().passes(rows, generator)
            return forward, replace(backward, mask=forward.mask)

    found = certificate(Turned(p_bw=0.0), Rows.padded(newspapers(4)), 1)
    assert not found.sound and {leak.batch for leak in found.leaks} == {1}


def test_evaluate_adds_both_passes():
    texts, model = documents([9, 4, 7, 2]), tiny.gpt(vocab_size=506)
    one_way = evaluate(model, NextToken(), texts) + evaluate(model, PreviousToken(), texts)
    for p_bw in (0.0, 0.7):
        found = evaluate(model, ForwardBackward(p_bw, direction_tokens=False), texts)
        torch.testing.assert_close(found, one_way)
        told = evaluate(model, ForwardBackward(p_bw), texts)
        assert (told - one_way).abs().min() > 1e-4  # another opening word, another loss


def test_name_layout_and_length():
    assert repr(ForwardBackward(0.1, either=True)) == (
        "ForwardBackward(p_bw=0.1, direction_tokens=True, either=True)"
    )
    assert ForwardBackward.layout == "packed" and ForwardBackward.length == "free"
