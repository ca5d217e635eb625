"""How likely it is that what one session has brought will be asked for by another, learned per level.

A level counts the shared prefixes below: a system prompt is at level 0, what follows it at level 1, and so on. Whether
something is shared is decided by what it is in the applications that run, and that differs by level: all agents of a
swarm ask the same question, none continues another's answer. What was given up before it was shared is remembered by
its first block, or a tier that refuses it would never learn.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash

N_LEVELS = 4
"""Levels that are told apart; deeper ones count as the last."""

_SMOOTHING = 1 / 64
_LEAST_GAP_S = 1e-3
_MOST_GHOSTS = 4096


@dataclass(frozen=True)
class _Ghost:
    """What was given up, or refused, before anybody shared it."""

    level: int
    session: int
    used_s: float


class Sharing:
    """See the module. Times are seconds."""

    def __init__(self) -> None:
        self._returns = [Returns() for _ in range(N_LEVELS)]
        self._log_gap = [0.0] * N_LEVELS
        self._n_shared = [0] * N_LEVELS
        self._ghosts: dict[BlockHash, _Ghost] = {}

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
        self._ghosts.pop(first_block, None)
        self._ghosts[first_block] = _Ghost(min(level, N_LEVELS - 1), session, used_s)
        if len(self._ghosts) > _MOST_GHOSTS:
            del self._ghosts[next(iter(self._ghosts))]

    def missed(self, first_block: BlockHash, session: int, now_s: float) -> bool:
        """What begins with this block is asked for and not there; returns whether another session had brought it."""
        ghost = self._ghosts.get(first_block)
        if ghost is None or ghost.session == session:
            return False
        del self._ghosts[first_block]
        self.shared(ghost.level, now_s - ghost.used_s)
        return True

    def refresh(self, levels: NDArray[np.int64], waited_s: NDArray[np.float64], now_s: float) -> None:
        """Learn from what is there and not shared so far, with its levels and the time since its use."""
        for level in range(N_LEVELS):
            ghosts = [now_s - ghost.used_s for ghost in self._ghosts.values() if ghost.level == level]
            waiting_s = np.concatenate((waited_s[levels == level], ghosts))
            self._returns[level].refresh(np.maximum(0.0, waiting_s) / self._scale_s(level))

    def values(self, levels: NDArray[np.int64], waited_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance per second that each of these is asked for by another session."""
        values = np.zeros(levels.size)
        for level in range(N_LEVELS):
            places = levels == level
            scale_s = self._scale_s(level)
            values[places] = self._returns[level].index(waited_s[places] / scale_s) / scale_s
        return values

    def _scale_s(self, level: int) -> float:
        return math.exp(self._log_gap[level])
