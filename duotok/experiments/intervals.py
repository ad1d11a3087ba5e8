"""Means over seeds with their 95 % intervals, and what an interval says of a claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and how far the truth may lie from it.

    Attributes:
        mean: of the values.
        half: half the width of the 95 % interval; NaN of fewer than two values.
        count: of the values.
    """

    mean: float
    half: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; False of fewer than two values."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if math.isnan(self.half) else f" ± {self.half:.2g}")


def interval(values: Sequence[float]) -> Interval:
    """Compute the mean of values and its 95 % interval by Student's t distribution.

    Raises:
        ValueError: if there are no values.
    """
    from scipy.stats import t

    if not values:
        raise ValueError("interval: expected at least one value; got none; run a seed")
    if len(values) < 2:
        return Interval(fmean(values), math.nan, len(values))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), half, len(values))


def verdict(difference: Interval, sign: int) -> str:
    """Say whether a difference shows what a claim wants.

    Args:
        difference: of an arm from another, paired by seed.
        sign: +1 if the claim is that the arm has more, -1 if less.

    Returns:
        "shown", "the opposite is shown", "not shown", or "not tested" with fewer than two seeds.
    """
    if difference.count < 2:
        return "not tested"
    if not difference.excludes_zero:
        return "not shown"
    return "shown" if difference.mean * sign > 0 else "the opposite is shown"
