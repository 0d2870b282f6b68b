"""Writing in any order: orders, budgets, second thoughts and traces against slow references."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib import masks
from mylib.gazette import Gazette
from mylib.sampling import (
    ORDERS,
    Ancestral,
    Certain,
    EveryDraw,
    Flagged,
    LowConfidence,
    Passes,
    generate_diffusion,
    write,
)
from mylib.sampling.revising import Written
from mylib.tokenizer import BOS, EOS, MASK, PAD

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug
V = 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blank(rows, time):
    return torch.full((rows, time), MASK)


def holes_at(time, *rows):
    """A canvas of 7s with [MASK] at these places."""
    canvas = torch.full((len(rows), time), 7)
    for row, places in zip(canvas, rows, strict=True):
        row[list(places)] = MASK
    return canvas


def fixed(table):
    """A model that answers each place (T, V) always alike."""
    return lambda ids: table.expand(len(ids), -1, -1)


def moody(seed=0, flags=2.0, scale=1.5):
    """A model whose every answer depends on the whole row, and that likes to say [MASK]."""
    table = torch.randn(31, V, generator=seeded(seed)) * scale
    table[:, MASK] += flags

    def model(ids):
        time = ids.shape[1]
        code = (ids * torch.arange(3, time + 3)).sum(1, keepdim=True)
        return table[(code * 7 + torch.arange(time) * 5 + ids) % 31]

    return model


def replay(canvas, trace, mask_token=MASK):
    """What the frames alone tell; every field of the trace must agree. Returns passes' changes."""
    before = canvas
    commits = torch.zeros_like(canvas).masked_fill(canvas == mask_token, -1)
    revisions, rounds = torch.zeros_like(canvas), torch.zeros_like(canvas[:, 0])
    changes = []
    for number, frame in enumerate(trace.frames, start=1):
        filled = (before == mask_token) & (frame != mask_token)
        hidden = (before != mask_token) & (frame == mask_token)
        assert torch.equal(frame[~filled & ~hidden], before[~filled & ~hidden])
        assert not (hidden & (canvas != mask_token)).any(), "a given word was hidden"
        # The pass that fills a row's last hole hides nothing; a finished row stays.
        done = (before != mask_token).all(1)
        assert not (filled | hidden)[done].any()
        commits = commits.masked_fill(filled, number).masked_fill(hidden, -1)
        revisions, rounds = revisions + hidden, rounds + (filled | hidden).any(1)
        changes.append((filled, hidden))
        before = frame
    assert torch.equal(trace.ids, before) and trace.passes == len(trace.frames) > 0
    assert torch.equal(trace.commits, commits) and torch.equal(trace.revisions, revisions)
    assert torch.equal(trace.row_passes, rounds)
    return changes


@pytest.fixture(scope="module")
def oracle():
    return Gazette.load()


# -- orders --------------------------------------------------------------------------------------


def by_hand(order, logits, place):
    """The score of one place, the greatest first; greedy, [MASK] never written."""
    p = logits.double().index_fill(0, torch.tensor(MASK), -math.inf).softmax(-1).tolist()
    first, second = sorted(p, reverse=True)[:2]
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    return {
        "left": -place,
        "confidence": first,
        "margin": first - second,
        "entropy": -entropy,
        "uncertain": entropy,
    }[order]


@pytest.mark.parametrize("budget", [1, 2])
@pytest.mark.parametrize("order", ["left", "confidence", "margin", "entropy", "uncertain"])
def test_orders_by_hand(order, budget):
    differs = set()
    for seed in range(8):
        table = torch.randn(7, V, generator=seeded(seed)) * 2
        table[:, MASK] += 3  # [MASK] is likely, and counts for nothing
        canvas = holes_at(7, (0, 1, 2, 3, 4, 5, 6), (1, 3, 4), (6,))
        trace = write(fixed(table), canvas, order, budget, temperature=0)
        wanted = []
        for row in canvas:
            open_ = (row == MASK).nonzero()[:, 0].tolist()
            open_.sort(key=lambda i: -by_hand(order, table[i], i))
            wanted.append([open_[i : i + budget] for i in range(0, len(open_), budget)])
        for number, (filled, _) in enumerate(replay(canvas, trace)):
            for row, places in zip(filled, wanted, strict=True):
                expected = sorted(places[number]) if number < len(places) else []
                assert row.nonzero()[:, 0].tolist() == expected, (order, seed, number)
        best = table.index_fill(1, torch.tensor(MASK), -math.inf).argmax(-1)
        assert torch.equal(trace.ids, torch.where(canvas == MASK, best, canvas))
        differs.add(str(wanted[0]))
    assert len(differs) > 4 or order == "left"


def test_equals_come_from_left_to_right():
    for order in set(ORDERS) - {"random"}:
        trace = write(fixed(torch.zeros(5, V)), blank(1, 5), order, generator=seeded())
        assert trace.commits.tolist() == [[1, 2, 3, 4, 5]], order


