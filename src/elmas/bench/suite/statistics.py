"""What several trials say together: means with confidence intervals, and ratios of two servers. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of all intervals."""

_N_RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over trials and the interval that holds the true one with `CONFIDENCE`; None for a single trial."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


def mean_estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of `values` with its bootstrap interval; None for no values.

    The interval is BCa, the percentiles of resampled means corrected for bias and skewness (B. Efron, "Better bootstrap
    confidence intervals", JASA 1987). With a handful of trials it is narrow rather than wide: read it as a lower bound
    of the uncertainty. The same values always give the same interval.
    """
    if not values:
        return None
    known = np.asarray(values, dtype=np.float64)
    mean = float(known.mean())
    if known.size < 2:
        return Estimate(mean, known.size)
    if np.ptp(known) == 0:
        return Estimate(mean, known.size, mean, mean)
    random = np.random.default_rng(_SEED)
    means = known[random.integers(0, known.size, (_N_RESAMPLES, known.size))].mean(axis=1)
    low, high = np.quantile(means, _bca_levels(known, means))
    return Estimate(mean, known.size, float(low), float(high))


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate | None:
    """Return the geometric mean of the ratios of paired trials, with its interval; None for no pairs.

    Raises ValueError when a value is not positive or the lengths differ.
    """
    logs = [math.log(top / bottom) for top, bottom in zip(numerators, denominators, strict=True)]
    found = mean_estimate(logs)
    if found is None:
        return None
    low, high = (None if each is None else math.exp(each) for each in (found.low, found.high))
    return Estimate(math.exp(found.value), found.n, low, high)


def _bca_levels(values: NDArray[np.float64], means: NDArray[np.float64]) -> tuple[float, float]:
    """Return the two quantiles of the resampled means that bound the interval."""
    normal = NormalDist()
    # Ties count half; a share of 0 or 1 has no finite quantile.
    below = float(np.mean(means < values.mean()) + 0.5 * np.mean(means == values.mean()))
    bias = normal.inv_cdf(min(max(below, 1 / means.size), 1 - 1 / means.size))
    # Acceleration from the jackknife; for a mean, leaving one out moves it against that value's deviation.
    deviations = values - values.mean()
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    levels = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        shifted = bias + normal.inv_cdf(tail)
        levels.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return levels[0], levels[1]
