"""Intervals: against the normal approximation, reproducible, and refused where there are none."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mylib.metrics import Interval, bootstrap, paired_excess


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
