"""Rows, batches, next and previous token by hand; and three objectives to come, on paper."""

from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mylib import masks
from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import dense
from mylib.objectives import (
    Batch,
    Denoising,
    ForwardBackward,
    NextToken,
    Objective,
    PreviousToken,
    Rows,
)
from mylib.tokenizer import BOS, EOS, MASK, PAD

NOISE = torch.Generator()


def text(*words):
    return torch.tensor(words)


LONG, SHORT, TWO = text(BOS, 7, 8, 9, EOS), text(BOS, 6, EOS), text(BOS, EOS)


def documents(sizes, seed=0):
    """Documents <bos> ... <eos> of these lengths, every word another one."""
    chance = torch.Generator().manual_seed(seed)
    pool = torch.randperm(500, generator=chance) + 6
    return [
        torch.cat([text(BOS), pool[40 * n : 40 * n + size - 2], text(EOS)])
        for n, size in enumerate(sizes)
    ]


# -- rows --------------------------------------------------------------------------------------


def test_padded_rows_by_hand():
    rows = Rows.padded([LONG, SHORT])
    assert rows.tokens.tolist() == [[BOS, 7, 8, 9, EOS], [BOS, 6, EOS, PAD, PAD]]
    assert rows.document.tolist() == [[0] * 5, [0, 0, 0, -1, -1]]
    assert rows.position.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert rows.from_end.tolist() == [[4, 3, 2, 1, 0], [2, 1, 0, 0, 0]]
    assert rows.valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert not rows.is_packed
    assert Rows.padded([SHORT], length=4).tokens.tolist() == [[BOS, 6, EOS, PAD]]


def test_packed_rows_by_hand():
    rows = Rows.packed([SHORT, LONG, TWO], length=9)
    assert rows.tokens.tolist() == [[*LONG, *SHORT, PAD], [*TWO, *[PAD] * 7]]
    assert rows.document.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, -1], [0, 0, *[-1] * 7]]
    assert rows.position.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0], [0, 1, *[0] * 7]]
    assert rows.from_end.tolist() == [[4, 3, 2, 1, 0, 2, 1, 0, 0], [1, 0, *[0] * 7]]
    assert rows.is_packed


def test_a_canvas_by_hand():
    rows = Rows.padded([LONG, SHORT], 6).canvas
    assert rows.tokens.tolist() == [[BOS, 7, 8, 9, EOS, PAD], [BOS, 6, EOS, PAD, PAD, PAD]]
    assert rows.document.tolist() == [[0] * 6] * 2 and rows.position.tolist() == [[*range(6)]] * 2
    assert rows.valid.all() and not rows.is_packed
    assert rows.from_end.tolist() == [[5, 4, 3, 2, 1, 0]] * 2
    again = rows.canvas
    assert all(torch.equal(getattr(again, name), getattr(rows, name)) for name in vars(rows))
    # One document a row is no packing, wherever it comes from.
    assert Rows.packed([LONG], 6).canvas.tokens.tolist() == [[BOS, 7, 8, 9, EOS, PAD]]
    with pytest.raises(ValueError, match="packed rows hold several documents"):
        _ = Rows.packed([LONG, SHORT], 8).canvas


class Laid(Objective):
    def __init__(self, layout):
        self.layout = layout


def test_an_objective_lays_out_its_own_rows():
    texts = [SHORT, LONG, TWO]
    for layout, wanted in {
        "packed": Rows.packed(texts, 9),
        "padded": Rows.padded(texts, 9),
        "canvas": Rows.padded(texts, 9).canvas,
    }.items():
        found = Laid(layout).rows(texts, 9)
        assert all(torch.equal(getattr(found, n), getattr(wanted, n)) for n in vars(wanted)), layout
    layouts = [o.layout for o in (NextToken(), PreviousToken(), ForwardBackward(), Denoising())]
    assert layouts == ["packed", "packed", "packed", "canvas"]


@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(9, 20))
def test_packing_loses_nothing_and_cuts_nothing(sizes, length):
    texts = documents(sizes)
    rows = Rows.packed(texts, length)
    found = []
    for tokens, document in zip(rows.tokens, rows.document, strict=True):
        found += [tokens[document == n].tolist() for n in range(int(document.max()) + 1)]
    assert sorted(found) == sorted(t.tolist() for t in texts)
    room = (~rows.valid).sum(1)
    first = [int((document == 0).sum()) for document in rows.document]
    assert all(room[a] < first[b] for b in range(len(first)) for a in range(b))  # first fit


