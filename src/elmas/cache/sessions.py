"""Which session a request belongs to, and when that session will be back.

A session is a conversation that grows: a request that goes on where an earlier one, or its answer, ended belongs to the
same session, unless the client names its session. Each keeps its usual interval between requests, smoothed in the
logarithm and drawn towards everybody's while it has few; how long it has waited in multiples of that tells what to
expect of it (`Returns`). Bounded: the session that was heard of longest ago makes room for a new one.
"""

from collections.abc import Sequence
from itertools import count, repeat

import numpy as np
from numpy.typing import NDArray

from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash

NO_SESSION = -1
"""Stands where a request's session is not known."""

_N_SLOTS = 1 << 17
_SMOOTHING = 0.4
"""The weight of the newest interval, once there are enough."""
_PRIOR_WEIGHT = 1.0
"""Everybody's interval counts as much as so many of the session's own."""
_LEAST_GAP_S = 1e-3
_POPULATION_SMOOTHING = 1 / 256


class Intervals:
    """The usual interval of each of many things: the mean logarithm, drawn towards that of all."""

    def __init__(self, n: int) -> None:
        self.last_s: NDArray[np.float64] = np.zeros(n)
        self._n_gaps: NDArray[np.int32] = np.zeros(n, dtype=np.int32)
        self._log_gap: NDArray[np.float64] = np.zeros(n)
        self._n_all = 0
        self._log_all = 0.0

    def begin(self, place: int, now_s: float) -> None:
        """A new thing, used now for the first time."""
        self.last_s[place], self._n_gaps[place], self._log_gap[place] = now_s, 0, 0.0

    def copy(self, source: int, target: int) -> None:
        """`target` is a new thing with the history of `source`."""
        for values in (self.last_s, self._n_gaps, self._log_gap):
            values[target] = values[source]

    def scale_s(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the usual intervals, in seconds."""
        n = self._n_gaps[places]
        weight = np.minimum(n, 1 / _SMOOTHING)
        return np.asarray(
            np.exp((weight * self._log_gap[places] + _PRIOR_WEIGHT * self._log_all) / (weight + _PRIOR_WEIGHT))
        )

    def back(self, place: int, now_s: float) -> float:
        """A thing is used again; returns its age then, in multiples of its interval as it was known before."""
        gap_s = max(_LEAST_GAP_S, now_s - self.last_s[place])
        age = gap_s / float(self.scale_s(np.array([place]))[0])
        log_gap = float(np.log(gap_s))
        n = int(self._n_gaps[place])
        share = max(_SMOOTHING, 1 / (n + 1))
        self._log_gap[place] += share * (log_gap - self._log_gap[place])
        self._n_gaps[place] = n + 1
        self._n_all += 1
        self._log_all += max(_POPULATION_SMOOTHING, 1 / self._n_all) * (log_gap - self._log_all)
        self.last_s[place] = now_s
        return float(age)


class Sessions:
    """The sessions of one server, each in a slot 0 .. n_slots - 1. Times are those of the calls; `now_s` is the
    latest."""

    def __init__(self, n_slots: int = _N_SLOTS) -> None:
        self.now_s = 0.0
        self.n_arrivals = 0
        self.generation: NDArray[np.int64] = np.full(n_slots, NO_SESSION, dtype=np.int64)
        """Changes when a slot is given to another session."""
        self._generations = count()
        self._intervals = Intervals(n_slots)
        self._is_first: NDArray[np.bool_] = np.ones(n_slots, dtype=np.bool_)
        self._slot_of: dict[BlockHash | str, int] = {}
        self._keys_of: list[tuple[BlockHash | str, ...]] = [()] * n_slots
        self._by_age: dict[int, None] = {}
        self._free = list(range(n_slots - 1, -1, -1))
        self._first, self._later = Returns(), Returns()

    def arrive(self, hashes: Sequence[BlockHash], now_s: float, session_id: str | None = None) -> int:
        """A request with these complete blocks has arrived; returns the slot of its session, a new one if need be."""
        self.now_s = now_s
        self.n_arrivals += 1
        slot = self._find(hashes, session_id)
        if slot == NO_SESSION:
            return self._begin(session_id, hashes, now_s)
        age = self._intervals.back(slot, now_s)
        (self._first if self._is_first[slot] else self._later).returned(age)
        self._is_first[slot] = False
        self._touch(slot)
        return slot

    def end(self, slot: int, n_prompt_blocks: int, hashes: Sequence[BlockHash], now_s: float) -> None:
        """A request of the session has ended with these complete blocks, of which the first are its prompt's."""
        self.now_s = now_s
        if slot == NO_SESSION:
            return
        self._intervals.last_s[slot] = now_s
        self._touch(slot)
        tails = {*hashes[max(0, n_prompt_blocks - 1) : n_prompt_blocks], *hashes[-1:]}
        names = [key for key in self._keys_of[slot] if isinstance(key, str)]
        self._set_keys(slot, (*names, *tails))

    def last_s(self, slot: int) -> float:
        """Return when a request of the session last arrived or ended."""
        return float(self._intervals.last_s[slot])

    def refresh(self) -> None:
        """Learn what those that wait tell. O(sessions)."""
        slots = np.fromiter(self._by_age, dtype=np.int64, count=len(self._by_age))
        ages = self._ages(slots)
        is_first = self._is_first[slots]
        self._first.refresh(ages[is_first])
        self._later.refresh(ages[~is_first])

    def values(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what it is worth now to keep a block of each session: the chance to be asked for it, per second."""
        index = np.where(self._is_first[slots], self._first.index(ages := self._ages(slots)), self._later.index(ages))
        return index / self._intervals.scale_s(slots)

    def _ages(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        waited_s = np.maximum(0.0, self.now_s - self._intervals.last_s[slots])
        return np.asarray(waited_s / self._intervals.scale_s(slots))

    def _find(self, hashes: Sequence[BlockHash], session_id: str | None) -> int:
        if session_id is not None:
            return self._slot_of.get(session_id, NO_SESSION)
        found = map(self._slot_of.get, reversed(hashes), repeat(NO_SESSION))
        return next((slot for slot in found if slot != NO_SESSION), NO_SESSION)

    def _begin(self, session_id: str | None, hashes: Sequence[BlockHash], now_s: float) -> int:
        if not self._free:
            oldest = next(iter(self._by_age))
            ages = self._ages(np.array([oldest]))
            (self._first if self._is_first[oldest] else self._later).gave_up(ages)
            self._set_keys(oldest, ())
            del self._by_age[oldest]
            self._free.append(oldest)
        slot = self._free.pop()
        self.generation[slot] = next(self._generations)
        self._intervals.begin(slot, now_s)
        self._is_first[slot] = True
        self._touch(slot)
        self._set_keys(slot, (session_id,) if session_id is not None else tuple(hashes[-1:]))
        return slot

    def _touch(self, slot: int) -> None:
        self._by_age.pop(slot, None)
        self._by_age[slot] = None

    def _set_keys(self, slot: int, keys: tuple[BlockHash | str, ...]) -> None:
        for key in self._keys_of[slot]:
            if self._slot_of.get(key) == slot:
                del self._slot_of[key]
        self._keys_of[slot] = keys
        for key in keys:
            self._slot_of[key] = slot