def test_random_order_is_uniform():
    trace = write(fixed(torch.zeros(4, V)), blank(4000, 4), "random", generator=seeded())
    code = (trace.commits * torch.tensor([64, 16, 4, 1])).sum(1)
    _, counts = code.unique(return_counts=True)
    assert len(counts) == 24 and ((counts - 4000 / 24).abs() < 4 * (4000 / 24) ** 0.5).all()


def test_orders_look_at_the_model_s_own_probabilities():
    """Whatever the temperature and the cut-offs: of the word that was drawn, at temperature 1."""
    rounds, table = [], torch.randn(6, V, generator=seeded(5)) * 2

    def watch(now):
        rounds.append(now)
        return now.first(2)

    how = dict(temperature=3.0, top_k=5, top_p=0.9, generator=seeded(1))
    write(fixed(table), holes_at(6, (0, 2, 3, 5), (1, 2)), "confidence", watch, **how)
    now = rounds[0]
    log_p = table.double().index_fill(1, torch.tensor(MASK), -math.inf).log_softmax(-1)
    place = torch.tensor([0, 2, 3, 5, 1, 2])
    torch.testing.assert_close(now.log_p, log_p[place])
    drawn = log_p[place, now.tokens]
    assert (drawn < log_p[place].amax(-1)).any()  # not always the likeliest: the test can tell
    assert now.rank[0, place[:4]].tolist() == (-drawn[:4]).argsort().argsort().tolist()
    assert now.rank[1, place[4:]].tolist() == (-drawn[4:]).argsort().argsort().tolist()
    assert torch.equal(now.certainty[0, place[:4]], log_p[place[:4]].amax(-1).exp())
    assert now.certainty[0, 1] == 0 and now.turn.tolist() == [1, 1] and now.forbid == (MASK,)
    # So a confident place comes first however hot the draw.
    sure = torch.zeros(5, V)
    sure[3, 8] = 20.0
    for seed in range(10):
        hot = write(fixed(sure), blank(1, 5), "margin", temperature=50.0, generator=seeded(seed))
        assert hot.commits[0, 3] == 1


def test_an_order_and_a_budget_of_one_s_own():
    trace = write(
        fixed(torch.zeros(5, V)),
        holes_at(5, (0, 1, 2, 4), (3,)),
        lambda now: now.holes.nonzero()[:, 1],  # from the right
        lambda now: now.first(now.turn),  # one word, then two, ...
        generator=seeded(),
    )
    assert trace.commits.tolist() == [[3, 2, 2, 0, 1], [0, 0, 0, 1, 0]]
    assert trace.row_passes.tolist() == [3, 1]


