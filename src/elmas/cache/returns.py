"""When something that was used will be used again, learned from what came back and from what did not.

Time is measured in multiples of the thing's own scale, its usual interval. The chance to come back as a function of
that age is estimated with censoring (Kaplan and Meier 1958): what still waits counts as not having come back so far.
From it follows the Gittins index of each age (Gittins 1979; as a retention value: Bhattacharya and Ephremides 1989),
the largest ratio, over horizons, of the chance to come back within the horizon to the expected time of being kept.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

Ages = NDArray[np.float64]

_EDGES: Ages = np.concatenate(
    (
        np.geomspace(1e-4, 0.5, 45, endpoint=False),
        np.linspace(0.5, 1.5, 100, endpoint=False),  # who comes back regularly does so here
        np.geomspace(1.5, 1e3, 40),
    )
)
_EDGE_LIST: list[float] = _EDGES.tolist()
_N_BINS = _EDGES.size + 1

_FORGET = 0.5 ** (1 / 4000)
"""Each return lowers the weight of all before it by this factor."""

_FEW_RETURNS = 8
"""Fewer say nothing of how long things may stay away."""

_AROUND = 1.3
_NEIGHBOURS = 1.0
"""Bins whose ages differ by less than this factor lend a bin the weight of so many things."""

_PRIOR_RETURNS = 1.0
_PRIOR_SPAN = (0.1, 10.0)
"""Before anything is known, one return somewhere in this span of ages is believed, evenly in the logarithm, and one
thing that never comes back."""


class Returns:
    """The chance to come back by age, for one kind of things."""

    def __init__(self) -> None:
        self._returned: NDArray[np.float64] = np.zeros(_N_BINS)
        self._given_up: NDArray[np.float64] = np.zeros(_N_BINS)
        self._weight = 1.0
        lower, upper = _bounds()
        low, high = np.log(_PRIOR_SPAN)
        overlap = np.clip(np.minimum(np.log(upper), high) - np.maximum(np.log(lower), low), 0.0, None)
        self._prior: NDArray[np.float64] = _PRIOR_RETURNS * overlap / (high - low)
        self._index: NDArray[np.float64] = np.zeros(_N_BINS)
        self._index_list: list[float] = []
        self._learned_from: bytes | None = None
        self.refresh(np.empty(0))

    def returned(self, age: float) -> None:
        """Something came back at this age."""
        self._weight /= _FORGET
        self._returned[bisect_right(_EDGE_LIST, age)] += self._weight
        self._learned_from = None
        if self._weight > 1e12:
            self._returned /= self._weight
            self._given_up /= self._weight
            self._weight = 1.0

    def gave_up(self, age: float) -> None:
        """Something that had not come back at this age is not watched any more."""
        self._given_up[bisect_right(_EDGE_LIST, age)] += self._weight
        self._learned_from = None

    def latest_age(self, share: float) -> float:
        """Return the age until which this share of all returns happened; infinite where few were seen."""
        seen = np.cumsum(self._returned)
        if seen[-1] < _FEW_RETURNS * self._weight:
            return float("inf")
        place = int(np.searchsorted(seen, share * seen[-1]))
        return float(_EDGES[place]) if place < _EDGES.size else float("inf")

    def refresh(self, waiting_ages: Ages) -> None:
        """Learn from all returns so far and from what waits now, and compute the index anew. O(ages log bins)."""
        waiting = np.bincount(np.searchsorted(_EDGES, waiting_ages, side="right"), minlength=_N_BINS)
        seen = waiting.tobytes()
        if seen == self._learned_from:
            return
        self._learned_from = seen
        returned = self._returned / self._weight
        events = returned + self._prior
        # At risk in a bin are those that got there. Who left in the bin without a return was at risk for half of it.
        left = events + waiting + self._given_up / self._weight
        left[-1] += 1.0
        at_risk = np.cumsum(left[::-1])[::-1] - 0.5 * (left - events)
        at_risk = np.maximum(at_risk, 1e-9)
        # A bin with few things in it says little: it is drawn towards the rate of its neighbours.
        rate = _around(events) / _around(at_risk * _WIDTHS)
        hazard = np.minimum((events - _NEIGHBOURS * np.expm1(-rate * _WIDTHS)) / (at_risk + _NEIGHBOURS), 1.0)
        self._index_list = _gittins(hazard)
        self._index = np.array(self._index_list)

    def index(self, ages: Ages) -> NDArray[np.float64]:
        """Return the Gittins index at each age, per unit of the thing's scale."""
        return np.interp(ages, _MIDDLES, self._index)

    def index_at(self, age: float) -> float:
        """Return the Gittins index at one age."""
        right = bisect_right(_MIDDLE_LIST, age)
        if right in (0, _N_BINS):
            return self._index_list[min(right, _N_BINS - 1)]
        low, high, start = self._index_list[right - 1], self._index_list[right], _MIDDLE_LIST[right - 1]
        return (high - low) / (_MIDDLE_LIST[right] - start) * (age - start) + low


def _bounds() -> tuple[Ages, Ages]:
    """The bounds of the bins in the estimate: the last one is given an end."""
    return np.concatenate(([_EDGES[0] / 10], _EDGES)), np.concatenate((_EDGES, [10 * _EDGES[-1]]))


_LOWER, _UPPER = _bounds()
_MIDDLES: Ages = np.concatenate(([0.0], (_LOWER[1:] + _UPPER[1:]) / 2))
_MIDDLE_LIST: list[float] = _MIDDLES.tolist()
_WIDTHS: Ages = np.concatenate(([_EDGES[0]], (_UPPER - _LOWER)[1:]))


_FIRST_AROUND = np.searchsorted(_MIDDLES, _MIDDLES / _AROUND)
_LAST_AROUND = np.searchsorted(_MIDDLES, _MIDDLES * _AROUND, side="right")


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over each bin and those of like age."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray(sums[_LAST_AROUND] - sums[_FIRST_AROUND])


def _gittins(hazard: NDArray[np.float64]) -> list[float]:
    """Return the index at the beginning of each bin for these chances to return in it.

    For a start i and a horizon j, chance(i, j) / time(i, j), both conditional on getting to i. That is the slope
    between two points of a curve, chance over time; the steepest one to the right of i ends on the upper convex hull of
    what lies there, which is built from the end, in one pass (Andrew, 1979).
    """
    survival = np.concatenate(([1.0], np.cumprod(1.0 - hazard)))
    chances: list[float] = (1.0 - survival).tolist()  # by the end of bin j - 1
    mean_survival = (survival[:-1] + survival[1:]) / 2
    times: list[float] = np.concatenate(([0.0], np.cumsum(mean_survival * _WIDTHS))).tolist()
    hull = [_N_BINS]
    index = [0.0] * _N_BINS
    for start in range(_N_BINS - 1, -1, -1):
        chance, time = chances[start], times[start]
        span = times[hull[-1]] - time
        steepest = (chances[hull[-1]] - chance) / span if span > 0 else 0.0
        while len(hull) > 1:
            span = times[hull[-2]] - time
            slope = (chances[hull[-2]] - chance) / span if span > 0 else 0.0
            if slope < steepest:
                break
            steepest = slope
            hull.pop()
        index[start] = steepest
        hull.append(start)
    return index
