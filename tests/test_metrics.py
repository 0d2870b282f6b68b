"""Intervals: against the normal approximation, reproducible, and refused where there are none."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mylib.metrics import (
    Interval,
    bootstrap,
    bootstrap_over,
    intervals,
    paired_difference,
    paired_excess,
)


def normal(n, mean=0.0, deviation=1.0, seed=0):
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + deviation * values


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (17.3, 4.0), (-2.0, 0.01)])
def test_bootstrap_of_normal_values(mean, deviation):
    values = normal(400, mean, deviation)
    found = bootstrap(values)
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)


def test_the_interval_holds_the_mean_in_95_of_100_trials():
    trials = [bootstrap(normal(50, seed=seed), draws=200, seed=seed) for seed in range(150)]
    held = sum(found.low <= 0 <= found.high for found in trials)
    assert 0.88 * len(trials) <= held <= 0.99 * len(trials)


def test_of_few_values_it_is_narrow():
    """As its docstring says: of 400 trials three in four, to about three standard errors."""
    chance = torch.Generator().manual_seed(0)
    values = torch.randn(400, 3, generator=chance, dtype=torch.float64)
    found = [bootstrap(one, draws=500) for one in values]
    assert 0.69 < sum(one.low <= 0 <= one.high for one in found) / 400 < 0.81


def test_bootstrap_is_reproducible():
    values = normal(30)
    assert bootstrap(values) == bootstrap(values.clone()) == bootstrap(values, seed=0)
    assert bootstrap(values, seed=1) != bootstrap(values)
    state = torch.get_rng_state()
    bootstrap(values)
    assert torch.equal(state, torch.get_rng_state())  # no global chance is used


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_bootstrap_stays_among_the_values(values):
    found = bootstrap(torch.tensor(values, dtype=torch.float64), draws=50)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high + slack
    assert found.high <= max(values) + slack
    assert found.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-6)


def test_equal_values_have_no_spread():
    assert bootstrap(torch.full((9,), 2.5)) == Interval(2.5, 2.5, 2.5)
    assert bootstrap(torch.tensor([0, 1, 0, 1])).mean == 0.5  # whole numbers, too


def test_the_interval_in_words():
    assert str(Interval(0.1, -0.25, 0.4444)) == "0.100 [-0.250, 0.444]"


def test_paired_excess_takes_the_common_part_away():
    hard = normal(300, mean=17, deviation=4)
    excess = paired_excess(hard + normal(300, mean=0.1, deviation=0.05, seed=1), hard)
    assert excess.low < 0.1 < excess.high
    assert excess.high - excess.low < 0.02  # unpaired it would be near 0.9
    assert excess == bootstrap(hard + normal(300, mean=0.1, deviation=0.05, seed=1) - hard)
    below = paired_excess(hard - 1, hard)
    assert below.high < 0


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(0), torch.ones(2, 3), torch.ones(())])
def test_too_few_values(values):
    with pytest.raises(ValueError, match="at least two values"):
        bootstrap(values)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers(odd):
    with pytest.raises(ValueError, match="finite"):
        bootstrap(torch.tensor([1.0, odd, 2.0]))
    with pytest.raises(ValueError, match="finite"):
        paired_excess(torch.tensor([1.0, odd]), torch.ones(2))


def test_other_documents():
    with pytest.raises(ValueError, match=r"the same documents, got \(3,\) and \(2,\)"):
        paired_excess(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match=r"\(3, 1\) and \(3,\)"):  # never stretched
        paired_excess(torch.ones(3, 1), torch.ones(3))


# -- measures of sums -----------------------------------------------------------------------------


def ratio(sums):
    return sums[:, 0] / sums[:, 1]


def documents(n=80, seed=0):
    """Right words and words, of documents of very different lengths."""
    chance = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 60, (n,), generator=chance)
    right = (words * torch.rand(n, generator=chance)).long()
    return torch.stack([right, words], dim=1)


def test_a_mean_is_a_measure_of_sums():
    values = normal(70, mean=3)
    counts = torch.stack([values, torch.ones_like(values)], dim=1)
    # The same documents are drawn for the same seed, so that both are one interval.
    for seed in (0, 5):
        found = bootstrap_over(counts, ratio, draws=300, seed=seed)
        assert found == pytest.approx(bootstrap(values, draws=300, seed=seed), rel=1e-12)


def test_bootstrap_over_is_the_slow_bootstrap():
    counts = documents()
    chance = torch.Generator().manual_seed(3)
    drawn = [counts[torch.randint(80, (80,), generator=chance)].sum(0) for _ in range(200)]
    wanted = torch.stack(drawn).double()
    seen = []

    def measure(sums):
        seen.append(sums)
        return ratio(sums)

    found = bootstrap_over(counts, measure, draws=200, seed=3)
    assert torch.equal(seen[0], counts.sum(0, keepdim=True).double())
    assert torch.equal(seen[1], wanted)
    assert found.mean == float(counts[:, 0].sum() / counts[:, 1].sum().double())
    assert found.low == float(ratio(wanted).quantile(0.025))
    assert found.high == float(ratio(wanted).quantile(0.975))


def test_bootstrap_over_holds_the_truth_in_95_of_100_trials():
    """The delta method's interval for a ratio agrees, too."""
    chance = torch.Generator().manual_seed(0)
    held = 0
    for trial in range(150):
        words = torch.randint(1, 30, (60,), generator=chance).double()
        right = (torch.rand(60, 30, generator=chance) < 0.4).double()
        right = (right * (torch.arange(30) < words[:, None])).sum(1)
        found = bootstrap_over(torch.stack([right, words], 1), ratio, draws=200, seed=trial)
        held += found.low <= 0.4 <= found.high
        deviation = (right - found.mean * words).std() / words.mean() / math.sqrt(60)
        assert found.high - found.low == pytest.approx(2 * 1.96 * float(deviation), rel=0.35)
    assert 0.88 * 150 <= held <= 0.99 * 150


