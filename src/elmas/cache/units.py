"""The rows of a tier in *units*: what only one session has used, or a stretch of a prefix that several have.

Kept are the rows of each unit in prefix order, whose unit it is, and which unit it goes on from. Nothing here knows
what a unit is worth. Memory grows with the units there are: 4 bytes per row of the tier, 4 per row held, and some 200
per unit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmas.cache.rows import Rows
from elmas.cache.sessions import NO_SESSION, Sessions

NO_UNIT = -1
"""Stands where there is no unit."""

_FIRST_UNITS = 64
_NO_ROWS: NDArray[np.int32] = np.empty(0, dtype=np.int32)


def grown(values: NDArray[Any], n: int, fill: float) -> NDArray[Any]:
    """Return an array of n values that begins with the given ones."""
    return np.concatenate((values, np.full(n - values.size, fill, dtype=values.dtype)))


class Units:
    """The units of a tier of `capacity_rows` rows. A unit has a row at least, except between `make` and `add`, and
    between losing its last row and `release`. Numbers of units are used again; links to one that is gone lead nowhere.
    """

    def __init__(self, capacity_rows: int, sessions: Sessions) -> None:
        self._sessions = sessions
        self._unit_of: NDArray[np.int32] = np.full(capacity_rows, NO_UNIT, dtype=np.int32)
        self._free: list[int] = []
        self._rows: list[NDArray[np.int32]] = []
        self.n_rows: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """Rows of each unit; 0 where there is none."""
        self.owner: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """The only session that has used each unit, NO_SESSION for what is shared."""
        self._generation: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._serial: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._parent: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._parent_serial: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._own: dict[int, int] = {}
        self._next_parent: dict[int, tuple[int, int]] = {}

    @property
    def size(self) -> int:
        """Units have numbers below this."""
        return len(self._rows)

    # Units

    def make(self) -> int:
        """Return a new unit without rows, owner or parent."""
        if not self._free:
            self._grow()
        return self._free.pop()

    def make_own(self, session: int) -> int:
        """Return a new unit of a session, which goes on from what the session used last."""
        unit = self.make()
        if session != NO_SESSION:
            self.owner[unit], self._generation[unit] = session, self._sessions.generation[session]
            self._own[session] = unit
            self._parent[unit], self._parent_serial[unit] = self._next_parent.pop(session, (NO_UNIT, 0))
        return unit

    def release(self, unit: int) -> None:
        """The unit has lost its last row. Its owner's next one goes on from where this one did."""
        owner = int(self.owner[unit])
        if owner != NO_SESSION and self._own.get(owner) == unit:
            del self._own[owner]
            self.go_on_from(owner, self.parent(unit))
        self._serial[unit] += 1
        self.owner[unit], self._parent[unit], self._rows[unit] = NO_SESSION, NO_UNIT, _NO_ROWS
        self._free.append(unit)

    def own(self, session: int) -> int:
        """Return the unit of a session, NO_UNIT when it has none."""
        unit = self._own.get(session, NO_UNIT)
        if unit != NO_UNIT and self._generation[unit] != self._sessions.generation[session]:
            # The slot belongs to another session now.
            self.disown(unit)
            self._next_parent.pop(session, None)
            return NO_UNIT
        return unit

    def disown(self, unit: int) -> None:
        """The unit is no session's any more."""
        owner = int(self.owner[unit])
        if self._own.get(owner) == unit:
            del self._own[owner]
        self.owner[unit] = NO_SESSION

    def is_current(self, units: Rows) -> NDArray[np.bool_]:
        """Return for owned units whether the owner still has its slot."""
        return np.asarray(self._sessions.generation[self.owner[units]] == self._generation[units])

    # Rows

    def of(self, rows: Rows) -> NDArray[np.int32]:
        """Return the unit of each row, NO_UNIT for rows that are not held."""
        return self._unit_of[rows]

    def add(self, unit: int, rows: Rows) -> None:
        """Append rows, which are in no unit or leave theirs (see `split`)."""
        held = self._rows[unit]
        if held.size > 2 * self.n_rows[unit] + _FIRST_UNITS:
            held = self._live(unit)
        self._rows[unit] = np.concatenate((held, rows), dtype=np.int32) if held.size else rows.astype(np.int32)
        self._unit_of[rows] = unit
        self.n_rows[unit] += rows.size

    def split(self, unit: int, rows: Rows) -> int:
        """Put some of a unit's rows, but not all, into a new unit without owner or parent; returns it."""
        part = self.make()
        self.n_rows[unit] -= rows.size
        self.add(part, rows)
        return part

    def rest(self, unit: int, rows: Rows) -> Rows:
        """Return the rows of a unit that are not among these, in their order."""
        held = self._live(unit)
        return held[np.isin(held, rows, assume_unique=True, invert=True)].astype(np.int64)

    def remove(self, rows: Rows) -> list[int]:
        """Take held rows out of their units; returns the units without rows now."""
        units, n = np.unique(self._unit_of[rows], return_counts=True)
        self._unit_of[rows] = NO_UNIT
        self.n_rows[units] -= n
        emptied: list[int] = units[self.n_rows[units] == 0].tolist()
        return emptied

    def take(self, unit: int, n_most: int, n_pins: NDArray[np.int32]) -> Rows:
        """Take up to so many unpinned rows out of a unit, the last ones first."""
        held = self._live(unit)
        last = held[-n_most:]
        if np.count_nonzero(n_pins[last]):
            last = held[(n_pins[held] == 0).nonzero()[0][-n_most:]]
        else:
            self._rows[unit] = held[:-n_most]
        taken = last[::-1].astype(np.int64)
        self._unit_of[taken] = NO_UNIT
        self.n_rows[unit] -= taken.size
        return taken

    def with_unpinned(self, n_pins: NDArray[np.int32]) -> Rows:
        """Return the units that have a row that is not pinned."""
        units = self._unit_of[np.flatnonzero(n_pins == 0)]
        has_any: NDArray[np.bool_] = np.zeros(self.size + 1, dtype=np.bool_)
        has_any[units] = True  # the last one stands for rows in no unit
        return np.flatnonzero(has_any[:-1])

    def _live(self, unit: int) -> NDArray[np.int32]:
        rows = self._rows[unit]
        if rows.size > self.n_rows[unit]:
            rows = rows[self._unit_of[rows] == unit]
        if rows.size > self.n_rows[unit]:
            # Some have left and come back: their last place counts.
            _, from_end = np.unique(rows[::-1], return_index=True)
            rows = rows[np.sort(rows.size - 1 - from_end)]
        self._rows[unit] = rows
        return rows

    # What goes on from what

    def parent(self, unit: int) -> int:
        """Return the unit that a unit goes on from, NO_UNIT where that is not held or not known."""
        parent: int = self._parent.item(unit)
        is_there = parent != NO_UNIT and self._serial.item(parent) == self._parent_serial.item(unit)
        return parent if is_there else NO_UNIT

    def parents(self, units: NDArray[np.int32] | Rows) -> NDArray[np.int32]:
        """Return the parent of each unit; NO_UNIT has none."""
        parents = self._parent[units]
        is_there = (units != NO_UNIT) & (parents != NO_UNIT) & (self._serial[parents] == self._parent_serial[units])
        return np.where(is_there, parents, NO_UNIT).astype(np.int32)

    def set_parent(self, unit: int, parent: int) -> None:
        """A unit goes on from another one, or from nothing (NO_UNIT)."""
        self._parent[unit] = parent
        self._parent_serial[unit] = self._serial[parent] if parent != NO_UNIT else 0

    def go_on_from(self, session: int, parent: int) -> None:
        """The next unit of a session will go on from this one."""
        self._next_parent[session] = (parent, int(self._serial[parent]) if parent != NO_UNIT else 0)

    def next_parent(self, session: int) -> int:
        """Return what the session's next unit would go on from."""
        parent, serial = self._next_parent.get(session, (NO_UNIT, 0))
        return parent if parent != NO_UNIT and self._serial[parent] == serial else NO_UNIT

    def _grow(self) -> None:
        n_before = self.size
        n = max(_FIRST_UNITS, 2 * n_before)
        self._rows += [_NO_ROWS] * (n - n_before)
        self.n_rows = grown(self.n_rows, n, 0)
        self.owner = grown(self.owner, n, NO_SESSION)
        self._generation = grown(self._generation, n, NO_SESSION)
        self._serial = grown(self._serial, n, 0)
        self._parent = grown(self._parent, n, NO_UNIT)
        self._parent_serial = grown(self._parent_serial, n, 0)
        self._free += range(n - 1, n_before - 1, -1)
