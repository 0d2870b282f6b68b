"""Writing: what is drawn, in which order, and that the cache and the padding change nothing."""

import math

import pytest
import tiny
import torch
from torch.nn.functional import pad

from mylib import masks
from mylib.gazette import Gazette
from mylib.objectives import PreviousToken, Rows
from mylib.sampling import (
    ORDERS,
    aligned,
    choose,
    generate,
    generate_backward,
    settled,
    write,
)
from mylib.tokenizer import BOS, EOS, MASK, PAD

GREEDY = dict(temperature=0, stop=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def always(*tokens, vocab=10):
    """A model that answers everywhere with these tokens, the first most likely."""
    logits = torch.zeros(vocab)
    for rank, token in enumerate(tokens):
        logits[token] = 9.0 - rank
    return lambda ids: logits.expand(*ids.shape, -1)


@pytest.fixture(scope="module")
def oracle():
    return Gazette.load()


# -- one draw ----------------------------------------------------------------------------------

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 1.5])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "forbid"), [(None, ()), (3, ()), (3, (0,)), (6, (1, 5))])
def test_draws_follow_the_distribution(temperature, top_k, forbid):
    n = 20_000
    tokens, log_p = choose(LOGITS.expand(n, -1), seeded(), temperature, top_k, forbid)
    wanted = (LOGITS.double() / temperature).index_fill(0, torch.tensor(forbid).long(), -math.inf)
    least = wanted.sort(descending=True).values[(top_k or 6) - 1]
    wanted = wanted.masked_fill(wanted < least, -math.inf).softmax(-1)
    counts = tokens.bincount(minlength=6)
    open_ = wanted > 0
    assert (counts[~open_] == 0).all()
    chi_square = ((counts - n * wanted)[open_] ** 2 / (n * wanted)[open_]).sum()
    assert chi_square < 25  # 1e-4 at five degrees of freedom
    torch.testing.assert_close(log_p, wanted.log()[tokens])


def test_temperature_zero_takes_the_most_likely():
    logits = torch.randn(50, 9, generator=seeded())
    tokens, log_p = choose(logits, None, temperature=0)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(log_p, logits.double().log_softmax(-1).amax(-1))
    best = int(logits[0].argmax())
    assert int(choose(logits[:1], None, 0, forbid=(best,))[0]) == int(logits[0].topk(2).indices[1])


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 1e-320])
def test_a_low_temperature_is_almost_greedy(temperature):
    tokens, _ = choose(LOGITS.expand(100, -1), seeded(), temperature)
    assert (tokens == 0).all()


def test_top_k_keeps_k_even_of_equals():
    tokens, _ = choose(torch.zeros(500, 8), seeded(), top_k=3)
    assert len(tokens.unique()) == 3
    tokens, _ = choose(torch.zeros(500, 8), seeded(), top_k=1)
    assert len(tokens.unique()) == 1


def nucleus(p, top_p):
    """The fewest of the likeliest whose sum reaches ``top_p``, one at a time."""
    kept, total = [], 0.0
    for token in sorted(range(len(p)), key=lambda n: -p[n]):
        if total >= top_p:
            break
        kept.append(token)
        total += p[token]
    return kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.62, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [None, 4])
def test_top_p_keeps_the_fewest_that_reach_it(temperature, top_p, top_k):
    for seed in range(5):
        logits = torch.randn(3, 9, generator=seeded(seed)) * 2
        found = settled(logits, temperature, top_k, (2,), top_p).exp()
        for row, mine in zip(logits, found, strict=True):
            wanted = (row.double() / temperature).index_fill(0, torch.tensor(2), -math.inf)
            if top_k:
                wanted = wanted.masked_fill(wanted < wanted.topk(top_k).values[-1], -math.inf)
            p = wanted.softmax(-1)  # of what top_k leaves
            kept = torch.zeros(9).bool()
            kept[nucleus(p.tolist(), top_p)] = True
            kept &= p > 0
            torch.testing.assert_close(mine, p * kept / (p * kept).sum())