def test_memory_is_bounded_and_changes_nothing(monkeypatch):
    counts = documents(50)
    whole = bootstrap_over(counts, ratio, draws=101)
    sizes = []
    randint = torch.randint

    def watched(high, size, **more):
        sizes.append(size)
        return randint(high, size, **more)

    monkeypatch.setattr(torch, "randint", watched)
    for at_once in (7 * 50 + 3, 1):  # seven draws at a time; fewer than one draw's documents
        monkeypatch.setattr(intervals, "AT_ONCE", at_once)
        assert bootstrap_over(counts, ratio, draws=101) == whole
    assert sizes == [(7, 50)] * 14 + [(3, 50)] + [(1, 50)] * 101


def test_measures_are_reproducible_and_leave_chance_and_counts_alone():
    counts, state = documents(), torch.get_rng_state()
    before = counts.clone()
    assert bootstrap_over(counts, ratio) == bootstrap_over(counts, ratio, seed=0)
    assert bootstrap_over(counts, ratio, seed=1) != bootstrap_over(counts, ratio)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(before, counts)
    assert isinstance(bootstrap_over(counts, ratio), Interval)
    assert bootstrap_over(counts > 20, ratio).mean > 0  # yes and no are counts, too


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=2, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_ratio_stays_among_the_documents(pairs):
    found = bootstrap_over(torch.tensor(pairs), ratio, draws=50)
    each = [right / words for right, words in pairs]
    assert min(each) - 1e-12 <= found.low <= found.high <= max(each) + 1e-12
    assert found.mean == pytest.approx(sum(r for r, _ in pairs) / sum(w for _, w in pairs))


def test_paired_difference_takes_the_common_part_away():
    other = documents(200)
    better = other.clone()
    better[:, 0] += (torch.arange(200) % 4 == 0) & (other[:, 0] < other[:, 1])
    found = paired_difference(better, other, ratio)
    assert 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(
        bootstrap_over(better, ratio).mean - bootstrap_over(other, ratio).mean
    )
    alone = bootstrap_over(better, ratio)
    assert found.high - found.low < 0.2 * (alone.high - alone.low)
    mirrored = paired_difference(other, better, ratio)
    assert mirrored == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-12)
    assert paired_difference(other, other, ratio) == Interval(0.0, 0.0, 0.0)


def test_paired_difference_of_means_is_paired_excess():
    hard = normal(50, mean=17, deviation=4)
    easy = hard - normal(50, mean=0.1, seed=1)
    ones = torch.ones(50, dtype=torch.float64)
    found = paired_difference(torch.stack([hard, ones], 1), torch.stack([easy, ones], 1), ratio)
    assert found == pytest.approx(paired_excess(hard, easy), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5,), (2, 3, 4), (5, 0), ()])
def test_counts_that_cannot_be_resampled(shape):
    with pytest.raises(ValueError, match=r"counts \(N, K\) of at least two documents, got \("):
        bootstrap_over(torch.ones(shape), ratio)
    with pytest.raises(ValueError, match="at least two documents"):
        paired_difference(torch.ones(shape), torch.ones(shape), ratio)


def test_measures_that_are_refused():
    counts = documents(5)
    with pytest.raises(ValueError, match="finite counts"):
        bootstrap_over(torch.tensor([[1.0, math.nan], [1.0, 2.0]]), ratio)
    with pytest.raises(ValueError, match="at least one draw, got 0"):
        bootstrap_over(counts, ratio, draws=0)
    with pytest.raises(ValueError, match=r"turns sums \(1, 2\) into \(1,\), got \(1, 2\)"):
        bootstrap_over(counts, lambda sums: sums)
    with pytest.raises(ValueError, match=r"turns sums \(1, 2\) into \(1,\), got float"):
        bootstrap_over(counts, lambda sums: 0.5)
    with pytest.raises(ValueError, match="not finite on all documents: decide what 0/0 is"):
        bootstrap_over(torch.zeros(3, 2), ratio)
    with pytest.raises(ValueError, match="not finite on resampled documents"):
        bootstrap_over(torch.tensor([[1, 1], [0, 0]]), ratio)
    with pytest.raises(ValueError, match=r"the same documents, got counts \(5, 2\) and \(6, 2\)"):
        paired_difference(counts, documents(6), ratio)
    with pytest.raises(ValueError, match="not finite on the second"):
        paired_difference(counts, torch.zeros(5, 2), ratio)
