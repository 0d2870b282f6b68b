"""Denoising: the note's own code is the reference, its two discounts and its copies by hand."""

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objectives import documents, text

from mylib.gazette import Gazette
from mylib.leaks import certificate
from mylib.masks import bidirectional, dense
from mylib.objectives import Denoising, Rows
from mylib.tokenizer import BOS, BW, EOS, MASK, PAD, lexicon

WORDS = range(6, 506)  # the words of `documents`


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def noised(rows, seed=0, **options):
    (batch,) = Denoising(**options).passes(rows, chance(seed))
    return batch


def flat(rows, values):
    """(B, T) as one entry for each asked answer, where all real tokens are asked."""
    return values[rows.valid]


# -- the note's code ---------------------------------------------------------------------------


def note_loss(logits, targets, inputs, mask_token_id, penalty_keep_mask, penalty_mask_correct):
    """`diffusion_loss_function` of the note, as it stands there."""
    flat_logits = logits.view(-1, logits.size(-1))
    flat_targets = targets.view(-1)
    flat_inputs = inputs.view(-1)
    flat_predictions = torch.argmax(flat_logits, dim=1)

    per_token_loss = F.cross_entropy(flat_logits, flat_targets, ignore_index=-1, reduction="none")
    weights = torch.ones_like(per_token_loss)

    case1_positions = (
        (flat_inputs == mask_token_id)
        & (flat_targets != mask_token_id)
        & (flat_predictions == mask_token_id)
    )
    weights[case1_positions] = penalty_keep_mask

    case3a_positions = (
        (flat_inputs == flat_targets)
        & (flat_inputs != mask_token_id)
        & (flat_predictions == mask_token_id)
    )
    weights[case3a_positions] = penalty_mask_correct

    return (per_token_loss * weights).mean()


def note_corrupt(clean, vocabulary, mask_token_id, draws, share_of):
    """The loop of the note's `get_batch` for one row; only its three draws are handed in."""
    u_mask, u_random, rand_pos, random_tokens = draws
    corrupted, target = clean.clone(), clean.clone()
    t = len(clean)
    rate_mask = u_mask * 0.99
    rate_random = u_random * (0.99 - rate_mask)
    num_to_mask = int(t * rate_mask)
    num_to_random = int(t * rate_random)
    if share_of == "remaining":  # the note's text; its code says "total"
        num_to_random = int((t - num_to_mask) * rate_random)
    pos_mask = rand_pos[:num_to_mask]
    pos_random = rand_pos[num_to_mask : num_to_mask + num_to_random]
    corrupted[pos_mask] = mask_token_id
    corrupted[pos_random] = (clean[pos_random] + random_tokens[pos_random]) % vocabulary
    target[pos_random] = mask_token_id
    return corrupted, target


@pytest.mark.parametrize("rates", ["total", "remaining"])
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(3, 40), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_a_batch_is_the_note_s_batch(rates, sizes, seed):
    """Same draws, same batch: in the order of rates of masks, of words, places, and words."""
    texts = [d[1:-1] for d in documents([size + 2 for size in sizes])]
    rows = Rows.padded(texts)
    batch = noised(rows, seed, rates=rates, replacements=WORDS)
    same, shape = chance(seed), rows.tokens.shape
    u_mask = torch.rand(len(texts), generator=same)
    u_random = torch.rand(len(texts), generator=same)
    places = torch.rand(shape, generator=same)
    steps = torch.randint(1, len(WORDS), shape, generator=same)
    inputs, targets = [], []
    for i, one in enumerate(texts):
        # The note's words are 0, 1, ..., and its [MASK] is the id behind the last of them.
        draws = u_mask[i], u_random[i], places[i, : len(one)].argsort(), steps[i]
        pair = note_corrupt(one - WORDS.start, len(WORDS), len(WORDS), draws, rates)
        for found, values in zip((inputs, targets), pair, strict=True):
            found.append((values + WORDS.start).masked_fill(values == len(WORDS), MASK))
    assert batch.inputs[rows.valid].tolist() == torch.cat(inputs).tolist()
    assert batch.targets.tolist() == torch.cat(targets).tolist()
    assert batch.denominator == sum(sizes)