def word_by_word(rows, length):
    """Lists of documents, one word at a time: tokens, document and position."""
    tokens, document, position = ([[fill] * length for _ in rows] for fill in (PAD, -1, 0))
    for b, row in enumerate(rows):
        start = 0
        for number, one in enumerate(row):
            for i, word in enumerate(one.tolist()):
                tokens[b][start], document[b][start], position[b][start] = word, number, i
                start += 1
    return tokens, document, position


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(9, 30), st.booleans())
def test_rows_are_laid_out_word_by_word(sizes, length, packed):
    noise = torch.Generator().manual_seed(sum(sizes))
    texts = [torch.randint(6, 500, (size,), generator=noise) for size in sizes]
    if packed:
        rows, groups, room = Rows.packed(texts, length), [], []
        for one in sorted(texts, key=len, reverse=True):
            fits = [n for n, free in enumerate(room) if free >= len(one)]
            if not fits:
                groups.append([])
                room.append(length)
            place = fits[0] if fits else -1
            groups[place].append(one)
            room[place] -= len(one)
    else:
        rows, groups = Rows.padded(texts, length), [[one] for one in texts]
    wanted = word_by_word(groups, length)
    found = (rows.tokens, rows.document, rows.position)
    assert [t.tolist() for t in found] == list(wanted)
    assert all(t.dtype == torch.long for t in found)
    if not packed:
        assert torch.equal(Rows.padded(texts).tokens, rows.tokens[:, : max(sizes)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rows.padded([]), "no documents"),
        (lambda: Rows.packed([], 4), "no documents"),
        (lambda: Rows.padded([LONG, LONG[:0], LONG[:0]]), "empty documents: number 1, 2"),
        (lambda: Rows.packed([LONG[:0]], 8), "empty documents: number 0"),
        (lambda: Rows.padded([SHORT, LONG], 4), "document of 5 tokens does not fit rows of 4"),
        (lambda: Rows.packed([SHORT, LONG], 4), "document of 5 tokens does not fit rows of 4"),
        (lambda: Rows(LONG, LONG, LONG), r"\(B, T\) alike"),
        (lambda: Rows(LONG[None], LONG[None], SHORT[None]), r"\(B, T\) alike"),
    ],
)
def test_rows_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- next and previous token -------------------------------------------------------------------


def test_next_token_by_hand():
    (batch,) = NextToken().passes(Rows.padded([LONG, SHORT]), NOISE)
    assert batch.mask is masks.causal  # the fast path: pads stand to the right of everything
    assert batch.inputs.tolist() == [[BOS, 7, 8, 9], [BOS, 6, PAD, PAD]]  # <eos> is no input
    assert batch.asked.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.targets.tolist() == [7, 8, 9, EOS, 6, EOS]
    assert batch.source.tolist() == [1, 2, 3, 4, 1, 2]
    assert batch.shown.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert batch.denominator == 6 and batch.weights.tolist() == [1] * 6
    assert not batch.copied.any()
    assert NextToken().length == "free"


def test_previous_token_by_hand():
    (batch,) = PreviousToken().passes(Rows.padded([LONG, SHORT]), NOISE)
    assert batch.inputs.tolist() == [[7, 8, 9, EOS], [6, EOS, PAD, PAD]]
    assert batch.asked.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.targets.tolist() == [BOS, 7, 8, 9, BOS, 6]
    assert batch.source.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.shown.tolist() == [[1, 2, 3, 4], [1, 2, -1, -1]]
    assert batch.positions.tolist() == [[3, 2, 1, 0], [1, 0, 0, 0]]
    assert dense(batch.mask, 4)[1, 0].int().tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [0] * 4,
        [0] * 4,
    ]
    (given_length,) = PreviousToken("start").passes(Rows.padded([LONG, SHORT]), NOISE)
    assert given_length.positions.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert PreviousToken().length == "free" and PreviousToken("start").length == "given"
    with pytest.raises(ValueError, match="'middle'"):
        PreviousToken("middle")