def test_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    for top_p, words in [(0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.876, 4), (1, 4)]:
        kept = settled(logits, top_p=top_p).exp()[0]
        assert (kept > 0).sum() == words, top_p
        torch.testing.assert_close(kept[0] / kept.sum(), kept[0])
    tokens, log_p = choose(logits.expand(500, -1), seeded(), top_p=0.6)
    assert set(tokens.tolist()) == {0, 1}
    torch.testing.assert_close(log_p.exp(), torch.tensor([2 / 3, 1 / 3]).double()[tokens])
    # Of equals the first, and never more than are needed.
    assert (settled(torch.zeros(1, 8), top_p=0.5).exp()[0] > 0).tolist() == [True] * 4 + [False] * 4
    for words in range(1, 10):  # whose sum is 0.30000000000000004, and the like
        found = settled(torch.zeros(1, 10), top_p=words / 10).exp()[0]
        assert (found > 0).tolist() == [True] * words + [False] * (10 - words)
    assert (settled(torch.zeros(1, 8), top_p=1e-12).exp()[0] > 0).sum() == 1
    assert torch.equal(choose(logits, None, 0, top_p=0.1)[0], torch.tensor([0]))


def test_top_p_in_generate():
    p = torch.full((10,), -math.inf)
    p[6:9] = torch.tensor([0.6, 0.3, 0.1]).log()
    how = dict(generator=seeded(), stop=None)
    prompt = torch.full((1, 1), BOS)
    for top_p, words in ((None, {6, 7, 8}), (0.7, {6, 7}), (0.5, {6})):
        ids = generate(lambda ids: p.expand(*ids.shape, -1), prompt, 80, top_p=top_p, **how).ids
        assert set(ids[0, 1:].tolist()) == words


def test_the_callers_logits_stay_as_they_are():
    logits = LOGITS[None].clone()
    choose(logits, seeded(), 0.5, 2, (0,), 0.5)
    assert torch.equal(logits[0], LOGITS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=-0.1), "got -0.1"),
        (dict(temperature=math.nan), "got nan"),
        (dict(temperature=math.inf), "got inf"),
        (dict(top_k=0), r"1\.\.6, got 0"),
        (dict(top_k=7), r"1\.\.6, got 7"),
        (dict(top_p=0.0), r"above 0 and is at most 1, got 0\.0"),
        (dict(top_p=1.01), r"above 0 and is at most 1, got 1\.01"),
        (dict(top_p=math.nan), "got nan"),
        (dict(logits=LOGITS[None] * math.nan), "NaN"),
        (dict(logits=LOGITS[None] * math.inf), "NaN"),
        (dict(logits=LOGITS[None] - math.inf), "forbidden or impossible"),
        (dict(forbid=range(6)), "forbidden or impossible"),
    ],
)
def test_draws_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        choose(**{"logits": LOGITS[None], "generator": seeded()} | settings)


# -- left to right -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [GREEDY, dict(temperature=1.0, top_k=8)], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("sizes", [(3, 3), (1, 4, 6)])
def test_the_cache_changes_nothing(settings, sizes):
    model = tiny.gpt(n_positions=24)
    prompts = [tiny.ids(1, n, seed=n)[0] for n in sizes]
    found = [
        generate(model, prompts, 12, use_cache=cached, generator=seeded(4), **settings).ids
        for cached in (True, False)
    ]
    assert torch.equal(*found)
    assert found[0].shape == (len(sizes), max(sizes) + 12)


def test_it_writes_what_the_model_says():
    model, ids = tiny.gpt(), tiny.ids(2, 3)
    written = generate(model, ids, 8, forbid=(), **GREEDY).ids
    for end in range(3, 11):
        assert torch.equal(written[:, end], model(written[:, :end])[:, -1].argmax(-1))


def test_unequal_prompts_are_each_continued_as_if_alone():
    model = tiny.gpt(n_positions=24)
    prompts = [tiny.ids(1, n, seed=n)[0] for n in (1, 6, 3, 4)]
    together = generate(model, prompts, 10, **GREEDY).ids
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(model, [prompt], 10, **GREEDY).ids[0]
        assert torch.equal(row[6 - len(prompt) :], alone)
        assert (row[: 6 - len(prompt)] == PAD).all()