def expected_shares(rates, size=None):
    """Masked, replaced, untouched: the mean over a fine grid of the two uniform draws."""
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    mask = 0.99 * u[:, None].expand(-1, 2000)
    random = (0.99 - mask) * u[None, :]
    if size is None:  # a row without end: nothing is rounded down
        randoms = random if rates == "total" else (1 - mask) * random
        masks, whole = mask, 1
    else:
        masks = (size * mask).floor()
        randoms = ((size if rates == "total" else size - masks) * random).floor()
        whole = size
    shares = [float(masks.mean() / whole), float(randoms.mean() / whole)]
    return [*shares, 1 - sum(shares)]


@pytest.mark.parametrize(
    ("rates", "long_rows"),
    [("total", [0.495, 0.2475, 0.2575]), ("remaining", [0.495, 0.1658, 0.3392])],
)
def test_shares_of_masked_wrong_and_untouched_words(rates, long_rows):
    assert expected_shares(rates) == pytest.approx(long_rows, abs=1e-4)
    tokens = torch.randint(6, 411, (20_000, 20), generator=chance(1))
    batch = noised(Rows.padded(list(tokens)), rates=rates)
    masked = (batch.inputs == MASK).double()
    same = (batch.inputs == tokens).double()
    found = [masked.mean(), 1 - masked.mean() - same.mean(), same.mean()]
    # Four standard errors of the share of masks, the widest of the three.
    assert torch.stack(found).tolist() == pytest.approx(expected_shares(rates, 20), abs=0.0082)
    # Each row has rates of its own, from hardly any to nearly all.
    per_row = masked.sum(1)
    assert per_row.min() == 0 and per_row.max() == int(0.99 * 20)
    assert per_row.std() == pytest.approx(0.99 * 20 / 12**0.5, rel=0.03)


# -- batches -----------------------------------------------------------------------------------


class ByHand(Denoising):
    """Places are given instead of drawn."""

    def __init__(self, masked, wrong, **options):
        super().__init__(**options)
        self.places = masked, wrong

    def _noise(self, valid, generator):
        return tuple(torch.tensor(places).bool() for places in self.places)


def test_a_batch_by_hand():
    rows = Rows.padded([text(BOS, 7, 8, 9, EOS), text(BOS, 6, EOS)])
    # 9 can only become 10, and the other way round.
    objective = ByHand([[0, 1, 0, 0, 0], [0] * 5], [[0, 0, 0, 1, 0]] * 2, replacements=range(9, 11))
    objective.places[1][1] = [0] * 5
    (batch,) = objective.passes(rows, chance())
    assert batch.inputs.tolist() == [[BOS, MASK, 8, 10, EOS], [BOS, 6, EOS, PAD, PAD]]
    assert batch.targets.tolist() == [BOS, 7, 8, MASK, EOS, BOS, 6, EOS]
    assert batch.asked.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert batch.source.tolist() == [0, 1, 2, -1, 4, 0, 1, 2]
    assert batch.shown.tolist() == [[0, -1, 2, -1, 4], [0, 1, 2, -1, -1]]
    assert batch.copied.tolist() == [True, False, True, False, True, True, True, True]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert batch.denominator == 8 and batch.weights.tolist() == [1] * 8
    visible = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    for row, keys in enumerate(visible):
        assert dense(batch.mask, 5)[row, 0].int().tolist() == [keys] * 5


def test_a_canvas_by_hand():
    rows = Rows.padded([text(BOS, 6, EOS)], 5).canvas
    objective = ByHand([[0, 0, 1, 1, 0]], [[0, 0, 0, 0, 1]], replacements=range(9, 11))
    (batch,) = objective.passes(rows, chance())
    assert batch.inputs[0, :4].tolist() == [BOS, 6, MASK, MASK]
    assert int(batch.inputs[0, 4]) in (9, 10)  # <pad> is outside: either will do
    assert batch.targets.tolist() == [BOS, 6, EOS, PAD, MASK]
    assert batch.asked.all() and batch.mask is bidirectional
    assert batch.source.tolist() == [0, 1, 2, 3, -1]
    assert batch.shown.tolist() == [[0, 1, -1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4]]


