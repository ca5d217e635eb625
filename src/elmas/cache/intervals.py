"""The usual interval between the uses of each of many things."""

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.4
"""The weight of the newest interval, once there are enough."""
_PRIOR_WEIGHTS: NDArray[np.float64] = np.array([0.25, 1.0, 4.0, 16.0, 64.0])
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
        self._errors: NDArray[np.float64] = np.zeros(_PRIOR_WEIGHTS.size)
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

    def back(self, place: int, now_s: float) -> float:
        """A thing is used again; returns its age then, in multiples of its interval as it was known before."""
        gap_s = max(_LEAST_GAP_S, now_s - float(self.last_s[place]))
        age = gap_s / float(self.scale_s(np.array([place]))[0])
        log_gap = float(np.log(gap_s))
        n = int(self._n_gaps[place])
        self._judge(place, log_gap)
        self._log_gap[place] += max(_SMOOTHING, 1 / (n + 1)) * (log_gap - self._log_gap[place])
        self._n_gaps[place] = n + 1
        self._n_all += 1
        self._log_all += max(_POPULATION_SMOOTHING, 1 / self._n_all) * (log_gap - self._log_all)
        self.last_s[place] = now_s
        return age

    def _judge(self, place: int, log_gap: float) -> None:
        """See which weight of everybody's interval would have predicted this one best."""
        weight = min(float(self._n_gaps[place]), 1 / _SMOOTHING)
        if weight == 0:
            return
        predicted = (weight * self._log_gap[place] + _PRIOR_WEIGHTS * self._log_all) / (weight + _PRIOR_WEIGHTS)
        self._errors += _ERROR_SMOOTHING * ((predicted - log_gap) ** 2 - self._errors)
        self._prior_weight = float(_PRIOR_WEIGHTS[np.argmin(self._errors)])
