"""The usual interval between the uses of each of many things."""

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.4
"""The weight of the newest interval, once there are enough."""
_PRIOR_WEIGHTS = (0.25, 1.0, 4.0, 16.0, 64.0)
"""Everybody's interval counts as much as so many of the thing's own: that which predicted best lately."""
_ERROR_SMOOTHING = 1 / 256
_LEAST_GAP_S = 1e-3
_POPULATION_SMOOTHING = 1 / 256


class Intervals:
    """Of each thing the mean logarithm of its intervals, smoothed, and drawn towards that of all while it has few.

    Times span orders of magnitude: in the logarithm a long pause among short ones does not outweigh them.
    """

    def __init__(self, n: int) -> None:
        self.last_s: NDArray[np.float64] = np.zeros(n)
        """When each thing was last used."""
        self._n_gaps: NDArray[np.int32] = np.zeros(n, dtype=np.int32)
        self._log_gap: NDArray[np.float64] = np.zeros(n)
        self._errors = [0.0] * len(_PRIOR_WEIGHTS)
        self._prior_weight = 1.0
        self._n_all = 0
        self._log_all = 0.0

    def grow(self, n: int) -> None:
        """Make place for `n` things in all."""
        more = n - self.last_s.size
        self.last_s = np.concatenate((self.last_s, np.zeros(more)))
        self._n_gaps = np.concatenate((self._n_gaps, np.zeros(more, dtype=np.int32)))
        self._log_gap = np.concatenate((self._log_gap, np.zeros(more)))

    def begin(self, place: int, now_s: float) -> None:
        """A new thing, used now for the first time."""
        self.last_s[place], self._n_gaps[place], self._log_gap[place] = now_s, 0, 0.0

    def copy(self, source: int, target: int) -> None:
        """`target` is a new thing with the history of `source`."""
        for values in (self.last_s, self._n_gaps, self._log_gap):
            values[target] = values[source]

    def scale_s(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the usual intervals, in seconds."""
        weight = np.minimum(self._n_gaps[places], 1 / _SMOOTHING)
        mean = (weight * self._log_gap[places] + self._prior_weight * self._log_all) / (weight + self._prior_weight)
        return np.asarray(np.exp(mean))

    def scale_of(self, place: int) -> float:
        """Return the usual interval of one thing, in seconds."""
        weight = min(self._n_gaps.item(place), 1 / _SMOOTHING)
        prior = self._prior_weight
        mean = (weight * self._log_gap.item(place) + prior * self._log_all) / (weight + prior)
        return float(np.exp(mean))

    def back(self, place: int, now_s: float) -> float:
        """A thing is used again; returns its age then, in multiples of its interval as it was known before."""
        gap_s = max(_LEAST_GAP_S, now_s - self.last_s.item(place))
        age = gap_s / self.scale_of(place)
        log_gap = float(np.log(gap_s))
        n, own = self._n_gaps.item(place), self._log_gap.item(place)
        self._judge(n, own, log_gap)
        self._log_gap[place] = own + max(_SMOOTHING, 1 / (n + 1)) * (log_gap - own)
        self._n_gaps[place] = n + 1
        self._n_all += 1
        self._log_all += max(_POPULATION_SMOOTHING, 1 / self._n_all) * (log_gap - self._log_all)
        self.last_s[place] = now_s
        return age

    def _judge(self, n_gaps: int, own: float, log_gap: float) -> None:
        """See which weight of everybody's interval would have predicted this one best, beside so many of its own."""
        if n_gaps == 0:
            return
        weight, errors = min(n_gaps, 1 / _SMOOTHING), self._errors
        for i, prior in enumerate(_PRIOR_WEIGHTS):
            predicted = (weight * own + prior * self._log_all) / (weight + prior)
            errors[i] += _ERROR_SMOOTHING * ((predicted - log_gap) ** 2 - errors[i])
        self._prior_weight = _PRIOR_WEIGHTS[errors.index(min(errors))]