def test_a_wrong_word_is_another_one_and_each_as_likely():
    words = range(7, 12)
    tokens = torch.tensor([BOS, *words, EOS, 20]).repeat(20_000, 1)  # three of them outside
    batch = noised(Rows.padded(list(tokens)), replacements=words)
    wrong = (batch.inputs != tokens) & (batch.inputs != MASK)
    for token in tokens[0].tolist():
        found = batch.inputs[wrong & (tokens == token)]
        counts = torch.bincount(found, minlength=21)
        others = [word for word in words if word != token]
        assert counts.sum() == counts[others].sum() > 3000, token
        share = 1 / len(others)
        allowed = 4.5 * (len(found) * share * (1 - share)) ** 0.5
        assert (counts[others] - len(found) * share).abs().max() < allowed, token


def test_wrong_words_are_of_the_lexicon_unless_asked():
    rows = Rows.padded(documents([30] * 12), 40).canvas
    assert Denoising().replacements == lexicon()
    for options, words in [({}, lexicon()), ({"replacements": range(600, 610)}, range(600, 610))]:
        batch = noised(rows, **options)
        wrong = (batch.inputs != rows.tokens) & (batch.inputs != MASK)
        assert wrong.sum() > 40
        assert set(batch.inputs[wrong].tolist()) <= set(words)


def test_padding_of_padded_rows_is_left_alone():
    rows = Rows.padded(documents([30, 4, 9, 17] * 25), 40)
    batch = noised(rows)
    assert (batch.inputs[~rows.valid] == PAD).all() and (batch.shown[~rows.valid] == -1).all()
    assert torch.equal(batch.asked, rows.valid)
    assert torch.equal(dense(batch.mask, 40)[:, 0, 0], rows.valid)  # nobody sees a pad
    # Rates are of the document: a row of 4 has at most 3 words touched.
    touched = ((batch.inputs != rows.tokens) & rows.valid).sum(1)
    assert (touched <= (0.99 * rows.valid.sum(1)).long()).all() and touched.min() == 0


def test_padding_of_a_canvas_is_text():
    rows = Rows.padded([text(BOS, 8, EOS)] * 4000, 30).canvas
    batch = noised(rows)
    assert batch.asked.all() and batch.mask is bidirectional
    is_pad = rows.tokens == PAD
    masked, same = batch.inputs == MASK, batch.inputs == rows.tokens
    for what in (masked, same, ~masked & ~same):
        assert what[is_pad].double().mean() == pytest.approx(
            what[~is_pad].double().mean().item(), abs=0.02
        )
    targets = batch.targets.view(rows.tokens.shape)
    assert (targets[is_pad & masked] == PAD).all()
    assert (targets[is_pad & ~masked & ~same] == MASK).all()


def test_packed_rows_keep_documents_apart():
    texts = documents([5, 9, 3, 6])
    rows = Rows.packed(texts, 16)
    batch = noised(rows)
    b, t = rows.tokens.shape
    for row in range(b):
        for query in range(t):
            own = rows.document[row] == rows.document[row, query]
            wanted = own & (rows.document[row, query] >= 0)
            assert torch.equal(dense(batch.mask, t)[row, 0, query], wanted)
    assert torch.equal(batch.asked, rows.valid) and torch.equal(batch.positions, rows.position)
    model = tiny.gpt(vocab_size=506)
    other = batch.inputs.clone()
    other[rows.document != 0] = 77
    before, after = (model(ids, batch.mask, batch.positions) for ids in (batch.inputs, other))
    first = rows.document == 0
    torch.testing.assert_close(before[first], after[first])
    assert not torch.equal(before[~first], after[~first])


def test_it_depends_on_its_generator_alone():
    rows = Rows.padded(documents([30] * 4))
    one, again, other = (noised(rows, seed) for seed in (1, 1, 2))
    assert torch.equal(one.inputs, again.inputs) and not torch.equal(one.inputs, other.inputs)
    state = torch.get_rng_state()
    noised(rows)
    assert torch.equal(torch.get_rng_state(), state)


