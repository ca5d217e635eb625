"""Keep what will be asked for soonest, by what is known of sessions and learned of shared prefixes.

The rows of a tier are kept in *units*: what only one session has used, or a stretch of a prefix that several have.
A session's unit is worth what `Sessions` says, and what `Sharing` says of the chance that others ask for it; a shared
one has intervals of its own. A prefix is worth no less than what goes on from it, which could not be reached without
it. The unit of least worth goes first, from its tail. New blocks that are worth less than what would have to go for
them are refused.

Worth changes with time, so it is computed anew for all units now and then, and the least are given up in that order: a
pass over n units serves n / 16 arrivals or so, which is some nanoseconds per unit and decision.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from elmas.cache.intervals import Intervals
from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash, Rows, no_rows
from elmas.cache.sessions import NO_SESSION, Sessions
from elmas.cache.sharing import N_LEVELS, Sharing

_NO_UNIT = -1
_MOST_LEVELS = 8
"""So many prefixes on top of each other are looked at when worth is handed down to what they build on."""

_ARRIVALS_SHARE = 1 / 16
_LEARNING_ARRIVALS = 16
_CANDIDATES_SHARE = 1 / 16
_LEAST_CANDIDATES = 16

_DEEPER_FIRST = 1 + 1e-9
"""A prefix is worth this much more than what goes on from it, so that it goes later."""


class NextUse:
    """See the module. `sessions` is the server's."""

    def __init__(self, capacity_rows: int, sessions: Sessions) -> None:
        self._sessions = sessions
        self._unit_of: NDArray[np.int32] = np.full(capacity_rows, _NO_UNIT, dtype=np.int32)
        n = capacity_rows + 1
        self._n_rows: NDArray[np.int32] = np.zeros(n, dtype=np.int32)
        self._owner: NDArray[np.int64] = np.full(n, NO_SESSION, dtype=np.int64)
        self._generation: NDArray[np.int64] = np.full(n, NO_SESSION, dtype=np.int64)
        self._parent: NDArray[np.int32] = np.full(n, _NO_UNIT, dtype=np.int32)
        self._changed: NDArray[np.bool_] = np.zeros(n, dtype=np.bool_)
        self._batches: list[list[Rows]] = [[] for _ in range(n)]
        self._free = list(range(n - 1, -1, -1))
        self._unit_of_session: dict[int, int] = {}
        self._shared = Intervals(n)
        self._shared_returns = Returns()
        self._sharing = Sharing()
        self._head_of: dict[int, BlockHash] = {}
        self._parent_for: dict[int, int] = {}
        self._worth: NDArray[np.float64] = np.zeros(n)
        self._candidates: list[int] = []
        self._n_ranked = 0
        self._ranked_at = -1
        self._learns_at = 0

    # What happens

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, for this session alone."""
        if rows.size == 0:
            return
        self._sharing.missed(blocks[0], session, now_s)
        unit = self._unit_for(session, now_s)
        self._head_of.setdefault(unit, blocks[0])
        self._add(unit, rows)
        self._changed[unit] = True

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Read by a session: what others used before is shared from now on."""
        if rows.size == 0:
            return
        units = self._unit_of[rows]
        cuts = [0, *(np.flatnonzero(np.diff(units)) + 1).tolist(), rows.size]
        own = self._own_unit(session)
        parent = _NO_UNIT
        for first, last in pairwise(cuts):
            unit = int(units[first])
            if unit != own:
                unit = self._use_shared(unit, rows[first:last], now_s)
            elif last - first < self._n_rows[own]:
                self._set_apart(own, rows[first:last], now_s)
            self._changed[unit] = True
            if unit != parent:
                self._parent[unit] = parent
            parent = unit
        if own == _NO_UNIT and session != NO_SESSION:
            self._parent_for[session] = parent

    def remove(self, rows: Rows) -> None:
        """Forget the rows."""
        units, n = np.unique(self._unit_of[rows], return_counts=True)
        self._unit_of[rows] = _NO_UNIT
        self._n_rows[units] -= n
        for unit in units[self._n_rows[units] == 0].tolist():
            self._release(unit)

    # What is given up

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows of the least worth, unless they are worth more than the session's own."""
        if wanted:
            self._sharing.missed(wanted[0], session, self._sessions.now_s)
        chosen: list[Rows] = []
        has_ranked = self._rank_if_old()
        least = self._value_of_new(session)
        while n_rows > 0:
            if not self._candidates:
                if has_ranked:
                    break
                self._rank()
                has_ranked = True
                continue
            unit = self._candidates[-1]
            if self._n_rows[unit] == 0 or self._changed[unit]:
                self._candidates.pop()
                continue
            if self._worth[unit] > least:
                if not chosen and wanted:
                    self._sharing.gone(wanted[0], self._level_of_new(session), session, self._sessions.now_s)
                break
            taken = self._take(unit, n_rows, n_pins)
            if taken.size < n_rows:
                self._candidates.pop()
            if taken.size:
                chosen.append(taken)
                n_rows -= taken.size
        return np.concatenate(chosen) if chosen else no_rows()

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return the chance per second that each row is asked for."""
        self._rank_if_old()
        return np.asarray(self._worth[self._unit_of[rows]])

    # Units

    def _own_unit(self, session: int) -> int:
        unit = self._unit_of_session.get(session, _NO_UNIT)
        if unit != _NO_UNIT and self._generation[unit] != self._sessions.generation[session]:
            # The slot belongs to another session now.
            self._owner[unit] = NO_SESSION
            del self._unit_of_session[session]
            self._parent_for.pop(session, None)
            return _NO_UNIT
        return unit

    def _unit_for(self, session: int, now_s: float) -> int:
        unit = self._own_unit(session)
        if unit != _NO_UNIT:
            return unit
        unit = self._new_unit(now_s)
        if session != NO_SESSION:
            self._owner[unit], self._generation[unit] = session, self._sessions.generation[session]
            self._unit_of_session[session] = unit
            parent = self._parent_for.pop(session, _NO_UNIT)
            if parent != _NO_UNIT and self._n_rows[parent]:
                self._parent[unit] = parent
        return unit

    def _new_unit(self, now_s: float) -> int:
        unit = self._free.pop()
        self._owner[unit] = NO_SESSION
        self._parent[unit] = _NO_UNIT
        self._shared.begin(unit, now_s)
        return unit

    def _use_shared(self, unit: int, rows: Rows, now_s: float) -> int:
        """Rows of a unit that is not the session's own are used; returns the shared unit they are in now."""
        owner = int(self._owner[unit])
        if owner != NO_SESSION:
            self._sharing.shared(self._level(unit), now_s - self._sessions.last_s(owner))
        if rows.size < self._n_rows[unit]:
            self._head_of.pop(unit, None)
            part = self._new_unit(now_s)
            if owner == NO_SESSION:
                self._shared.copy(unit, part)
            else:
                self._shared.last_s[part] = self._sessions.last_s(owner)
            self._n_rows[unit] -= rows.size
            self._add(part, rows)
            self._parent[part], self._parent[unit] = self._parent[unit], part
            self._changed[unit] = True
            unit = part
        elif owner != NO_SESSION:
            self._shared.begin(unit, self._sessions.last_s(owner))
            self._owner[unit] = NO_SESSION
            self._head_of.pop(unit, None)
            self._unit_of_session.pop(owner, None)
        self._shared_returns.returned(self._shared.back(unit, now_s))
        return unit

    def _set_apart(self, own: int, used: Rows, now_s: float) -> None:
        """A session was here and did not ask for all it had: the rest is on its own from now on."""
        rest = np.setdiff1d(self._live_rows(own), used, assume_unique=True)
        unit = self._new_unit(now_s)
        self._n_rows[own] -= rest.size
        self._add(unit, rest)
        self._parent[unit] = own
        self._changed[unit] = True

    def _add(self, unit: int, rows: Rows) -> None:
        self._unit_of[rows] = unit
        self._n_rows[unit] += rows.size
        self._batches[unit].append(rows)

    def _live_rows(self, unit: int) -> Rows:
        batches = self._batches[unit]
        rows: Rows = batches[0] if len(batches) == 1 else np.concatenate(batches)
        rows = rows[self._unit_of[rows] == unit]
        if rows.size > self._n_rows[unit]:
            # Some have left and come back: their last place counts.
            _, from_end = np.unique(rows[::-1], return_index=True)
            rows = rows[np.sort(rows.size - 1 - from_end)]
        self._batches[unit] = [rows]
        return rows

    def _take(self, unit: int, n_most: int, n_pins: NDArray[np.int32]) -> Rows:
        rows = self._live_rows(unit)
        places = np.flatnonzero(n_pins[rows] == 0)[-n_most:]
        taken = rows[places][::-1]
        self._unit_of[taken] = _NO_UNIT
        self._n_rows[unit] -= taken.size
        if self._n_rows[unit] == 0:
            self._release(unit)
        return taken

    def _release(self, unit: int) -> None:
        owner = int(self._owner[unit])
        head = self._head_of.pop(unit, None)
        if owner != NO_SESSION and head is not None:
            self._sharing.gone(head, self._level(unit), owner, self._sessions.last_s(owner))
        if owner != NO_SESSION and self._unit_of_session.get(owner) == unit:
            del self._unit_of_session[owner]
            self._parent_for[owner] = int(self._parent[unit])
        self._owner[unit] = NO_SESSION
        self._batches[unit] = []
        self._free.append(unit)

    # Worth

    def _value_of_new(self, session: int) -> float:
        if session == NO_SESSION:
            return float("inf")
        own = float(self._sessions.values(np.array([session]))[0])
        return own + float(self._sharing.values(np.array([self._level_of_new(session)]), np.zeros(1))[0])

    def _level_of_new(self, session: int) -> int:
        unit = self._unit_of_session.get(session, _NO_UNIT)
        if unit != _NO_UNIT:
            return self._level(unit)
        parent = self._parent_for.get(session, _NO_UNIT)
        return 0 if parent == _NO_UNIT else 1 + self._level(parent)

    def _level(self, unit: int) -> int:
        level = 0
        while level < N_LEVELS - 1 and (unit := int(self._parent[unit])) != _NO_UNIT and self._n_rows[unit]:
            level += 1
        return level

    def _rank_if_old(self) -> bool:
        n_since = self._sessions.n_arrivals - self._ranked_at
        if self._ranked_at >= 0 and n_since <= self._n_ranked * _ARRIVALS_SHARE:
            return False
        self._rank()
        return True

    def _rank(self) -> None:
        """Compute the worth of all units, and which are given up next."""
        units = np.flatnonzero(self._n_rows)
        owners = self._owner[units]
        is_owned = owners != NO_SESSION
        n_arrivals = self._sessions.n_arrivals
        learns = n_arrivals >= self._learns_at
        if learns:
            self._learns_at = n_arrivals + max(_LEARNING_ARRIVALS, int(units.size * _ARRIVALS_SHARE))
            self._sessions.refresh()
        shared = units[~is_owned]
        scale_s = self._shared.scale_s(shared)
        ages = np.maximum(0.0, self._sessions.now_s - self._shared.last_s[shared]) / scale_s
        if learns:
            self._shared_returns.refresh(ages)
        self._worth[shared] = self._shared_returns.index(ages) / scale_s
        owned = units[is_owned]
        is_current = self._sessions.generation[owners[is_owned]] == self._generation[owned]
        self._worth[owned] = np.where(is_current, self._sessions.values(owners[is_owned]), 0.0)
        levels, waited_s = self._levels(owned), self._sessions.waited_s(owners[is_owned])
        if learns:
            self._sharing.refresh(levels, waited_s, self._sessions.now_s)
        self._worth[owned] += self._sharing.values(levels, waited_s)
        self._hand_down(units)
        self._n_ranked, self._ranked_at = units.size, self._sessions.n_arrivals
        self._changed[units] = False
        n = min(units.size, max(_LEAST_CANDIDATES, int(units.size * _CANDIDATES_SHARE)))
        worth = self._worth[units]
        least = np.argpartition(worth, n - 1)[:n] if n < units.size else np.arange(units.size)
        self._candidates = units[least[np.argsort(-worth[least], kind="stable")]].tolist()

    def _levels(self, units: Rows) -> NDArray[np.int64]:
        levels, below = np.zeros(units.size, dtype=np.int64), self._parent[units]
        for _ in range(N_LEVELS - 1):
            is_there = (below != _NO_UNIT) & (self._n_rows[below] > 0)
            levels += is_there
            below = np.where(is_there, self._parent[below], _NO_UNIT)
        return levels

    def _hand_down(self, units: Rows) -> None:
        """A prefix is worth at least as much as what goes on from it."""
        children = units[self._parent[units] != _NO_UNIT]
        parents = self._parent[children]
        is_live = self._n_rows[parents] > 0
        children, parents = children[is_live], parents[is_live]
        for _ in range(_MOST_LEVELS):
            before = self._worth[parents]
            np.maximum.at(self._worth, parents, self._worth[children] * _DEEPER_FIRST)
            if np.array_equal(before, self._worth[parents]):
                return
