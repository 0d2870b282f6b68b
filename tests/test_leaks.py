"""The certificate passes sound regimes, catches bad ones, and foretells what a network does."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objectives import documents

from mylib import masks
from mylib.leaks import Certificate, Leak, certificate, influence, leak_path, positions_tell
from mylib.masks import Mask, anticausal, bidirectional, causal, causal_head, dense, reach
from mylib.objectives import (
    AbsorbingDiffusion,
    ForwardBackward,
    MaskedLM,
    NextToken,
    Objective,
    PreviousToken,
    Rows,
)

SIZES = [9, 4, 7, 2, 5]
PADDED = Rows.padded(documents(SIZES))
PACKED = Rows.packed(documents(SIZES), 16)
FULL = Rows.padded(documents([9]))  # one row without padding: eight inputs


def real(path, visible):
    """Every hop is allowed by the mask, or stays where it is (the residual stream)."""
    return all(here == there or bool(visible[here, there]) for here, there in pairwise(path))


def check_paths(objective, rows, layers):
    """The certificate's leaks, each with a path that can be walked; they are returned."""
    (batch,) = objective.passes(rows, None)
    visible = dense(batch.mask, batch.inputs.shape[1], batch=len(batch.inputs)).any(1)
    leaks = certificate(objective, rows, layers).leaks
    for leak in leaks:
        assert len(leak.path) == layers + 1
        assert leak.path[0] == leak.output and leak.path[-1] == leak.input
        assert real(leak.path, visible[leak.row]), leak
        assert batch.shown[leak.row, leak.input] == leak.source
        assert batch.asked[leak.row, leak.output]
    return leaks


# -- sound -------------------------------------------------------------------------------------

SOUND = [
    NextToken(),
    PreviousToken(),
    PreviousToken("start"),
    NextToken(masks.sliding_window(2, 0)),
]


