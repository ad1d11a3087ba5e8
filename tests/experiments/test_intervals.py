"""Intervals by Student's t against scipy's own test and a table, and what they say of a claim."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from duotok.experiments.intervals import Interval, interval, verdict


def test_the_interval_is_that_of_the_t_test():
    values = [5.1, 4.7, 5.6]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    # Three values 0, 1, 2: deviation 1, t(0.975, 2) = 4.303 of any table.
    assert interval([0.0, 1.0, 2.0]).half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_one_value_gives_no_interval_and_tests_nothing():
    found = interval([3.0])
    assert math.isnan(found.half) and not found.excludes_zero and str(found) == "3"
    assert verdict(found, 1) == "not tested"
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


@pytest.mark.parametrize(
    ("mean", "half", "sign", "said"),
    [
        (-0.5, 0.2, -1, "shown"),
        (0.5, 0.2, -1, "the opposite is shown"),
        (0.5, 0.2, 1, "shown"),
        (-0.1, 0.2, -1, "not shown"),
        (0.2, 0.2, 1, "not shown"),
    ],
)
def test_a_claim_shows_where_the_interval_excludes_zero_on_its_side(mean, half, sign, said):
    assert verdict(Interval(mean, half, 3), sign) == said