def test_packed_rows_of_both_by_hand():
    (batch,) = NextToken().passes(Rows.packed([LONG, SHORT], 9), NOISE)
    assert batch.targets.tolist() == [7, 8, 9, EOS, 6, EOS]
    assert batch.source.tolist() == [1, 2, 3, 4, 6, 7]  # places of the row
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]  # places of the document
    assert batch.asked.tolist() == [[True] * 4 + [False] + [True] * 2 + [False]]
    assert dense(batch.mask, 8)[0, 0, 6].int().tolist() == [0, 0, 0, 0, 0, 1, 1, 0]
    assert batch.inputs.tolist() == [[BOS, 7, 8, 9, PAD, BOS, 6, PAD]]
    assert batch.shown.tolist() == [[0, 1, 2, 3, -1, 5, 6, -1]]
    (backward,) = PreviousToken().passes(Rows.packed([LONG, SHORT], 9), NOISE)
    assert backward.inputs.tolist() == [[7, 8, 9, EOS, PAD, 6, EOS, PAD]]
    assert backward.shown.tolist() == [[1, 2, 3, 4, -1, 6, 7, -1]]
    for objective in (NextToken(masks.bidirectional), PreviousToken(mask=masks.bidirectional)):
        (batch,) = objective.passes(Rows.packed([LONG, SHORT], 9), NOISE)
        assert torch.equal(dense(batch.mask, 8)[:, 0].any(1), batch.asked)  # who is seen at all


def slowly(rows, step):
    """What NextToken (step 1) and PreviousToken (step -1) must ask, one place at a time."""
    found = []
    for b, row in enumerate(rows.document.tolist()):
        for here, document in enumerate(row):
            other = here + step
            if document >= 0 and 0 <= other < len(row) and row[other] == document:
                found.append((b, here, int(rows.tokens[b, other]), other))
    return found


SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=8)


@given(SIZES, st.sampled_from(["padded", "packed"]), st.sampled_from([1, -1]))
def test_both_agree_with_a_slow_loop(sizes, layout, step):
    texts = documents(sizes)
    rows = Rows.padded(texts) if layout == "padded" else Rows.packed(texts, 14)
    objective, first = (NextToken(), 0) if step == 1 else (PreviousToken(), 1)
    (batch,) = objective.passes(rows, NOISE)
    b, i = batch.asked.nonzero(as_tuple=True)
    mine = torch.stack([b, i + first, batch.targets, batch.source], 1).tolist()
    assert [tuple(four) for four in mine] == slowly(rows, step)
    wide = rows.tokens.shape[1]
    places = torch.arange(wide).expand_as(rows.tokens)[:, first : first + wide - 1]
    tokens = rows.tokens[:, first : first + wide - 1]
    # The word at the far end of a document is an answer and never an input.
    assert torch.equal(batch.shown, places.masked_fill(~batch.asked, -1))
    assert torch.equal(batch.inputs, tokens.masked_fill(~batch.asked, PAD))


@given(SIZES)
def test_previous_token_is_next_token_of_the_reversed_document(sizes):
    for one in documents(sizes):
        (forward,) = NextToken().passes(Rows.padded([one.flip(0)]), NOISE)
        (backward,) = PreviousToken().passes(Rows.padded([one]), NOISE)
        time = len(one) - 1
        assert torch.equal(backward.inputs.flip(1), forward.inputs)
        assert torch.equal(backward.targets.flip(0), forward.targets)
        assert torch.equal(backward.positions.flip(1), forward.positions)
        seen = dense(backward.mask, time)[0, 0].flip(0, 1)
        assert torch.equal(seen, dense(forward.mask, time)[0, 0])


def test_its_loss_is_that_of_the_reversed_rows_in_any_layout():
    texts, model = documents([5, 9, 3]), tiny.gpt(vocab_size=506).double()
    mirrored = [t.flip(0) for t in texts]
    totals = []
    for objective, these in [(NextToken(), mirrored), (PreviousToken(), texts)]:
        for rows in (Rows.padded(these), Rows.packed(these, 16)):
            (batch,) = objective.passes(rows, NOISE)
            logits = model(batch.inputs, batch.mask, batch.positions)
            totals.append(objective.loss(logits, batch).item())
    assert totals == pytest.approx(totals[:1] * 4, rel=1e-6)


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [NextToken(), PreviousToken()], ids=repr)
@pytest.mark.parametrize("length", [None, 12])
def test_parts_of_a_batch_make_up_the_whole(objective, length):
    texts = documents([5, 9, 3, 6, 4, 2, 7])
    rows = Rows.padded(texts) if length is None else Rows.packed(texts, length)
    (batch,) = objective.passes(rows, NOISE)
    model = tiny.gpt(vocab_size=506).double()
    whole = model(batch.inputs, batch.mask, batch.positions)
    parts = [batch.take(slice(a, b)) for a, b in [(0, 1), (1, 2), (2, None)]]
    for name in ("inputs", "positions", "asked", "shown", "targets", "weights", "source", "copied"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(batch, name)), name
    assert {part.denominator for part in parts} == {batch.denominator}
    found = [model(part.inputs, part.mask, part.positions) for part in parts]
    torch.testing.assert_close(torch.cat(found), whole, atol=1e-10, rtol=0)
    losses = [objective.loss(x, part) for x, part in zip(found, parts, strict=True)]
    torch.testing.assert_close(sum(losses), objective.loss(whole, batch), rtol=1e-6, atol=0)