@pytest.mark.parametrize("layers", range(1, 7))
@pytest.mark.parametrize("rows", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("objective", SOUND, ids=repr)
def test_sound_regimes_have_no_leak_at_any_depth(objective, rows, layers):
    found = certificate(objective, rows, layers)
    assert found.sound and found.leaks == () and found.copies == 0 and found.copied_share == 0
    assert found.asked == sum(SIZES) - len(SIZES)
    assert "sound" in str(found) and f"{layers} layers" in str(found)


# -- known bad ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [PADDED, PACKED, FULL], ids=["padded", "packed", "full"])
def test_next_token_without_a_mask_leaks_in_one_layer(rows):
    leaks = check_paths(NextToken(bidirectional), rows, 1)
    # All but the last word of a row, which is never an input.
    shown = [leak.output + 1 == leak.input for leak in leaks]
    hidden = {len(FULL.tokens[0]) - 1} if rows is FULL else set()
    (batch,) = NextToken().passes(rows, None)
    wanted = sum(int(s) in batch.shown[0] for s in batch.source) if rows is FULL else len(leaks)
    assert all(shown) and len(leaks) == wanted > 0
    assert not {leak.source for leak in leaks} & hidden
    assert all(leak.path == (leak.output, leak.output + 1) for leak in leaks)


def test_the_hybrid_leaks_at_its_edge_in_one_layer_and_everywhere_in_two():
    for n in range(2, 7):
        one = check_paths(NextToken(causal_head(n)), FULL, 1)
        two = check_paths(NextToken(causal_head(n)), FULL, 2)
        assert {leak.output for leak in one} == set(range(n - 1, 7))
        assert {leak.output for leak in two} == set(range(7))  # every target that is an input
        first = two[0]
        assert first.output == 0 and first.input == 1 and first.path[1] >= n
    assert certificate(NextToken(masks.prefix_lm(0)), FULL, 2).sound


def test_the_flipped_backward_mask_leaks_in_two_layers():
    size = FULL.tokens.shape[1] - 1
    flipped = Mask(lambda b, h, q, k: q + k <= size - 1, "flipped")
    leaks = check_paths(PreviousToken(mask=flipped), FULL, 2)
    assert {leak.source for leak in leaks} == set(range(1, size))  # word 0 is never an input
    one = check_paths(PreviousToken(mask=flipped), FULL, 1)
    assert 0 < len(one) < len(leaks)


@dataclass(repr=False)
class Unshifted(Objective):
    """Source note 4: the backward mask with the forward inputs, each asked for itself."""

    mask: Mask = anticausal

    def passes(self, rows, generator):
        (batch,) = NextToken(self.mask).passes(rows, generator)
        source = batch.source - 1
        return (replace(batch, source=source, targets=batch.inputs[batch.asked]),)


def test_backward_attention_with_forward_labels():
    # Labels of the causal loss: output i sees word i + 1, which it must name.
    leaks = check_paths(NextToken(anticausal), FULL, 1)
    assert {leak.output for leak in leaks} == set(range(7))
    assert all(leak.path == (leak.output, leak.output + 1) for leak in leaks)
    # Labels not shifted at all: each output stands on its answer, in no layer at all.
    for layers in (0, 1, 3):
        leaks = check_paths(Unshifted(), PADDED, layers)
        assert len(leaks) == certificate(Unshifted(), PADDED, layers).asked
        assert all(set(leak.path) == {leak.output} for leak in leaks)


@pytest.mark.parametrize("length", [None, 10, 20], ids=["full", "padded", "packed"])
def test_inverted_polarity_is_refused_or_caught(length):
    texts = documents([9, 9])
    rows = Rows.packed(texts, length) if length == 20 else Rows.padded(texts, length)
    # The last input of a document may look at nobody, and is asked.
    with pytest.raises(ValueError, match=r"output 7 of row 0 is asked.*nobody"):
        certificate(NextToken(~causal), rows, 1)
    leaks = check_paths(NextToken(anticausal), rows, 1)  # inverted, its diagonal open
    assert len(leaks) == 2 * 7


def test_every_layout_hides_the_last_word():
    texts = documents([9, 5, 7])
    layouts = [Rows.padded([text]) for text in texts]
    layouts += [Rows.padded(texts), Rows.padded(texts, 30), Rows.packed(texts, 30)]
    for objective in (NextToken(bidirectional), PreviousToken(mask=bidirectional)):
        found = [certificate(objective, rows, 2) for rows in layouts]
        assert sum(len(each.leaks) for each in found[:3]) == 21 - 3 - 3  # answers, less one each
        assert {len(each.leaks) for each in found[3:]} == {21 - 3 - 3}


def test_asking_a_blind_row_is_refused():
    nobody = Mask(lambda b, h, q, k: (q >= k) & (q != 3), "no row 3")
    with pytest.raises(ValueError, match="output 3 of row 0 is asked"):
        certificate(NextToken(nobody), FULL, 2)
    elsewhere = Mask(lambda b, h, q, k: (q >= k) & (q != 8), "no row 8")
    assert certificate(NextToken(elsewhere), Rows.padded(documents([9]), 12), 2).sound


def test_a_leak_of_one_head_counts():
    mixed = Mask(lambda b, h, q, k: (k <= q) | (h == 3), "one open head")
    with pytest.raises(ValueError, match="differs from head to head"):
        certificate(NextToken(mixed), FULL, 1)
    assert certificate(NextToken(mixed), FULL, 1, heads=3).sound
    assert len(certificate(NextToken(mixed), FULL, 1, heads=4).leaks) == 7
    # Blind in one head only is not blind.
    half = Mask(lambda b, h, q, k: (k <= q) & (h == 0), "second head blind")
    assert certificate(NextToken(half), FULL, 2, heads=2).sound


# -- what is said ------------------------------------------------------------------------------


def test_a_leak_can_be_read():
    leak = Leak(batch=0, row=2, output=0, source=1, input=1, path=(0, 4, 4, 1))
    assert str(leak) == "row 2: output 0 must name word 1 and sees it: 0 <- 4 <- 1"
    found = certificate(NextToken(causal_head(3)), FULL, 2)
    assert str(found).startswith("NextToken(mask=Mask(causal_head(3))), 2 layers: 8 answers, ")
    assert "7 LEAKS, the first: row 0: output 0 must name word 1 and sees it: 0 <- 3 <- 1" in str(
        found
    )


def test_copies_are_counted_apart():
    @dataclass(repr=False)
    class Declared(Unshifted):
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            return (replace(batch, copied=torch.arange(len(batch.targets)) % 4 == 0),)

    found = certificate(Declared(), FULL, 2)
    assert (found.asked, found.copies, len(found.leaks)) == (8, 2, 6)
    assert found.copied_share == 0.25 and not found.sound


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="input 3 does not reach output 1 in 5 layers"):
        leak_path(dense(causal, 4)[0, 0], 5, 1, 3)
    window = dense(masks.sliding_window(1, 0), 5)[0, 0]
    assert leak_path(window, 3, 3, 0) == (3, 2, 1, 0)
    with pytest.raises(ValueError, match="in 2 layers"):
        leak_path(window, 2, 3, 0)
    assert leak_path(dense(causal, 4)[0, 0], 3, 3, 0) == (3, 0, 0, 0)  # as few moves as needed