def test_frames_passes_and_stop():
    trace = generate(always(EOS), torch.full((2, 1), BOS), 5, temperature=0)
    assert trace.passes == 1 == len(trace.frames) and trace.ids.tolist() == [[BOS, EOS]] * 2
    endless = generate(always(7), torch.full((2, 1), BOS), 5, temperature=0)
    assert endless.passes == 5 and endless.ids.tolist() == [[BOS, 7, 7, 7, 7, 7]] * 2
    assert [frame.shape[1] for frame in endless.frames] == [2, 3, 4, 5, 6]
    assert torch.equal(endless.frames[-1], endless.ids)

    def second_row_ends(ids):
        return torch.stack([always(7)(ids)[0], always(EOS)(ids)[0]])

    mixed = generate(second_row_ends, torch.full((2, 1), BOS), 3, temperature=0).ids
    assert mixed.tolist() == [[BOS, 7, 7, 7], [BOS, EOS, PAD, PAD]]
    go_on = generate(second_row_ends, torch.full((2, 1), BOS), 3, temperature=0, stop=None).ids
    assert go_on[1].tolist() == [BOS, EOS, EOS, EOS]


def test_pad_and_mask_are_never_written_unless_allowed():
    prompts = torch.full((3, 1), BOS)
    model = always(PAD, MASK, 8)
    assert generate(model, prompts, 4, temperature=0).ids[:, 1:].unique().tolist() == [8]
    written = generate(model, prompts, 50, temperature=3.0, generator=seeded(), stop=None).ids
    assert not ((written == PAD) | (written == MASK)).any()
    free = generate(model, prompts, 4, temperature=0, forbid=(), stop=None).ids
    assert free[:, 1:].unique().tolist() == [PAD]


def test_a_generator_makes_it_the_same_again():
    model, ids = tiny.gpt(scale=0.1), tiny.ids(4, 3)
    one, two, other = (generate(model, ids, 9, generator=seeded(s)).ids for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    generate(model, ids, 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(prompts=[]), "at least one token"),
        (dict(prompts=[torch.tensor([7]), torch.tensor([]).long()]), "at least one token"),
        (dict(max_new_tokens=0), "at least 1, got 0"),
        (dict(max_new_tokens=15), "3 prompt tokens and 15 new ones do not fit 16 positions"),
        (dict(temperature=-1), "got -1"),
        (dict(top_k=17), r"1\.\.16"),
        (dict(model=always(7), prompts=[torch.tensor([7]), torch.tensor([7, 7])]), "need a GPT"),
    ],
)
def test_what_cannot_be_continued(arguments, message):
    wanted = {"model": tiny.gpt(), "prompts": tiny.ids(2, 3), "max_new_tokens": 4} | arguments
    with pytest.raises(ValueError, match=message):
        generate(**wanted)


def test_a_text_may_fill_all_positions():
    assert generate(tiny.gpt(), tiny.ids(2, 3), 14, **GREEDY).ids.shape == (2, 17)


# -- in any order ------------------------------------------------------------------------------


def canvas(*rows):
    return torch.tensor(rows)


HOLES = canvas([BOS, MASK, 7, MASK, MASK, MASK], [BOS, 8, MASK, EOS, PAD, PAD])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("budget", [1, 2, 3, 9])
def test_given_words_stay_and_the_budget_counts(order, budget):
    trace = write(tiny.gpt(), HOLES, order, budget, generator=seeded())
    assert trace.passes == len(trace.frames) == math.ceil(4 / budget)
    assert not (trace.ids == MASK).any()
    before = HOLES
    for frame in trace.frames:
        changed = frame != before
        assert (before[changed] == MASK).all()
        holes = (before == MASK).sum(1)
        assert torch.equal(changed.sum(1), holes.clamp(max=budget))
        before = frame
    assert (canvas([BOS, MASK, 7, MASK, MASK, MASK], [BOS, 8, MASK, EOS, PAD, PAD]) == HOLES).all()


