"""Spans: the best one, when to give none, and contexts longer than a window."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mylib.heads import (
    Span,
    SpanExtractor,
    best_of_windows,
    best_span,
    choose_threshold,
    read_spans,
    windows,
)
from mylib.objectives import Answering, Asking

SLOW = [HealthCheck.too_slow]  # a busy machine is no bug

INF = torch.inf


def bools(*values):
    return torch.tensor(values).bool()


# -- the best span -----------------------------------------------------------------------------


@st.composite
def texts(draw):
    size = draw(st.integers(2, 8))
    null = draw(st.integers(0, size - 1))
    candidates = torch.tensor([draw(st.booleans()) and i != null for i in range(size)])
    number = st.one_of(st.integers(-4, 4).map(float), st.just(-INF))  # many ties
    start, end = (
        torch.tensor(draw(st.lists(number, min_size=size, max_size=size))) for _ in range(2)
    )
    return start, end, candidates, null, draw(st.sampled_from([None, 1, 2, 3, 99]))


@settings(max_examples=250, deadline=None, suppress_health_check=SLOW)
@given(texts())
def test_it_is_the_best_of_all_spans(given_text):
    start, end, candidates, null, longest = given_text
    every = [
        (a, b)
        for a in range(len(start))
        for b in range(a, len(start))
        if candidates[a : b + 1].all() and (longest is None or b - a + 1 <= longest)
    ]
    scores = [float(start[a] + end[b]) for a, b in every]
    none = float(start[null] + end[null])
    if not every:
        with pytest.raises(ValueError, match="no candidate"):
            best_span(start, end, candidates, null, longest)
        return
    if max(scores) == none == -INF:
        with pytest.raises(ValueError, match="no p above 0"):
            best_span(start, end, candidates, null, longest)
        return
    found = best_span(start, end, candidates, null, longest)
    # Of equal ones the first; then the shortest.
    assert (found.first, found.last) == every[scores.index(max(scores))]
    assert found.margin == max(scores) - none


def test_a_gap_is_never_crossed():
    start, end = torch.tensor([9.0, 0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 9, 0])
    whole = best_span(start, end, bools(1, 1, 1, 1, 0), 4)
    assert whole == Span(0, 3, 18.0)
    for gap in (1, 2):
        candidates = bools(1, 1, 1, 1, 0)
        candidates[gap] = False
        found = best_span(start, end, candidates, 4)
        assert found.margin == 9.0 and not found.first < gap < found.last


def test_start_and_end_are_not_exchanged_and_constants_change_nothing():
    start, end = torch.tensor([0.0, 1, 5, 2]), torch.tensor([0.0, 6, 2, 1])
    plain = best_span(start, end, bools(0, 1, 1, 0), 3)
    assert plain == Span(1, 1, 1 + 6 - 2 - 1)
    assert best_span(start + 4, end - 9, bools(0, 1, 1, 0), 3) == plain
    assert best_span(start, end, bools(0, 1, 1, 0), 0).margin == 7.0
    log_p = best_span(start.log_softmax(0), end.log_softmax(0), bools(0, 1, 1, 0), 3)
    assert log_p[:2] == (1, 1) and log_p.margin == pytest.approx(4.0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(start=torch.zeros(3)), r"\(T,\) alike, got \(3,\), \(4,\) and \(4,\)"),
        (dict(end=torch.zeros(4, 1)), r"\(T,\) alike"),
        (dict(candidates=bools(1, 1, 0)), r"\(T,\) alike"),
        (dict(candidates=bools(0, 0, 0, 0)), "no candidate"),
        (dict(longest=0), "at least 1 token, longest=0"),
        (dict(null=4), "null is a token among 4, got 4"),
        (dict(null=-1), "null is a token among 4, got -1"),
        (dict(start=torch.tensor([0.0, torch.nan, 0, 0])), "found NaN"),
        (dict(end=torch.tensor([0.0, 0, 0, torch.nan])), "found NaN"),
        (dict(start=torch.tensor([0.0, INF, 0, 0])), "inf"),
        (dict(start=torch.full((4,), -INF)), "no p above 0"),
    ],
)
def test_spans_that_cannot_be_found(change, message):
    start, end = torch.zeros(4), torch.zeros(4)
    options = dict(start=start, end=end, candidates=bools(0, 1, 1, 0), null=3) | change
    with pytest.raises(ValueError, match=message):
        best_span(**options)


class Scripted(SpanExtractor):
    """Says for token n of the vocabulary what its tables say."""

    def __init__(self, start, end):
        torch.nn.Module.__init__(self)
        self.table = torch.nn.Parameter(torch.stack([start, end], 1))

    def answers(self, batch):
        return self.table[batch.inputs][batch.asked]


def test_spans_are_read_document_by_document():
    start = torch.tensor([50.0, 0, 2, 7, 1, 0])  # by token id; 0 is the pad
    end = torch.tensor([50.0, 0, 9, 1, 3, 0])
    documents = [
        Asking(torch.tensor([1, 2, 3, 4, 5]), bools(0, 1, 1, 1, 0), 4, None),
        Asking(torch.tensor([1, 4, 5]), bools(0, 1, 0), 2, (1, 1)),
        Asking(torch.tensor([5, 3, 1, 2, 4]), bools(0, 1, 0, 1, 1), 0, (1, 1)),
    ]
    model = Scripted(start, end)
    found = read_spans(model, Answering(), documents)
    assert found == [Span(1, 1, 11.0), Span(1, 1, 4.0), Span(3, 3, 11.0)]
    longer = Asking(torch.tensor([1, 3, 2, 5]), bools(0, 1, 1, 0), 3, None)
    assert read_spans(model, Answering(), [longer]) == [Span(1, 2, 16.0)]
    assert read_spans(model, Answering(), [longer], longest=1) == [Span(2, 2, 11.0)]
    assert read_spans(model, Answering(), []) == []


# -- no answer ---------------------------------------------------------------------------------


def outcome(threshold, margins, answered, silent):
    given_ = margins > threshold
    return float(answered.double()[given_].sum() + silent.double()[~given_].sum())


SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
FEW = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])
ANY = st.floats(-50, 50, width=32)


@settings(max_examples=250, deadline=None, suppress_health_check=SLOW)
@given(st.lists(st.tuples(st.one_of(FEW, ANY), SCORES, SCORES), min_size=1, max_size=8))
def test_no_cut_is_better(rows):
    margins, answered, silent = (torch.tensor(column) for column in zip(*rows, strict=True))
    threshold = choose_threshold(margins, answered, silent)
    cuts = [-INF, *margins.tolist()]  # every way to split them: those at or below are silent
    best = max(outcome(cut, margins, answered, silent) for cut in cuts)
    assert outcome(threshold, margins, answered, silent) == pytest.approx(best)
    assert threshold in (-INF, INF) or threshold not in margins.tolist() or (
        torch.nextafter(torch.tensor(threshold), torch.tensor(INF)) in margins
    )  # fmt: skip
    # Whatever their order, and wherever the margins lie.
    order = torch.randperm(len(margins), generator=torch.Generator().manual_seed(0))
    assert choose_threshold(margins[order], answered[order], silent[order]) == threshold


def test_always_never_and_in_between():
    margins = torch.tensor([3.0, -1.0, 1.0, 1.0])
    yes, no = torch.ones(4), torch.zeros(4)
    assert choose_threshold(margins, yes, no) == -INF
    assert choose_threshold(margins, no, yes) == INF
    assert choose_threshold(margins, yes, yes) == -INF  # of equally good ones the lowest
    assert choose_threshold(margins, margins == 3, margins < 3) == 2.0
    # Equal margins stay together, though parting them would score more.
    answered = torch.tensor([1.0, 0, 0, 1])
    silent = torch.tensor([0.0, 1, 1, 0])
    assert choose_threshold(margins, answered, silent) in (0.0, 2.0)
    assert choose_threshold(torch.tensor([1.0]), torch.ones(1), torch.zeros(1)) == -INF


def test_neighbours_with_no_number_between_them():
    for dtype in (torch.float32, torch.float64):
        low = torch.tensor(1.0, dtype=dtype)
        for _ in range(2):  # a middle that would be rounded up, and one that would not
            high = torch.nextafter(low, torch.tensor(2.0, dtype=dtype))
            margins = torch.stack([low, high])
            threshold = choose_threshold(margins, torch.tensor([0, 1]), torch.tensor([1, 0]))
            assert (margins > threshold).tolist() == [False, True]
            low = high


@pytest.mark.parametrize(
    ("margins", "answered", "silent", "message"),
    [
        ([0.0], [1.0, 0.0], [1.0], r"\(N,\) alike, got \(1,\), \(2,\) and \(1,\)"),
        ([[0.0]], [[1.0]], [[1.0]], r"\(N,\) alike"),
        ([], [], [], "chosen on development data; there is none"),
        ([torch.nan], [1.0], [0.0], "NaN or inf"),
        ([0.0, INF], [1.0, 0.0], [0.0, 0.0], "NaN or inf"),
        ([0.0], [torch.nan], [0.0], "NaN or inf"),
        ([0.0], [1.0], [-INF], "NaN or inf"),
    ],
)
def test_thresholds_that_cannot_be_chosen(margins, answered, silent, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold(*map(torch.tensor, (margins, answered, silent)))


# -- windows -----------------------------------------------------------------------------------

BEFORE, AFTER = [1, 7, 8, 1], [9, 2]


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(st.integers(1, 30), st.integers(1, 8), st.data())
def test_windows_cover_the_context_and_every_short_answer(length, room, data):
    stride = data.draw(st.integers(1, room))
    context = torch.arange(100, 100 + length)
    size = room + len(BEFORE) + len(AFTER)
    overlap = room - stride
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first, length - 1))
    found = windows(BEFORE, context, AFTER, size, stride, (first, last))
    covered, holds = set(), 0
    for n, (asking, offset) in enumerate(found):
        assert len(asking.ids) <= size
        assert asking.ids[: len(BEFORE)].tolist() == BEFORE
        assert asking.ids[-len(AFTER) :].tolist() == AFTER and asking.null == len(asking.ids) - 1
        places = asking.candidates.nonzero()[:, 0]
        assert torch.equal(asking.ids[places], context[places + offset])
        assert int(places[0]) + offset == n * stride
        covered |= set((places + offset).tolist())
        if asking.answer is not None:
            assert (asking.answer[0] + offset, asking.answer[1] + offset) == (first, last)
            holds += 1
        else:
            assert not {first, last} <= set((places + offset).tolist())
    assert covered == set(range(length))
    assert len(found) == 1 + max(0, -(-(length - room) // stride))  # none that adds nothing
    if last - first + 1 <= overlap + 1:
        assert holds >= 1
    assert all(a.answer is None for a, _ in windows(BEFORE, context, AFTER, size, stride))


def test_a_context_that_fits_is_one_window():
    ((asking, offset),) = windows([1], torch.tensor([7, 8]), [2], 9, 3, (1, 1))
    assert asking.ids.tolist() == [1, 7, 8, 2] and asking.answer == (2, 2) and offset == -1
    ((asking, offset),) = windows([], torch.tensor([7, 8]), [2], 3, 2)
    assert asking.ids.tolist() == [7, 8, 2] and offset == 0 and asking.null == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(context=torch.tensor([]).long()), "an empty context"),
        (dict(after=[]), "stands for no answer"),
        (dict(size=6), "windows of 6 tokens have no room for the context: 4 before it and 2 after"),
        (dict(size=3), "no room"),
        (dict(stride=0), "between 1 and the 4 tokens of a window, got 0"),
        (dict(stride=5), "between 1 and the 4 tokens of a window, got 5"),
        (dict(answer=(5, 10)), r"answer \(5, 10\) lies outside a context of 10 tokens"),
        (dict(answer=(-1, 3)), "outside"),
        (dict(answer=(4, 3)), "outside"),
    ],
)
def test_windows_that_cannot_be(change, message):
    options = dict(before=BEFORE, context=torch.arange(10), after=AFTER, size=10, stride=2)
    with pytest.raises(ValueError, match=message):
        windows(**options | change)


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(
    st.integers(3, 20),
    st.integers(0, 10_000),
    st.lists(st.integers(-40, 40), min_size=2, max_size=2),
)
def test_what_one_window_adds_to_all_its_logits_changes_nothing(length, seed, constants):
    chance = torch.Generator().manual_seed(seed)
    found = windows(BEFORE, torch.arange(100, 100 + length), AFTER, 10, 2)
    plain, moved = [], []
    for n, (asking, _) in enumerate(found):
        start, end = torch.randn(2, len(asking.ids), generator=chance, dtype=torch.float64)
        plain.append(best_span(start, end, asking.candidates, asking.null))
        a, b = constants if n == len(found) // 2 else (0, 0)
        moved.append(best_span(start + a, end + b, asking.candidates, asking.null))
    offsets = [offset for _, offset in found]
    one, two = best_of_windows(plain, offsets), best_of_windows(moved, offsets)
    assert one[:2] == two[:2] and one.margin == pytest.approx(two.margin, abs=1e-9)
    assert one.margin == max(span.margin for span in plain)
    assert 0 <= one.first <= one.last < length


def test_the_best_of_windows_in_tokens_of_the_context():
    spans = [Span(4, 5, 1.0), Span(4, 4, 2.5), Span(6, 7, 2.0)]
    assert best_of_windows(spans, [-4, -2, 0]) == Span(2, 2, 2.5)
    for bad in ((spans, [0, 1]), ([], [])):
        with pytest.raises(ValueError, match=r"\d spans for \d windows"):
            best_of_windows(*bad)
