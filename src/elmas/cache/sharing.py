"""How likely it is that what one session has brought will be asked for by another, learned per level.

A level counts the shared prefixes below: a system prompt is at level 0, what follows it at level 1, and so on. Whether
something is shared is decided by what it is in the applications that run, and that differs by level: all agents of a
swarm ask the same question, none continues another's answer. What was given up before it was shared is remembered by
its first block, or a tier that refuses it would never learn.
"""

import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash

N_LEVELS = 4
"""Levels that are told apart; deeper ones count as the last."""

_SMOOTHING = 1 / 64
_LEAST_GAP_S = 1e-3
_MOST_GHOSTS = 4096
_NO_LEVEL = -1


class Sharing:
    """See the module. Times are seconds."""

    def __init__(self) -> None:
        self._returns = [Returns() for _ in range(N_LEVELS)]
        self._log_gap = [0.0] * N_LEVELS
        self._n_shared = [0] * N_LEVELS
        # What was given up, or refused, before anybody shared it: its first block and its place in the arrays.
        self._ghosts: OrderedDict[BlockHash, int] = OrderedDict()
        self._free: list[int] = []
        self._ghost_level: NDArray[np.int8] = np.full(_MOST_GHOSTS, _NO_LEVEL, dtype=np.int8)
        self._ghost_session: NDArray[np.int32] = np.zeros(_MOST_GHOSTS, dtype=np.int32)
        self._ghost_used_s: NDArray[np.float64] = np.zeros(_MOST_GHOSTS)

    def shared(self, level: int, gap_s: float) -> None:
        """Something was asked for by a second session, `gap_s` after the first one used it."""
        level = min(level, N_LEVELS - 1)
        gap_s = max(_LEAST_GAP_S, gap_s)
        self._returns[level].returned(gap_s / self._scale_s(level))
        self._n_shared[level] += 1
        share = max(_SMOOTHING, 1 / self._n_shared[level])
        self._log_gap[level] += share * (math.log(gap_s) - self._log_gap[level])

    def gone(self, first_block: BlockHash, level: int, session: int, used_s: float) -> None:
        """What begins with this block was given up, or not taken, before it was shared."""
        if first_block in self._ghosts:
            self._forget(first_block)
        elif len(self._ghosts) == _MOST_GHOSTS:
            self._forget(next(iter(self._ghosts)))
        place = self._free.pop() if self._free else len(self._ghosts)
        self._ghosts[first_block] = place
        self._ghost_level[place] = min(level, N_LEVELS - 1)
        self._ghost_session[place], self._ghost_used_s[place] = session, used_s

    def missed(self, first_block: BlockHash, session: int, now_s: float) -> bool:
        """What begins with this block is asked for and not there; returns whether another session had brought it."""
        place = self._ghosts.get(first_block)
        if place is None or self._ghost_session.item(place) == session:
            return False
        self.shared(self._ghost_level.item(place), now_s - self._ghost_used_s.item(place))
        self._forget(first_block)
        return True

    def refresh(self, levels: NDArray[np.int64], waited_s: NDArray[np.float64], now_s: float) -> None:
        """Learn from what is there and not shared so far, with its levels and the time since its use."""
        for level in range(N_LEVELS):
            ghosts_s = now_s - self._ghost_used_s[self._ghost_level == level]
            waiting_s = np.concatenate((waited_s[levels == level], ghosts_s))
            self._returns[level].refresh(np.maximum(0.0, waiting_s) / self._scale_s(level))

    def values(self, levels: NDArray[np.int64], waited_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance per second that each of these is asked for by another session."""
        values = np.zeros(levels.size)
        for level in range(N_LEVELS):
            places = levels == level
            scale_s = self._scale_s(level)
            values[places] = self._returns[level].index(waited_s[places] / scale_s) / scale_s
        return values

    def value_of_new(self, level: int) -> float:
        """Return the same for one thing that is used now."""
        scale_s = self._scale_s(level)
        return self._returns[level].index_at(0.0) / scale_s

    def _forget(self, first_block: BlockHash) -> None:
        place = self._ghosts.pop(first_block)
        self._ghost_level[place] = _NO_LEVEL
        self._free.append(place)

    def _scale_s(self, level: int) -> float:
        return math.exp(self._log_gap[level])