def test_orders():
    left = write(tiny.gpt(), HOLES[:1], "left", 1, generator=seeded())
    filled = [int((frame != MASK)[0].sum()) for frame in left.frames]
    assert filled == [3, 4, 5, 6]
    assert [int((f[0] == MASK).nonzero()[0]) for f in left.frames[:-1]] == [3, 4, 5]

    def sure_of_place_4(ids):
        logits = torch.zeros(*ids.shape, 10)
        logits[:, :, 7] = torch.tensor([0.0, 1, 2, 3, 9, 4])
        return logits

    sure = write(sure_of_place_4, HOLES[:1], "confidence", 1, temperature=0)
    was_hole = [(frame[0] != MASK).nonzero()[:, 0].tolist() for frame in sure.frames]
    assert was_hole == [[0, 2, 4], [0, 2, 4, 5], [0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    first = set()
    for seed in range(60):
        trace = write(always(7), HOLES[:1], "random", 1, generator=seeded(seed))
        (place,) = ((trace.frames[0] != MASK) & (HOLES[:1] == MASK)).nonzero()[:, 1].tolist()
        first.add(place)
    assert first == {1, 3, 4, 5}


def test_one_pass_reads_once_and_draws_all():
    calls = []

    def model(ids):
        calls.append(ids.clone())
        return always(7)(ids)

    trace = write(model, HOLES, "left", 99, temperature=0)
    assert len(calls) == 1 == trace.passes and torch.equal(calls[0], HOLES)
    assert trace.ids[0].tolist() == [BOS, 7, 7, 7, 7, 7]


def test_mask_is_written_only_where_allowed():
    assert (write(always(MASK, 8), HOLES, temperature=0, generator=seeded()).ids != MASK).all()
    # Where it is allowed, a [MASK] that is drawn is a hole like any other.
    allowed = dict(temperature=0, forbid_mask=False, budget=9, generator=seeded())
    trace = write(always(MASK, 8), HOLES, max_passes=3, leave=True, **allowed)
    assert torch.equal(trace.ids, HOLES) and trace.passes == 3
    assert torch.equal(trace.commits == -1, HOLES == MASK) and not trace.row_passes.any()
    # The last pass writes something, unless it is told to leave it.
    trace = write(always(MASK, 8), HOLES, max_passes=3, **allowed)
    assert torch.equal(trace.ids, HOLES.masked_fill(HOLES == MASK, 8)) and trace.passes == 3
    with pytest.raises(ValueError, match="need max_passes"):
        write(always(MASK, 8), HOLES, **allowed)


def test_our_model_is_read_under_its_mask():
    model, greedy = tiny.gpt(), dict(order="left", budget=9, temperature=0)
    for mask in (masks.bidirectional, masks.causal, masks.padding(HOLES != PAD)):
        wanted = model(HOLES, mask).index_fill(-1, torch.tensor(MASK), -math.inf).argmax(-1)
        wanted = torch.where(HOLES == MASK, wanted, HOLES)
        assert torch.equal(write(model, HOLES, mask=mask, **greedy).ids, wanted)
    default = write(model, HOLES, **greedy).ids
    assert torch.equal(default, write(model, HOLES, mask=masks.bidirectional, **greedy).ids)


def test_writing_is_the_same_again():
    model = tiny.gpt(scale=0.1)
    for order in ORDERS:
        one, two = (write(model, HOLES, order, generator=seeded(3)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(order="right"), "'right'"),
        (dict(budget=0), "at least 1 word per pass, got 0"),
        (dict(canvas=canvas([BOS, 7, EOS])), r"no \[MASK\]"),
        (dict(temperature=-1), "got -1"),
        (dict(top_k=0), "got 0"),
    ],
)
def test_what_cannot_be_written(arguments, message):
    with pytest.raises(ValueError, match=message):
        write(**{"model": tiny.gpt(), "canvas": HOLES} | arguments)


# -- the oracle as a model ---------------------------------------------------------------------


def test_the_causal_oracle_writes_valid_documents(oracle):
    prompts = torch.full((3, 1), BOS)
    trace = generate(oracle.causal, prompts, oracle.length - 1, generator=seeded())
    assert oracle.is_valid(trace.ids).all()

    def last_only(ids):  # the same oracle without the answers that nobody reads
        shown = torch.ones_like(ids).bool()
        given, shown = pad(ids, (0, 1)), pad(shown, (0, 1))
        return oracle.posterior(given, visible=shown).log_probs[:, -1:]

    again = generate(last_only, prompts, oracle.length - 1, generator=seeded())
    assert torch.equal(again.ids, trace.ids)
    many = generate(last_only, torch.full((60, 1), BOS), oracle.length - 1, generator=seeded(1))
    assert oracle.is_valid(many.ids).all() and len(many.ids.unique(dim=0)) > 55


@pytest.mark.parametrize("order", ORDERS)
def test_the_denoising_oracle_writes_valid_documents_word_by_word(oracle, order):
    empty = torch.full((8, oracle.length), MASK)
    trace = write(oracle.denoiser, empty, order, generator=seeded(1))
    assert trace.passes == oracle.length and oracle.is_valid(trace.ids).all()
    assert len(trace.ids.unique(dim=0)) > 4


def test_words_drawn_together_do_not_always_fit(oracle):
    empty = torch.full((8, oracle.length), MASK)
    assert not oracle.is_valid(
        write(oracle.denoiser, empty, "left", 99, generator=seeded()).ids
    ).all()


# -- an open prompt, and writing to the left ---------------------------------------------------


@pytest.mark.parametrize("sizes", [(4,), (4, 4), (2, 5, 3)])
def test_an_open_prompt_is_a_prefix_lm(sizes):
    model = tiny.gpt()
    prompts = [tiny.ids(1, size, seed)[0] for seed, size in enumerate(sizes)]
    found = generate(model, prompts, 5, open_prompt=True, **GREEDY).ids
    slow = generate(model, prompts, 5, open_prompt=True, use_cache=False, **GREEDY).ids
    assert torch.equal(found, slow)
    longest = max(sizes)
    for prompt, row in zip(prompts, found, strict=True):
        ids = prompt[None]
        for _ in range(5):  # each by itself, with the mask written out
            logits = model(ids, masks.prefix_lm(len(prompt)))[:, -1]
            logits[:, [PAD, MASK]] = -math.inf
            ids = torch.cat([ids, logits.argmax(-1)[None]], 1)
        assert torch.equal(row[longest - len(prompt) :], ids[0])
    closed = generate(model, prompts, 5, **GREEDY).ids
    assert not torch.equal(found, closed)  # it matters to this model
    with pytest.raises(ValueError, match="an open prompt needs a GPT"):
        generate(always(7), prompts[:1], 2, open_prompt=True)


def test_writing_backward_is_the_anticausal_model():
    model, ending = tiny.gpt(), tiny.ids(1, 3)
    found = generate_backward(model, ending, 5, temperature=0, stop=None)
    ids = ending
    for step in range(5):  # anticausal, positions from the end, the word before the first is asked
        places = torch.arange(ids.shape[1]).flip(0)
        logits = model(ids, masks.anticausal, places)[:, 0]
        logits[:, [PAD, MASK]] = -math.inf
        ids = torch.cat([logits.argmax(-1)[None], ids], 1)
        assert torch.equal(found.frames[step], ids)
    assert torch.equal(found.ids, ids) and found.passes == 5
    # It is what PreviousToken trains.
    (batch,) = PreviousToken().passes(Rows.padded([ids[0]]), seeded())
    with torch.no_grad():
        asked = model.answers(batch)
    asked[:, [PAD, MASK]] = -math.inf
    assert torch.equal(asked.argmax(-1)[:5], batch.targets[:5])


def test_writing_backward_stops_at_bos_and_is_aligned():
    first = generate_backward(always(BOS, 8), [torch.tensor([7, 9])] * 2, 4, temperature=0)
    assert first.ids.tolist() == [[BOS, 7, 9]] * 2 and first.passes == 1
    ids = torch.tensor([[PAD, PAD, BOS, 7, 8], [PAD, BOS, 9, 9, 8], [BOS, 7, 8, 9, PAD]])
    assert aligned(ids).tolist() == [[BOS, 7, 8, 0, 0], [BOS, 9, 9, 8, 0], [BOS, 7, 8, 9, 0]]
    endings = [torch.tensor([7, 9]), torch.tensor([6, 7, 9])]
    model = tiny.gpt()
    both = aligned(generate_backward(model, endings, 4, temperature=0, stop=None).ids)
    for ending, row in zip(endings, both, strict=True):
        alone = generate_backward(model, [ending], 4, temperature=0, stop=None).ids[0]
        assert torch.equal(row[: len(alone)], alone)


def test_a_nucleus_is_no_larger_than_it_must_be():
    halves = torch.zeros(1, 2)  # two tokens of exactly 1/2: the first alone makes 0.5
    assert settled(halves, top_p=0.5).exp().tolist() == [[1.0, 0.0]]
    assert settled(halves, top_p=0.51).exp().tolist() == [[0.5, 0.5]]