def test_a_part_in_which_nothing_is_asked_is_none():
    (batch,) = NextToken().passes(Rows.padded([LONG, text(BOS), SHORT]), NOISE)
    assert batch.take(slice(1, 2)) is None and batch.take(slice(3, 9)) is None
    assert batch.take(slice(1, 3)).targets.tolist() == [6, EOS]


def test_a_batch_that_asks_nothing_is_refused():
    for objective in (NextToken(), PreviousToken()):
        with pytest.raises(ValueError, match="nothing is asked"):
            objective.passes(Rows.padded([text(BOS), text(7)], 3), NOISE)
    (batch,) = NextToken().passes(Rows.padded([LONG]), NOISE)
    with pytest.raises(ValueError, match="4 outputs are asked"):
        replace(batch, targets=batch.targets[:3])


def test_nll_of_the_asked_outputs_and_of_all_outputs():
    rows = Rows.packed(documents([5, 9, 3]), 12)
    (batch,) = NextToken().passes(rows, NOISE)
    logits = torch.randn(*batch.inputs.shape, 506, generator=torch.Generator().manual_seed(0))
    nll = NextToken().nll(logits, batch)
    assert torch.equal(nll, NextToken().nll(logits[batch.asked], batch))
    b, i = batch.asked.nonzero(as_tuple=True)
    by_hand = -logits.log_softmax(-1)[b, i, batch.targets]
    torch.testing.assert_close(nll, by_hand)
    half = replace(batch, weights=torch.full_like(batch.weights, 0.5))
    torch.testing.assert_close(NextToken().loss(logits, half), 0.5 * by_hand.sum())


def test_coarse_logits_are_counted_in_float32():
    (batch,) = NextToken().passes(Rows.padded([LONG, SHORT]), torch.Generator())
    logits = torch.randn(len(batch.targets), 20, generator=torch.Generator().manual_seed(0)).half()
    found, wanted = (NextToken().nll(each, batch) for each in (logits, logits.float()))
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_names_say_what_was_set():
    assert repr(NextToken()) == "NextToken(mask=Mask(causal))"
    assert repr(PreviousToken("start")) == "PreviousToken(positions='start', mask=Mask(anticausal))"


# -- the objectives to come, on paper ----------------------------------------------------------
# Not their implementation: a proof that `Rows`, `Batch` and the certificate have room for them,
# beside those that are there.


def fields(rows, inputs, asked, mask, *, shown, copied=None, weights=None):
    """A `Batch` in which every output answers for its own place."""
    places = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
    count = int(asked.sum())
    return Batch(
        inputs=inputs,
        mask=mask,
        positions=rows.position,
        asked=asked,
        targets=rows.tokens[asked],
        weights=torch.ones(count) if weights is None else weights[asked],
        denominator=float(count),
        source=places[asked],
        shown=places.masked_fill(~shown, -1),
        copied=torch.zeros(count).bool() if copied is None else copied[asked],
    )


@dataclass(repr=False)
class MaskedLM(Objective):
    """BERT: a share of the words is asked; of these so many are masked, replaced, kept."""

    rate: float = 0.5
    split: tuple = (0.8, 0.1, 0.1)

    def passes(self, rows, generator):
        asked = (torch.rand(rows.tokens.shape, generator=generator) < self.rate) & rows.valid
        coin = torch.rand(rows.tokens.shape, generator=generator)
        masked = asked & (coin < self.split[0])
        kept = asked & (coin >= 1 - self.split[2])
        wrong = asked & ~masked & ~kept
        other = torch.randint(6, 506, rows.tokens.shape, generator=generator)
        inputs = torch.where(wrong, other, rows.tokens).masked_fill(masked, MASK)
        shown = rows.valid & ~masked & ~wrong
        mask = masks.documents(rows.document)
        return (fields(rows, inputs, asked, mask, shown=shown, copied=kept),)


