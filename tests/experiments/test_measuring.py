"""Means, spreads and intervals against numbers worked out by hand, and t against the textbook's table."""

import math

import pytest

from harmopower.experiments import measuring

BASELINE = {0: 0.50, 1: 0.52, 2: 0.54}
BETTER = {0: 0.60, 1: 0.61, 2: 0.68}  # by .10, .09, .14


def test_mean_and_spread():
    assert measuring.summary(list(BASELINE.values())) == pytest.approx((3, 0.52, 0.02))
    assert measuring.summary([0.3]) == (1, 0.3, None)


def test_the_interval_of_paired_differences():
    found = measuring.paired(BETTER, BASELINE)
    half = 4.302653 * math.sqrt(0.0014 / 2) / math.sqrt(3)
    assert found == pytest.approx((3, 0.11, 0.11 - half, 0.11 + half), rel=1e-6) and found.beyond_chance
    assert not measuring.paired({0: 0.6, 1: 0.5, 2: 0.55}, BASELINE).beyond_chance


@pytest.mark.parametrize("count, t", [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622)])
def test_student(count, t):
    values = {seed: float(seed % 2) for seed in range(count)}
    found = measuring.paired(values, dict.fromkeys(values, 0.0))
    assert found.high - found.mean == pytest.approx(
        t * measuring.summary(list(values.values())).spread / math.sqrt(count), rel=1e-4
    )


def test_only_seeds_that_both_have_are_pairs():
    assert measuring.paired({1: 0.6, 2: 0.7, 9: 0.1}, BASELINE).mean == pytest.approx((0.08 + 0.16) / 2)
    assert measuring.paired({1: 0.6, 9: 0.1}, BASELINE) == pytest.approx((1, 0.08, None, None))
    assert not measuring.paired({1: 0.6}, BASELINE).beyond_chance  # one seed shows nothing
    assert measuring.paired({9: 0.1}, BASELINE) is None


def test_a_measure_is_the_mean_of_what_fits():
    metrics = {"test/i_r1": 0.2, "test/t_r1": 0.4, "unseen/t_r1": 0.9, "test/boxes": 0.1}
    assert measuring.value(metrics, ("test/*_r1",)) == pytest.approx(0.3)
    assert measuring.value(metrics, ("test/i_r1", "test/boxes")) == pytest.approx(0.15)
    assert measuring.value(metrics, ("none",)) is None