# -- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 7, 12])
def test_passes_fill_evenly(passes, order):
    canvas = holes_at(10, range(10), range(3, 10), (2, 5), (9,))
    trace = write(moody(), canvas, order, Passes(passes), generator=seeded())
    counts = torch.stack([filled.sum(1) for filled, _ in replay(canvas, trace)])
    for row, holes in enumerate((10, 7, 2, 1)):
        found, left, wanted = counts[:, row].tolist(), holes, []
        for to_go in range(passes, 0, -1):
            wanted.append(-(-left // to_go))
            left -= wanted[-1]
        wanted = [n for n in wanted if n]
        assert found == wanted + [0] * (len(found) - len(wanted))
        assert max(wanted) - min(wanted) <= 1
        assert trace.row_passes[row] == min(passes, holes)
    assert trace.passes == min(passes, 10)


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_ancestral_fills_each_hole_by_itself(passes):
    n = 3000
    canvas = torch.cat([blank(n, 3), holes_at(3, (1,))])
    trace = write(fixed(torch.zeros(3, V)), canvas, "left", Ancestral(passes), generator=seeded(2))
    replay(canvas, trace)
    when = trace.commits[:n]
    for turn in range(1, passes + 1):
        right = (when == turn).double()  # uniform, and each word by itself
        for found, wanted in (
            (right.mean(0), 1 / passes),
            ((right[:, 0] * right[:, 1]).mean(), 1 / passes**2),
            ((right[:, 1] * right[:, 2]).mean(), 1 / passes**2),
        ):
            error = (wanted * (1 - wanted) / n) ** 0.5
            assert ((found - wanted).abs() <= 4 * error + 1e-12).all()
    assert int(when.max()) == passes == trace.passes


def certain_table(*best):
    """Logits whose likeliest word, 8, has these probabilities; the rest goes to 9."""
    table = torch.full((len(best), V), -math.inf)
    table[:, 8] = torch.tensor(best, dtype=torch.float64).log()
    table[:, 9] = (1 - torch.tensor(best, dtype=torch.float64)).log()
    return table.double()


@pytest.mark.parametrize(
    ("budget", "order", "commits"),
    [
        (Certain(0.9), "confidence", [1, 2, 1, 3, 1]),  # at least one a pass
        (Certain(0.9), "uncertain", [1, 3, 1, 2, 1]),
        (Certain(0.8), "confidence", [1, 1, 1, 2, 1]),
        (Certain(0.9, more=1), "confidence", [1, 1, 1, 2, 1]),
        (Certain(0.9, more=1), "uncertain", [1, 2, 1, 1, 1]),
        (Certain(0.9, more=2), "left", [1, 1, 1, 1, 1]),
        (Certain(1.0), "confidence", [3, 4, 1, 5, 2]),
        (Certain(1.0, more=1), "uncertain", [3, 2, 1, 1, 4]),
        (Certain(1.0, more=2), "left", [1, 1, 1, 2, 2]),
    ],
    ids=str,
)
def test_certain_words_by_hand(budget, order, commits):
    table = certain_table(0.9, 0.8, 1.0, 0.6, 0.95)
    trace = write(fixed(table), blank(1, 5), order, budget, temperature=0)
    assert trace.commits.tolist() == [commits]
    other = write(fixed(table), holes_at(5, (1, 3), (2,)), order, Certain(0.99), temperature=0)
    assert other.row_passes.tolist() == [2, 1]  # one row is sure, the other is not


def test_certain_up_to_rounding():
    table = certain_table(1.0, 1 - 1e-12, 1 - 1e-6)
    trace = write(fixed(table), blank(1, 3), "left", Certain(1.0), temperature=0)
    assert trace.commits.tolist() == [[1, 1, 2]]


def test_every_draw_asks_one_word_of_each_independent_draw(oracle):
    canvas = blank(12, oracle.length)
    trace = write(oracle.denoiser, canvas, "random", EveryDraw(oracle), generator=seeded(1))
    assert oracle.is_valid(trace.ids).all()
    before, together = canvas, 0
    for filled, _ in replay(canvas, trace):
        sure = oracle.denoiser(before).amax(-1).exp() >= 1 - 1e-9
        group = oracle.groups(before, before != MASK)
        open_ = filled & ~sure
        assert torch.equal(filled & sure, (before == MASK) & sure)  # all that are certain
        for row in range(len(canvas)):
            asked = group[row, open_[row]].tolist()
            unsure = group[row, (before[row] == MASK) & ~sure[row]].tolist()
            assert sorted(asked) == sorted(set(unsure))  # one of each, and none forgotten
            together += len(asked) > 1
        before = torch.where(filled, trace.ids, before)
    assert together > 8
    one = write(oracle.denoiser, canvas, "uncertain", Certain(1.0, more=1), generator=seeded(1))
    plain = write(oracle.denoiser, canvas, "random", 1, generator=seeded(1))
    assert oracle.is_valid(one.ids).all()
    found = [t.row_passes.double().mean() for t in (trace, one, plain)]
    assert found[0] < found[1] < found[2] / 3 and found[2] == oracle.length


def test_every_draw_takes_the_first_of_the_order(oracle):
    canvas = blank(3, oracle.length)
    trace = write(oracle.denoiser, canvas, "left", EveryDraw(oracle), generator=seeded(1))
    before = canvas
    for filled, _ in replay(canvas, trace):
        sure = oracle.denoiser(before).amax(-1).exp() >= 1 - 1e-9
        group = oracle.groups(before, before != MASK)
        for row in range(3):
            unsure = (before[row] == MASK) & ~sure[row]
            for place in (filled[row] & ~sure[row]).nonzero()[:, 0].tolist():
                same = (unsure & (group[row] == group[row, place])).nonzero()[:, 0]
                assert place == int(same[0])
        before = torch.where(filled, trace.ids, before)


# -- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("revise", [None, Flagged(), LowConfidence(2, 2)], ids=str)
@pytest.mark.parametrize("budget", [1, Passes(2), Ancestral(2), Certain(0.3)], ids=str)
def test_no_block_is_begun_before_the_last_is_full(budget, revise):
    canvas = torch.cat([blank(3, 10), holes_at(10, (1, 2, 7, 8, 9), (9,), (0, 4, 5))])
    how = dict(block=3, revise=revise, generator=seeded(4))
    trace = write(moody(), canvas, "random", budget, **how)
    before = canvas
    for frame, (filled, hidden) in zip(trace.frames, replay(canvas, trace), strict=True):
        for row in range(len(canvas)):
            places = (filled | hidden)[row].nonzero()[:, 0] // 3
            first = (before[row] == MASK).nonzero()[:1, 0] // 3
            assert (places == first).all()
            if hidden[row].any():  # a block that is full stays
                assert filled[row].any() or isinstance(budget, Ancestral)
                block = frame[row, int(first) * 3 : int(first) * 3 + 3]
                assert (block == MASK).sum() > hidden[row].sum()
        before = frame
    if budget == Passes(2):  # of each block
        assert trace.passes == 2 + 2 + 2 + 1 == trace.row_passes.max()


def test_one_wide_block_is_no_block():
    for block in (6, 50):
        one, two = (
            write(moody(), blank(4, 6), "random", Passes(3), block=b, generator=seeded())
            for b in (None, block)
        )
        assert all(torch.equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))


# -- second thoughts -----------------------------------------------------------------------------


class Learner:
    """Writes 5 wherever it is asked the first time, 7 later; flags 5 whenever it stands there."""

    def __init__(self, wrong_passes=1):
        self.calls, self.wrong_passes = [], wrong_passes

    def __call__(self, ids):
        self.calls.append(ids.clone())
        logits = torch.full((*ids.shape, V), -20.0)
        logits[..., 5 if len(self.calls) <= self.wrong_passes else 7] = 10.0
        logits[..., MASK] = torch.where(ids == 5, 13.0, -20.0)
        return logits


def test_flagged_words_are_written_again_by_hand():
    model, canvas = Learner(), torch.tensor([[MASK, MASK, 5, MASK, MASK]])
    trace = write(model, canvas, "left", Passes(4), revise=Flagged(), temperature=0)
    m = MASK
    assert [frame[0].tolist() for frame in trace.frames] == [
        [5, m, 5, m, m],
        [m, 7, 5, m, m],  # the given 5 is flagged just as much, and stays
        [7, 7, 5, 7, m],  # three holes in two passes: two of them now
        [7, 7, 5, 7, 7],
    ]
    assert trace.revisions.tolist() == [[1, 0, 0, 0, 0]]
    assert trace.commits.tolist() == [[3, 2, 0, 3, 4]]
    assert len(model.calls) == trace.passes == 4  # no pass is added
    replay(canvas, trace)
    plain = write(Learner(), canvas, "left", Passes(4), temperature=0)
    assert plain.ids.tolist() == [[5, 7, 5, 7, 7]] and not plain.revisions.any()
    strict = write(Learner(), canvas, "left", Passes(4), revise=Flagged(0.999), temperature=0)
    assert torch.equal(strict.ids, plain.ids)  # p is about 0.95


def test_what_is_hidden_again_and_left_was_written_by_no_pass():
    canvas = torch.tensor([[MASK, MASK, 5, MASK, MASK]])
    how = dict(revise=Flagged(), temperature=0, max_passes=2, leave=True)
    trace = write(Learner(), canvas, "left", Passes(4), **how)
    assert trace.ids.tolist() == [[MASK, 7, 5, MASK, MASK]]
    assert trace.commits.tolist() == [[-1, 2, 0, -1, -1]]
    assert trace.revisions.tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_place_is_revised_so_many_times(times):
    model, canvas = Learner(wrong_passes=99), blank(1, 6)  # never learns
    trace = write(model, canvas, "left", 2, revise=Flagged(times=times), temperature=0)
    assert trace.revisions.max() == times and trace.ids.tolist() == [[5] * 6]
    replay(canvas, trace)


def test_what_a_reviser_is_told():
    """The model's p([MASK]) there now, and log p of the word when it was drawn."""
    told, table = [], torch.randn(5, V, generator=seeded(3))

    def watch(written):
        told.append(written)
        return written.revisions < (written.row == 1)  # all words of the second row, once

    canvas = torch.cat([blank(2, 5), holes_at(5, (4,))])
    how = dict(temperature=0.5, top_k=6, generator=seeded(1))
    trace = write(fixed(table), canvas, "left", 1, revise=watch, **how)
    allowed = table.double().index_fill(1, torch.tensor(MASK), -math.inf) / 0.5
    least = allowed.topk(6).values[:, -1:]
    log_p = allowed.masked_fill(allowed < least, -math.inf).log_softmax(-1)
    flag = table.double().softmax(-1)[:, MASK]
    changes = replay(canvas, trace)
    before, revisions = canvas, torch.zeros_like(canvas)
    for written, frame, (filled, hidden) in zip(told, trace.frames, changes, strict=True):
        row, place = ((before != MASK) & (canvas == MASK)).nonzero(as_tuple=True)
        after = torch.where(filled, frame, before)
        unfinished = (after == MASK).any(1)[row]
        row, place = row[unfinished], place[unfinished]
        assert torch.equal(written.row, row)
        torch.testing.assert_close(written.flag, flag[place])
        torch.testing.assert_close(written.log_p, log_p[place, before[row, place]])
        assert torch.equal(written.revisions, revisions[row, place])
        before, revisions = frame, revisions + hidden
    assert trace.revisions[0].sum() == trace.revisions[2].sum() == 0 < trace.revisions[1].sum()
    assert trace.revisions.max() == 1


def test_flagged_by_hand():
    written = Written(
        row=torch.tensor([0, 0, 1, 1]),
        flag=torch.tensor([0.5, 0.51, 0.9, 0.9]),
        log_p=torch.zeros(4),
        revisions=torch.tensor([0, 2, 3, 0]),
    )
    assert Flagged()(written).tolist() == [False, True, False, True]
    assert Flagged(0.6, 4)(written).tolist() == [False, False, True, True]
    assert Flagged(times=1)(written).tolist() == [False, False, False, True]


@given(st.integers(0, 500), st.integers(1, 3), st.integers(1, 2))
def test_low_confidence_against_a_slow_loop(seed, words, times):
    noise = seeded(seed)
    size = int(torch.randint(12, (1,), generator=noise))
    written = Written(
        row=torch.randint(4, (size,), generator=noise).sort().values,
        flag=torch.rand(size, generator=noise),
        log_p=-torch.rand(size, generator=noise, dtype=torch.float64),
        revisions=torch.randint(3, (size,), generator=noise),
    )
    wanted = [False] * size
    for row in range(4):
        may = [n for n in range(size) if written.row[n] == row and written.revisions[n] < times]
        for n in sorted(may, key=lambda n: float(written.log_p[n]))[:words]:
            wanted[n] = True
    assert LowConfidence(words, times)(written).tolist() == wanted


def test_low_confidence_hides_the_least_likely_of_each_row():
    p = torch.tensor([0.9, 0.5, 0.7, 0.99, 0.3])
    canvas = torch.cat([blank(1, 5), holes_at(5, (0, 2, 3))])
    trace = write(
        fixed(certain_table(*p.tolist())), canvas, "left", 1, revise=LowConfidence(), temperature=0
    )
    changes = replay(canvas, trace)
    # Nothing is written before the first pass, so the second hides the first word: it is the only.
    assert [h[0].nonzero()[:, 0].tolist() for _, h in changes][:2] == [[], [0]]
    assert trace.revisions[0].tolist()[4] == 0  # written last, and then all is done
    assert trace.ids.tolist() == [[8, 8, 8, 8, 9], [8, 7, 8, 8, 7]]


MODELS = st.builds(moody, st.integers(0, 30), st.sampled_from([-3.0, 0.0, 2.0, 4.0]))
BUDGETS = st.one_of(
    st.integers(1, 4),
    st.builds(Passes, st.integers(1, 6)),
    st.builds(Ancestral, st.integers(1, 6)),
    st.builds(Certain, st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 2)),
)
REVISERS = st.one_of(
    st.none(),
    st.builds(Flagged, st.sampled_from([0.0, 0.3, 0.6]), st.integers(1, 3)),
    st.builds(LowConfidence, st.integers(1, 3), st.integers(1, 3)),
)


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(data=st.data(), model=MODELS, budget=BUDGETS, revise=REVISERS)
def test_whatever_the_settings(data, model, budget, revise):
    """It ends, given words stay, no [MASK] is left, and the trace tells what happened."""
    rows, time = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    share = data.draw(st.sampled_from([0.2, 0.6, 1.0]))
    noise = seeded(data.draw(st.integers(0, 99)))
    canvas = torch.randint(4, V, (rows, time), generator=noise)
    canvas[torch.rand(rows, time, generator=noise) < share] = MASK
    canvas[0, 0] = MASK
    block = data.draw(st.sampled_from([None, None, 1, 2, 4]))
    settings_ = dict(
        block=block,
        max_passes=data.draw(st.sampled_from([None, 1, 3, 7])),
        temperature=data.draw(st.sampled_from([0, 0.5, 1.0])),
        top_k=data.draw(st.sampled_from([None, 1, 5])),
        top_p=data.draw(st.sampled_from([None, 0.5])),
    )
    if settings_["max_passes"]:
        settings_["forbid_mask"] = data.draw(st.booleans())
    order = data.draw(st.sampled_from(ORDERS))
    trace = write(model, canvas, order, budget, revise=revise, generator=noise, **settings_)
    changes = replay(canvas, trace)
    assert (trace.ids != MASK).all()
    assert torch.equal(trace.ids[canvas != MASK], canvas[canvas != MASK])
    assert ((trace.ids >= 0) & (trace.ids < V)).all() and (trace.commits >= 0).all()
    if settings_["max_passes"]:
        assert trace.passes <= settings_["max_passes"]
    if revise:
        assert trace.revisions.max() <= revise.times
    if isinstance(budget, (Passes, Ancestral)) and settings_.get("forbid_mask", True):
        blocks = -(-time // block) if block else 1
        assert trace.passes <= budget.passes * blocks
    before = canvas
    for frame, (filled, hidden) in zip(trace.frames, changes, strict=True):
        assert not hidden[(torch.where(filled, frame, before) != MASK).all(1)].any()
        before = frame


# -- limits --------------------------------------------------------------------------------------


def test_when_the_passes_are_over():
    model, canvas = fixed(torch.zeros(6, V)), holes_at(6, (0, 1, 3, 4, 5), (2,))
    trace = write(model, canvas, "left", 1, max_passes=3, generator=seeded())
    assert trace.passes == 3 and (trace.ids != MASK).all()
    assert trace.commits.tolist() == [[1, 2, 0, 3, 3, 3], [0, 0, 1, 0, 0, 0]]
    left = write(model, canvas, "left", 1, max_passes=3, leave=True, generator=seeded())
    assert left.commits.tolist() == [[1, 2, 0, 3, -1, -1], [0, 0, 1, 0, 0, 0]]
    assert left.ids[0, 4:].tolist() == [MASK, MASK]
    replay(canvas, trace)
    replay(canvas, left)
    # The last pass writes all that is left, in every block.
    blocks = write(model, canvas, "left", 1, block=2, max_passes=2, generator=seeded())
    assert blocks.commits.tolist() == [[1, 2, 0, 2, 2, 2], [0, 0, 1, 0, 0, 0]]
    enough = write(model, canvas, "left", 1, max_passes=9, leave=True, generator=seeded())
    assert enough.passes == 5


def test_a_mask_that_is_drawn_stays_a_hole():
    table = torch.full((4, V), -math.inf)
    table[:, MASK], table[:, 8] = math.log(0.6), math.log(0.4)
    canvas = blank(2000, 4)
    how = dict(forbid_mask=False, generator=seeded())
    left = write(fixed(table), canvas, "left", 4, max_passes=2, leave=True, **how)
    replay(canvas, left)
    share = (left.ids == MASK).double().mean()
    assert abs(share - 0.36) < 4 * (0.36 * 0.64 / 8000) ** 0.5
    full = write(fixed(table), canvas, "left", 4, max_passes=2, **how)
    assert (full.ids == 8).all() and full.passes == 2
    assert abs((full.commits == 1).double().mean() - 0.4) < 4 * (0.24 / 8000) ** 0.5
    replay(canvas, full)
    # A greedy model that always says [MASK] writes nothing until it must.
    greedy = write(fixed(table), blank(1, 4), max_passes=5, forbid_mask=False, temperature=0)
    assert greedy.commits.tolist() == [[5] * 4] and greedy.row_passes.tolist() == [1]


def test_another_mask_token():
    canvas = torch.tensor([[9, 3, 9, 7]])
    trace = write(fixed(torch.zeros(4, V)), canvas, "left", mask_token=9, generator=seeded())
    assert trace.ids[0, 1] == 3 and (trace.ids != 9).all() and trace.passes == 2
    replay(canvas, trace, mask_token=9)
    always_nine = torch.zeros(4, V)
    always_nine[:, 9] = 50.0
    trace = write(fixed(always_nine), canvas, "left", mask_token=9, generator=seeded())
    assert (trace.ids != 9).all()

    def flags_nine(ids):
        return always_nine.expand(len(ids), -1, -1) * (ids != 9)[..., None]

    trace = write(flags_nine, canvas, "left", mask_token=9, revise=Flagged(), generator=seeded())
    assert trace.revisions.tolist() == [[0, 0, 0, 0]]  # two holes: the second pass ends it
    wide = torch.full((1, 4), 9)
    trace = write(flags_nine, wide, "left", Passes(4), mask_token=9, revise=Flagged())
    assert trace.revisions.sum() > 0 and trace.passes == 4


# -- models, masks, batches ----------------------------------------------------------------------


@pytest.mark.parametrize("revise", [None, Flagged(0.3), LowConfidence(2)], ids=str)
@pytest.mark.parametrize("budget", [1, Passes(3), Certain(0.4, 1)], ids=str)
@pytest.mark.parametrize("block", [None, 3])
def test_rows_are_written_as_if_alone(block, budget, revise):
    model = tiny.gpt(vocab_size=V, scale=0.5)
    canvas = torch.cat([blank(2, 6), holes_at(6, (3,), (1, 2, 4, 5))])
    canvas[1, 4] = 9
    for order in ("left", "confidence", "uncertain"):
        how = dict(order=order, budget=budget, block=block, revise=revise, temperature=0)
        together = write(model, canvas, **how)
        for row in range(4):
            alone = write(model, canvas[row : row + 1], **how)
            for name in ("ids", "commits", "revisions", "row_passes"):
                found = getattr(together, name)[row : row + 1]
                assert torch.equal(found, getattr(alone, name)), (order, row, name)
        assert together.passes == together.row_passes.max()


def test_a_padding_mask_follows_its_rows():
    """Rows that are finished are not read, and each of the others keeps its own padding."""
    model = tiny.gpt(vocab_size=V, scale=0.5)
    sizes = (3, 8, 5, 6)
    canvas = blank(4, 8)
    valid = torch.arange(8) < torch.tensor(sizes)[:, None]
    canvas[~valid] = PAD
    canvas[0, 1:3] = 8  # done after one pass
    canvas[1, 0] = BOS
    for revise in (None, Flagged(0.2)):
        how = dict(order="confidence", budget=1, revise=revise, temperature=0)
        together = write(model, canvas, mask=masks.padding(valid), **how)
        replay(canvas, together)
        for row, size in enumerate(sizes):
            alone = write(model, canvas[row : row + 1, :size], **how)
            assert torch.equal(together.ids[row, :size], alone.ids[0])
        unmasked = write(model, canvas, **how)
        assert not torch.equal(unmasked.ids, together.ids)  # it matters to this model


def test_finished_rows_are_not_read():
    sizes = []

    def model(ids):
        sizes.append(len(ids))
        return fixed(torch.zeros(4, V))(ids)

    write(model, holes_at(4, (0,), (0, 1), (0, 1, 2, 3)), "left", generator=seeded())
    assert sizes == [3, 2, 1, 1]


def test_a_mask_for_another_batch_is_refused():
    valid = torch.ones(3, 8).bool()
    with pytest.raises(ValueError, match="made for a batch of 3 rows, not 2"):
        write(tiny.gpt(vocab_size=V), blank(2, 8), mask=masks.padding(valid))
    # Also where, by chance, just so many rows are still open.
    canvas = torch.cat([blank(3, 8), torch.full((1, 8), 7)])
    with pytest.raises(ValueError, match="made for a batch of 3 rows, not 4"):
        write(tiny.gpt(vocab_size=V), canvas, mask=masks.padding(valid))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = tiny.gpt(vocab_size=V, dropout=0.5).train(training)
    how = dict(order="confidence", temperature=0)
    trace = write(model, blank(2, 6), **how)
    assert model.training == training
    assert torch.equal(trace.ids, write(model.eval(), blank(2, 6), **how).ids)  # no dropout
    model.train(training)
    again = generate_diffusion(model, blank(2, 6), 3, temperature=0)
    assert model.training == training and (again.ids != MASK).all()
    assert not trace.ids.requires_grad


@pytest.mark.parametrize("budget", [1, Passes(3), Ancestral(3), Certain(0.3)], ids=str)
def test_a_generator_makes_it_the_same_again(budget):
    state = torch.get_rng_state()
    canvas = blank(5, 7)
    kept = canvas.clone()
    one, again, other = (
        write(moody(), canvas, "random", budget, revise=Flagged(), generator=seeded(s))
        for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.frames, again.frames, strict=True))
    assert not torch.equal(one.ids, other.ids)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(canvas, kept)