# -- loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("discounts", [(0.25, 0.5), (1.0, 1.0), (0.0, 2.0)])
def test_the_loss_is_the_note_s_times_the_number_of_words(discounts):
    rows = Rows.padded(documents([30] * 20), 32).canvas
    objective = Denoising(*discounts)
    (batch,) = objective.passes(rows, chance())
    logits = torch.randn(*batch.inputs.shape, 506, generator=chance(1))
    logits[..., MASK] += 3.2  # the likeliest about half of the time
    wanted = note_loss(logits, batch.targets, batch.inputs, MASK, *discounts)
    found = objective.loss(logits, batch)
    assert (found / batch.denominator).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert objective.loss(logits[batch.asked], batch).item() == pytest.approx(found.item())
    plain = objective.nll(logits, batch).sum()
    assert (abs(found - plain) < 1e-6 * plain) == (discounts == (1.0, 1.0))


# what the input is, what is wanted, what is the likeliest answer, and the weight of the loss
CASES = [
    (MASK, 8, MASK, 0.25),
    (MASK, 8, 8, 1.0),
    (MASK, 8, 9, 1.0),
    (8, 8, MASK, 0.5),
    (8, 8, 8, 1.0),
    (8, 8, 9, 1.0),
    (9, MASK, MASK, 1.0),
    (9, MASK, 9, 1.0),
    (9, MASK, 8, 1.0),
    (MASK, MASK, MASK, 1.0),  # a text that holds the token [MASK] itself
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_discount_by_hand(case):
    given_, wanted, likeliest, weight = case
    clean = MASK if given_ == wanted == MASK else 8
    rows = Rows.padded([text(clean)])
    objective = ByHand([[given_ == MASK]], [[given_ == 9]], replacements=range(8, 10))
    (batch,) = objective.passes(rows, chance())
    assert (batch.inputs.tolist(), batch.targets.tolist()) == ([[given_]], [wanted])
    logits = torch.linspace(-1, 1, 12)[None].clone()
    logits[0, likeliest] = 2.0
    nll = -logits.log_softmax(-1)[0, wanted]
    assert objective.loss(logits, batch).item() == pytest.approx(weight * nll.item())
    assert objective.nll(logits, batch).tolist() == pytest.approx([nll.item()])  # undiscounted
    double = replace(batch, weights=torch.tensor([2.0]))
    assert objective.loss(logits, double).item() == pytest.approx(2 * weight * nll.item())


def test_where_each_discount_applies():
    """All cases in one row: the first discount at "I don't know", the second at "nervous"."""
    clean = torch.tensor([MASK if case[:2] == (MASK, MASK) else 8 for case in CASES])
    masked = [[given_ == MASK for given_, *_ in CASES]]
    objective = ByHand(masked, [[given_ == 9 for given_, *_ in CASES]], replacements=range(8, 10))
    (batch,) = objective.passes(Rows.padded([clean]), chance())
    assert batch.inputs[0].tolist() == [case[0] for case in CASES]
    logits = torch.zeros(len(CASES), 12)
    logits[torch.arange(len(CASES)), [case[2] for case in CASES]] = 2.0
    unsure, nervous = objective.discounts(logits, batch)
    assert unsure.dtype == nervous.dtype == torch.bool
    assert unsure.tolist() == [case[3] == 0.25 for case in CASES]
    assert nervous.tolist() == [case[3] == 0.5 for case in CASES]
    assert unsure.sum() == nervous.sum() == 1
    # It is the loss's own discount, whatever the factors are.
    nll = objective.nll(logits, batch)
    other = ByHand(masked, None, keep_mask=3.0, mask_correct=7.0)
    wanted = (nll * (1 + 2 * unsure + 6 * nervous)).sum()
    torch.testing.assert_close(other.loss(logits, batch), wanted)


def test_another_mask_token():
    """What is written, asked and discounted is that token, and 3 is a word like any other."""
    own = 11
    rows = Rows.padded([text(8, 8, MASK, 9)])
    objective = ByHand([[1, 0, 0, 0]], [[0, 0, 0, 1]], replacements=range(8, 10), mask_token=own)
    (batch,) = objective.passes(rows, chance())
    assert batch.inputs.tolist() == [[own, 8, MASK, 8]]
    assert batch.targets.tolist() == [8, 8, MASK, own]
    logits = torch.zeros(4, 12)
    logits[:, own] = 2.0
    unsure, nervous = objective.discounts(logits, batch)
    assert unsure.tolist() == [True, False, False, False]
    assert nervous.tolist() == [False, True, True, False]
    logits[:, MASK] = 4.0  # now 3 is the likeliest everywhere: nobody says "I don't know"
    assert not any(fires.any() for fires in objective.discounts(logits, batch))
    assert objective.loss(logits, batch) == objective.nll(logits, batch).sum()
    assert "mask_token=11" in repr(Denoising(mask_token=11, replacements=range(6, 9)))


def test_discounts_scale_gradients_and_get_none_themselves():
    (batch,) = ByHand([[True]], [[False]]).passes(Rows.padded([text(8)]), chance())
    logits = torch.zeros(1, 12)
    logits[0, MASK] = 1.0
    gradients = []
    for objective in (Denoising(), Denoising(keep_mask=1.0)):
        mine = logits.clone().requires_grad_()
        objective.loss(mine, batch).backward()
        gradients.append(mine.grad)
    torch.testing.assert_close(gradients[0], 0.25 * gradients[1])
    # Undiscounted it is the gradient of the cross entropy: a discount adds none of its own.
    wanted = logits.softmax(-1) - F.one_hot(torch.tensor([8]), 12)
    torch.testing.assert_close(gradients[1], wanted)


# -- copies and leaks --------------------------------------------------------------------------


def newspapers(n):
    return Gazette.load().sample(n, chance())


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("layout", ["canvas", "padded", "packed"])
def test_it_is_sound_and_its_copies_are_the_untouched_words(layout, layers):
    texts = newspapers(12)
    rows = {
        "canvas": Denoising().rows(texts, 34),
        "padded": Rows.padded(texts, 34),
        "packed": Rows.packed(texts, 68),
    }[layout]
    batch = noised(rows, seed=1)
    untouched = (batch.inputs == rows.tokens) & rows.valid
    assert torch.equal(batch.copied, flat(rows, untouched))
    assert torch.equal(batch.shown >= 0, untouched)
    found = certificate(Denoising(), rows, layers, chance(1))
    assert found.sound and found.copies == int(untouched.sum()) > 20
    assert found.asked == int(rows.valid.sum())


def test_a_copy_that_is_not_declared_is_a_leak():
    class Silent(Denoising):
        def passes(self, rows, generator):
            (batch,) = super().passes(rows, generator)
            batch.copied.zero_()
            return (batch,)

    found = certificate(Silent(), Rows.padded(newspapers(4)), 1)
    assert not found.sound and found.copies == 0


# -- settings ----------------------------------------------------------------------------------


def test_name_layout_and_length():
    assert repr(Denoising(rates="remaining", replacements=range(6, 9))) == (
        "Denoising(keep_mask=0.25, mask_correct=0.5, rates='remaining', replacements=range(6, 9))"
    )
    assert Denoising.layout == "canvas" and Denoising.length == "free"
    rows = Denoising().rows([text(BOS, 8, EOS)], 5)
    assert rows.valid.all() and rows.tokens.tolist() == [[BOS, 8, EOS, PAD, PAD]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rates="some"), "'total' or the 'remaining' tokens, not 'some'"),
        (dict(replacements=range(6, 7)), "at least 2 replacements"),
        (dict(replacements=range(6, 6)), "at least 2 replacements"),
        (dict(replacements=range(0, 411)), r"without \[MASK\], not range\(0, 411\)"),
        (dict(replacements=range(6, 20, 2)), "consecutive ids"),
        (dict(replacements=range(20, 6, -1)), "consecutive ids"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Denoising(**options)
    assert Denoising(replacements=range(BW + 1, BW + 3)).rates == "total"