def test_other_targets_that_are_not_clean_words_never_leak():
    @dataclass(repr=False)
    class NoSource(NextToken):
        mask: Mask = bidirectional

        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            nothing = torch.full_like(batch.shown, -1)
            return (replace(batch, source=nothing[batch.asked], shown=nothing),)

    # `shown` is -1 at pads and [MASK]s: an answer without a clean word must not match them.
    assert certificate(NoSource(), PADDED, 2).sound


def test_an_empty_certificate_has_parts():
    assert Certificate("x", 1, 4, (), 2).copied_share == 0.5


# -- against measurement -----------------------------------------------------------------------

TIME = 6
BITS = st.lists(st.booleans(), min_size=TIME * TIME, max_size=TIME * TIME)


@settings(max_examples=25, deadline=None)
@given(BITS, st.integers(1, 3), st.integers(0, 100))
def test_what_is_measured_is_what_can_be_reached(bits, layers, seed):
    visible = torch.tensor(bits).view(TIME, TIME)
    model = tiny.gpt(seed, n_layer=layers)
    seen = influence(model, tiny.ids(1, TIME, seed), mask=masks.from_dense(visible))
    possible = reach(visible, layers)
    assert not (seen & ~possible).any()  # always
    assert torch.equal(seen, possible)  # for weights without accidental zeros


@settings(max_examples=25, deadline=None)
@given(BITS, st.integers(1, 3), st.sampled_from([NextToken, PreviousToken]))
def test_a_leak_is_an_influence_of_the_answer_on_its_question(bits, layers, objective):
    visible = torch.tensor(bits).view(TIME, TIME) | torch.eye(TIME).bool()
    objective = objective(mask=masks.from_dense(visible))
    rows = Rows.padded(documents([TIME + 1]))
    leaks = {(leak.output, leak.input) for leak in certificate(objective, rows, layers).leaks}
    (batch,) = objective.passes(rows, None)
    model = tiny.gpt(vocab_size=506, n_layer=layers)
    seen = influence(model, batch.inputs, mask=batch.mask, positions=batch.positions)
    answers = zip(batch.asked[0].nonzero()[:, 0].tolist(), batch.source.tolist(), strict=True)
    measured = {
        (output, place)
        for output, source in answers
        for place in (batch.shown[0] == source).nonzero()[:, 0].tolist()
        if seen[output, place]
    }
    assert leaks == measured
    check_paths(objective, rows, layers)


@settings(max_examples=15, deadline=None)
@given(BITS, st.integers(2, 6))
def test_every_path_is_a_path_of_fewest_moves(bits, layers):
    visible = torch.tensor(bits).view(TIME, TIME)
    for output, source in reach(visible, layers).nonzero().tolist():
        path = leak_path(visible, layers, output, source)
        assert real(path, visible) and (path[0], path[-1], len(path)) == (
            *(output, source),
            layers + 1,
        )
        moves = sum(a != b for a, b in pairwise(path))
        fewest = next(n for n in range(layers + 1) if reach(visible, n)[output, source])
        assert moves == fewest


@pytest.mark.parametrize(
    ("objective", "tells"),
    [
        (NextToken(), False),
        (PreviousToken("end"), False),
        (PreviousToken("start"), True),
        (ForwardBackward(1.0), False),
        (MaskedLM(), True),  # each output sees the row from its beginning to its end
        (AbsorbingDiffusion(), False),  # and here a canvas of one length, pads among its words
    ],
    ids=repr,
)
def test_who_is_told_the_length_by_positions(objective, tells):
    assert positions_tell(objective) is tells
    assert (objective.length == "free") is not tells