def test_top_p_cuts_what_is_written():
    table = torch.full((3, V), -math.inf)
    table[:, 6:9] = torch.tensor([0.5, 0.3, 0.2]).log()
    for top_p, words in ((0.5, {6}), (0.6, {6, 7}), (0.9, {6, 7, 8})):
        ids = write(fixed(table), blank(60, 3), top_p=top_p, generator=seeded()).ids
        assert set(ids.unique().tolist()) == words


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(canvas=blank(0, 4)), r"no \[MASK\]"),
        (dict(canvas=blank(2, 0)), r"no \[MASK\]"),
        (dict(canvas=torch.full((2, 4), 7)), r"no \[MASK\]"),
        (dict(canvas=blank(2, 4)[0]), r"int \(B, T\), got torch.int64 \(4,\)"),
        (dict(canvas=blank(2, 4).float()), r"got torch.float32 \(2, 4\)"),
        (dict(canvas=torch.tensor([[MASK, V]])), r"0\.\.11, found 3\.\.12"),
        (dict(canvas=torch.tensor([[MASK, -1]])), r"0\.\.11, found -1\.\.3"),
        (dict(model=tiny.gpt(vocab_size=3)), r"\[MASK\] has id 3, and the model has 3 tokens"),
        (dict(model=lambda ids: torch.zeros(*ids.shape, 3)), r"\[MASK\] has id 3, and the model"),
        (dict(model=lambda ids: torch.zeros(*ids.shape, 7)), r"0\.\.6, found 3\.\.8"),
        (dict(mask_token=-1, canvas=torch.tensor([[-1, 7]])), r"\[MASK\] has id -1"),
        (dict(order="right"), "order is one of .*, got 'right'"),
        (dict(budget=0), "at least 1 word per pass, got 0"),
        (dict(budget=-2), "at least 1 word per pass, got -2"),
        (dict(block=0), "a block has at least 1 token, got 0"),
        (dict(max_passes=0), "max_passes is at least 1, got 0"),
        (dict(leave=True), "leave=True and forbid_mask=False need max_passes"),
        (dict(forbid_mask=False), "leave=True and forbid_mask=False need max_passes"),
        (dict(temperature=-1), "got -1"),
        (dict(temperature=math.nan), "got nan"),
        (dict(top_k=V + 1), r"1\.\.12, got 13"),
        (dict(top_k=0), r"1\.\.12, got 0"),
        (dict(top_p=0), "top_p .* got 0"),
        (dict(top_p=1.5), "top_p .* got 1.5"),
    ],
)
@pytest.mark.parametrize("kind", ["GPT", "callable"])
def test_what_cannot_be_written(change, message, kind):
    model = tiny.gpt(vocab_size=V) if kind == "GPT" else lambda ids: torch.zeros(*ids.shape, V)
    whole = {"model": model, "canvas": torch.tensor([[MASK, 8, MASK, 7]])}
    write(**whole)
    with pytest.raises(ValueError, match=message):
        write(**whole | change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Passes(0), "passes: at least 1, got 0"),
        (lambda: Ancestral(0), "passes: at least 1, got 0"),
        (lambda: Certain(0.0), "above 0 and is at most 1, got 0.0"),
        (lambda: Certain(1.1), "above 0 and is at most 1, got 1.1"),
        (lambda: Certain(math.nan), "got nan"),
        (lambda: Certain(more=-1), "0 or more, got -1"),
        (lambda: Flagged(1.1), "a probability, got 1.1"),
        (lambda: Flagged(-0.1), "a probability, got -0.1"),
        (lambda: Flagged(times=0), "times: at least 1, got 0"),
        (lambda: LowConfidence(0), "words: at least 1, got 0"),
        (lambda: LowConfidence(1, 0), "times: at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- the note's sampler --------------------------------------------------------------------------


def note(model, idx, max_steps, temperature=1.0, top_k=None):
    """`generate_diffusion` of the note, as it stands there but for its checks of the config."""
    mask_token_id = MASK
    for _ in range(max_steps):
        if not (idx == mask_token_id).any():
            break

        logits = model(idx)
        logits = logits / temperature
        if top_k is not None:
            v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
            logits[logits < v[:, :, [-1]]] = -float("Inf")

        probs = F.softmax(logits, dim=-1)
        idx_next = torch.multinomial(probs.view(-1, probs.size(-1)), num_samples=1).view(idx.shape)

        mask = idx == mask_token_id
        idx = torch.where(mask, idx_next, idx)

    if (idx == mask_token_id).any():
        logits = model(idx)
        logits[:, :, mask_token_id] = -float("Inf")
        probs = F.softmax(logits / temperature, dim=-1)
        idx_next = torch.multinomial(probs.view(-1, probs.size(-1)), num_samples=1).view(idx.shape)
        mask = idx == mask_token_id
        idx = torch.where(mask, idx_next, idx)
    return idx


class Shy:
    """Answers a hole with a word only beside a word; sure of everything, so that no draw counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, ids):
        self.calls += 1
        left = F.pad(ids, (1, 0), value=BOS)[:, :-1]
        logits = torch.full((*ids.shape, V), -300.0)
        logits.scatter_(-1, (4 + (left + 2) % 8)[..., None], 0.0)
        logits[..., MASK] = torch.where(left == MASK, 300.0, -300.0)
        return logits


@pytest.mark.parametrize("top_k", [None, 1, 2, V])
@pytest.mark.parametrize("temperature", [0.8, 1.0, 2.0])
@pytest.mark.parametrize("max_steps", [1, 2, 3, 5, 6, 7, 25])
def test_it_is_the_note_s_where_nothing_is_left_to_chance(max_steps, temperature, top_k):
    canvas = torch.tensor([[MASK] * 6, [MASK, 7, MASK, MASK, 9, MASK]])
    theirs, ours = Shy(), Shy()
    wanted = note(theirs, canvas, max_steps, temperature, top_k)
    trace = generate_diffusion(ours, canvas, max_steps, temperature, top_k, generator=seeded())
    assert torch.equal(trace.ids, wanted)
    assert ours.calls == theirs.calls == trace.passes == min(max_steps + 1, 6)
    replay(canvas, trace)
    places = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 0, 1, 2, 0, 1]])
    assert torch.equal(trace.commits, places.clamp(max=max_steps + 1))


def test_it_is_the_note_s_in_distribution():
    table = torch.full((2, V), -math.inf)
    table[0, [MASK, 6, 7, 8]] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    table[1, [MASK, 6, 7]] = torch.tensor([0.1, 0.2, 0.7]).log()

    def model(ids):
        return table.expand(len(ids), -1, -1).clone()

    n = 8000
    for how in (dict(), dict(top_k=2), dict(temperature=0.5)):
        trace = generate_diffusion(model, blank(n, 2), 2, generator=seeded(1), **how)
        torch.manual_seed(0)
        wanted = note(model, blank(n, 2), 2, **how)
        assert (trace.ids[:, 0] == 8).any()  # the last pass knows no top_k
        for place in range(2):
            shares = [t[:, place].bincount(minlength=V).double() / n for t in (trace.ids, wanted)]
            error = (2 * shares[1] * (1 - shares[1]) / n) ** 0.5
            assert ((shares[0] - shares[1]).abs() <= 4 * error + 1e-3).all(), (how, place)


def test_the_note_s_sampler_and_its_trace():
    model = fixed(torch.zeros(4, V))
    canvas = torch.tensor([[BOS, MASK, MASK, EOS]])
    trace = generate_diffusion(model, canvas, 25, generator=seeded(3))
    replay(canvas, trace)
    assert trace.passes <= 3 and not trace.revisions.any()
    again = generate_diffusion(model, canvas, 25, generator=seeded(3))
    assert torch.equal(trace.ids, again.ids)
    # At temperature 0, where the note divides by it, the likeliest; with its [MASK] it waits.
    shy = generate_diffusion(Shy(), blank(1, 5), 2, temperature=0)
    assert torch.equal(shy.ids, note(Shy(), blank(1, 5), 2))
    assert shy.commits.tolist() == [[1, 2, 3, 3, 3]] and shy.row_passes.tolist() == [3]
    other = generate_diffusion(
        model, torch.tensor([[9, 7, 7, 7]]), 3, mask_token=9, generator=seeded()
    )
    assert other.ids[0, 0] != 9 and other.ids[0, 1] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(max_steps=0), "max_passes is at least 1, got 0"),
        (dict(canvas=torch.full((2, 4), 7)), r"no \[MASK\]"),
        (dict(top_k=V + 1), r"1\.\.12, got 13"),
        (dict(temperature=-1), "got -1"),
    ],
)
def test_what_the_note_s_sampler_refuses(change, message):
    whole = dict(model=fixed(torch.zeros(4, V)), canvas=blank(2, 4), max_steps=3)
    with pytest.raises(ValueError, match=message):
        generate_diffusion(**whole | change)


def test_the_note_s_sampler_reads_our_model_under_its_mask():
    model = tiny.gpt(vocab_size=V, scale=0.5)
    found = [
        generate_diffusion(model, blank(1, 8), 1, temperature=0, mask=mask).ids
        for mask in (masks.bidirectional, masks.causal)
    ]
    default = generate_diffusion(model, blank(1, 8), 1, temperature=0).ids
    assert torch.equal(default, found[0]) and not torch.equal(*found)