@dataclass(repr=False)
class PrefixLM(Objective):
    """A prefix is read whole, the rest is written; nothing of the prefix is asked."""

    def passes(self, rows, generator):
        (batch,) = NextToken().passes(rows, generator)
        size = torch.randint(1, 4, (len(rows.tokens),), generator=generator)
        answers = batch.source >= size[batch.asked.nonzero()[:, 0]]
        asked = batch.asked.clone()
        asked[batch.asked] = answers
        names = ("targets", "weights", "source", "copied")
        return (
            replace(
                batch,
                asked=asked,
                mask=masks.prefix_lm(size) & masks.padding(batch.shown >= 0),
                denominator=float(answers.sum()),
                **{name: getattr(batch, name)[answers] for name in names},
            ),
        )


@dataclass(repr=False)
class AbsorbingDiffusion(Objective):
    """LLaDA, MDLM: a rate t per canvas, every word masked with it, loss 1/t on the masked ones."""

    layout = "canvas"

    def passes(self, rows, generator):
        t = torch.rand(len(rows.tokens), 1, generator=generator).clamp(min=0.2)
        masked = torch.rand(rows.tokens.shape, generator=generator) < t
        weights = (1 / t).expand_as(rows.tokens)
        inputs = rows.tokens.masked_fill(masked, MASK)
        batch = fields(rows, inputs, masked, masks.bidirectional, shown=~masked, weights=weights)
        return (replace(batch, denominator=float(len(rows.tokens))),)


OBJECTIVES = [MaskedLM(), ForwardBackward(), PrefixLM(), Denoising(), AbsorbingDiffusion()]


def newspapers(n):
    return Gazette.load().sample(n, torch.Generator().manual_seed(0))


def laid_out(objective, texts):
    """One document a row, as `PrefixLM` needs it."""
    return (objective if objective.layout == "canvas" else Laid("padded")).rows(texts, 32)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_present_and_coming_objectives_fit_and_are_sound(objective, layers):
    rows = laid_out(objective, newspapers(8))
    found = certificate(objective, rows, layers, torch.Generator().manual_seed(1))
    assert found.sound, found
    share = {"MaskedLM": 0.1, "Denoising": None}.get(type(objective).__name__, 0.0)
    if share is not None:
        assert found.copied_share == pytest.approx(share, abs=0.05 if share else 0)


@pytest.mark.parametrize("objective", [MaskedLM(), Denoising()], ids=lambda o: type(o).__name__)
def test_copies_are_the_declared_ones(objective):
    rows = Rows.padded(newspapers(200), 32)
    (batch,) = objective.passes(rows, torch.Generator().manual_seed(1))
    found = certificate(objective, rows, 1, torch.Generator().manual_seed(1))
    assert found.copies == int(batch.copied.sum()) > 0
    assert found.copied_share == pytest.approx(batch.copied.double().mean().item())
    if isinstance(objective, MaskedLM):
        assert abs(found.copied_share - 0.1) < 0.02


@pytest.mark.parametrize("split", [(0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_copied_share_follows_the_split(split):
    found = certificate(MaskedLM(1.0, split), Rows.padded(newspapers(8)), 2)
    assert found.sound and found.copied_share == split[2]


def test_a_masked_word_that_is_shown_is_a_leak_and_not_a_copy():
    @dataclass(repr=False)
    class Careless(MaskedLM):
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            return (replace(batch, copied=torch.zeros_like(batch.copied)),)

    found = certificate(Careless(), Rows.padded(newspapers(8)), 1)
    assert not found.sound and found.copies == 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_their_parts_add_up_too(objective):
    rows = laid_out(objective, newspapers(5))
    model = tiny.gpt(vocab_size=830, n_positions=32).double()
    for batch in objective.make(rows, torch.Generator().manual_seed(5)):
        logits = model(batch.inputs, batch.mask, batch.positions)
        whole = objective.loss(logits, batch)
        parts = [batch.take(slice(a, a + 1)) for a in range(len(batch.inputs))]
        parts = [part for part in parts if part is not None]
        total = sum(objective.loss(model(p.inputs, p.mask, p.positions), p) for p in parts)
        torch.testing.assert_close(total, whole, rtol=1e-5, atol=0)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_asked_share_of_a_masked_lm_is_weighed_right(seed):
    """1/t times the number of masked words has the number of words as its mean, over t."""
    rows = AbsorbingDiffusion().rows([LONG] * 400, 8)
    (batch,) = AbsorbingDiffusion().passes(rows, torch.Generator().manual_seed(seed))
    assert batch.weights.sum() / batch.denominator == pytest.approx(8, rel=0.15)
