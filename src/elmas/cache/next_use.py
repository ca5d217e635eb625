"""Keep what will be asked for soonest, by what is known of sessions and learned of shared prefixes.

The rows of a tier are kept in units (see `units`), each of one worth (see `worths`). The unit of least worth goes
first, from its tail. New blocks that are worth less than what would have to go for them are refused.

Worth changes with time, so it is computed anew for all units now and then, and the least are given up in that order: a
pass over n units serves n / 16 arrivals or so, which is some nanoseconds per unit and decision.

Units are cut where prefixes end of which a believed client speaks: what is due and what is not are apart.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from elmas.cache.prefixes import Prefixes
from elmas.cache.rows import BlockHash, Rows, no_rows
from elmas.cache.sessions import NO_SESSION, Sessions
from elmas.cache.units import NO_UNIT, Units, grown
from elmas.cache.worths import Worths

_ARRIVALS_SHARE = 1 / 16
_LEARNING_ARRIVALS = 16
_LEARNING_SHARE = 1 / 64
"""Learning looks at all sessions that are known, which may be many more than there is room for."""
_CANDIDATES_SHARE = 1 / 16
_LEAST_CANDIDATES = 16


class NextUse:
    """See the module. `sessions` is the server's."""

    def __init__(self, capacity_rows: int, sessions: Sessions) -> None:
        self._sessions = sessions
        self._units = Units(capacity_rows, sessions)
        self._worths = Worths(capacity_rows, self._units, sessions)
        self._changed: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._head_of: dict[int, BlockHash] = {}
        self._passed: dict[int, tuple[Prefixes, int]] = {}
        self._candidates: list[int] = []
        self._n_ranked = 0
        self._ranked_at = -1
        self._learns_at = 0

    # What happens

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Held from now on, for this session alone, but for prefixes that others are believed to ask for."""
        if rows.size == 0:
            return
        self._worths.sharing.missed(blocks[0], session, now_s)
        prefixes = self._believed(session)
        start = 0
        for end, number in self._parts(prefixes, blocks, session):
            if prefixes is not None and number < prefixes.n:
                unit = self._begin(self._units.make(), session, now_s)
                own = self._units.own(session)
                self._units.set_parent(unit, self._units.next_parent(session) if own == NO_UNIT else own)
                if own == NO_UNIT:
                    self._units.go_on_from(session, unit)
            else:
                unit = self._units.own(session)
                if unit == NO_UNIT:
                    unit = self._begin(self._units.make_own(session), session, now_s)
                self._head_of.setdefault(unit, blocks[start])
            self._units.add(unit, rows[start:end])
            self._worths.expect(unit, self._said(session), number, session)
            self._changed[unit] = True
            start = end

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Read by a session: what others used before is shared from now on."""
        said, prefixes = self._said(session), self._believed(session)
        if said is not None:
            self._passed[session] = (said, said.n_passed(rows.size))
        if rows.size == 0:
            return
        units = self._units.of(rows)
        ends = set(((units[1:] != units[:-1]).nonzero()[0] + 1).tolist())
        if prefixes is not None:
            ends.update(n for n in prefixes.n_blocks if n < rows.size)
        own = self._units.own(session)
        parent = NO_UNIT
        judged: set[float] = set()
        for first, last in pairwise((0, *sorted(ends), rows.size)):
            unit = units.item(first)
            number = said.n_passed(first) if said is not None else 0
            self._worths.used(unit, session, now_s, judged)
            if unit != own:
                unit = self._use_shared(unit, rows[first:last], now_s)
            elif prefixes is not None and number < prefixes.n:
                unit = self._open_up(own, rows[first:last], self._sessions.last_s(session))
                own = self._units.own(session)
            elif last - first < self._units.n_rows[own]:
                self._set_apart(own, rows[first:last], now_s)
            self._worths.expect(unit, said, number, session)
            self._changed[unit] = True
            if unit != parent:
                self._units.set_parent(unit, parent)
            parent = unit
        if own == NO_UNIT and session != NO_SESSION:
            self._units.go_on_from(session, parent)

    def remove(self, rows: Rows) -> None:
        """Forget the rows."""
        for unit in self._units.remove(rows):
            self._release(unit)

    # What is given up

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Return up to `n_rows` unpinned rows of the least worth, unless they are worth more than the session's own."""
        if wanted:
            self._worths.sharing.missed(wanted[0], session, self._sessions.now_s)
        chosen: list[Rows] = []
        has_ranked, has_looked = self._rank_if_old(), False
        for n_more, most in self._worths_of_new(n_rows, wanted, session):
            while n_more > 0:
                if not self._candidates and not has_looked:
                    if not has_ranked:
                        self._rank()
                    self._candidates = self._least(self._units.with_unpinned(n_pins))
                    has_looked = True
                if not self._candidates:
                    break
                unit = self._candidates[-1]
                if self._units.n_rows.item(unit) == 0 or self._changed.item(unit):
                    self._candidates.pop()
                    continue
                if self._worths.of.item(unit) > most:
                    break
                taken = self._units.take(unit, n_more, n_pins)
                if self._units.n_rows[unit] == 0:
                    self._release(unit)
                if taken.size < n_more:
                    self._candidates.pop()
                chosen.append(taken)
                n_more -= taken.size
            if n_more > 0:
                break
        if self._candidates and wanted and not any(taken.size for taken in chosen):
            self._worths.refused(wanted[0], session)
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen) if chosen else no_rows()

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return the chance per second that each row is asked for, times the work that it saves."""
        self._rank_if_old()
        return np.asarray(self._worths.of[self._units.of(rows)])

    # What clients say of prefixes

    def _said(self, session: int) -> Prefixes | None:
        return self._sessions.prefixes_of.get(session)

    def _believed(self, session: int) -> Prefixes | None:
        said = self._said(session)
        return said if said is not None and self._sessions.believes_prefixes(np.array([said.tenant]))[0] else None

    def _parts(self, prefixes: Prefixes | None, blocks: Sequence[BlockHash], session: int) -> list[tuple[int, int]]:
        """Return the ends of the parts of new blocks, each in another prefix, and the numbers of these."""
        said = self._said(session)
        if said is None:
            return [(len(blocks), 0)]
        known, n_passed = self._passed.get(session, (None, 0))
        parts = said.parts(blocks, n_passed if known is said else said.n)
        return parts if prefixes is not None else [(len(blocks), parts[0][1])]

    def _worths_of_new(self, n_rows: int, wanted: Sequence[BlockHash], session: int) -> Iterator[tuple[int, float]]:
        """Yield how many rows are wanted for what is worth how much: the last `n_rows` of the wanted blocks."""
        prefixes = self._believed(session)
        if prefixes is None:
            yield n_rows, self._worths.of_new(session, None, 0)
            return
        start = len(wanted) - n_rows
        for end, number in self._parts(prefixes, wanted, session):
            if end > start:
                yield end - start, self._worths.of_new(session, prefixes, number)
                start = end

    # Units

    def _begin(self, unit: int, session: int, now_s: float) -> int:
        """A new unit was brought by a session now; returns it."""
        if self._units.size > self._changed.size:
            self._changed = grown(self._changed, self._units.size, False)
        self._worths.begin(unit, session, now_s)
        return unit

    def _split(self, unit: int, rows: Rows, used_s: float) -> int:
        """Some rows of a unit were last used then, apart from the others; returns their own unit."""
        part = self._begin(self._units.split(unit, rows), NO_SESSION, used_s)
        self._worths.split(unit, part, used_s)
        self._changed[unit] = self._changed[part] = True
        return part

    def _use_shared(self, unit: int, rows: Rows, now_s: float) -> int:
        """Rows of a unit that is not the session's own are used; returns the shared unit they are in now."""
        owner = self._units.owner.item(unit)
        used_s = self._sessions.last_s(owner) if owner != NO_SESSION else now_s
        if owner != NO_SESSION:
            self._worths.sharing.shared(self._worths.level(unit), now_s - used_s)
        unit = self._open_up(unit, rows, used_s)
        self._worths.came_back(unit, now_s)
        return unit

    def _open_up(self, unit: int, rows: Rows, used_s: float) -> int:
        """The first rows of a unit, or all, are no session's own from now on; returns the unit they are in then."""
        self._head_of.pop(unit, None)
        if rows.size < self._units.n_rows[unit]:
            part = self._split(unit, rows, used_s)
            self._units.set_parent(part, self._units.parent(unit))
            self._units.set_parent(unit, part)
            return part
        if self._units.owner[unit] != NO_SESSION:
            self._worths.share(unit, used_s)
            self._units.disown(unit)
        return unit

    def _set_apart(self, own: int, used: Rows, now_s: float) -> None:
        """A session was here and did not ask for all it had: the rest is on its own from now on."""
        self._units.set_parent(self._split(own, self._units.rest(own, used), now_s), own)

    def _release(self, unit: int) -> None:
        head = self._head_of.pop(unit, None)
        if head is not None and self._units.owner[unit] != NO_SESSION:
            self._worths.gone(unit, head)
        self._units.release(unit)

    # Ranking

    def _rank_if_old(self) -> bool:
        n_since = self._sessions.n_arrivals - self._ranked_at
        if self._ranked_at >= 0 and n_since <= self._n_ranked * _ARRIVALS_SHARE:
            return False
        self._rank()
        return True

    def _rank(self) -> None:
        """Compute the worth of all units, and which are given up next."""
        units = np.flatnonzero(self._units.n_rows)
        n_arrivals = self._sessions.n_arrivals
        learns = n_arrivals >= self._learns_at
        if learns:
            n_units, n_sessions = units.size * _ARRIVALS_SHARE, self._sessions.n_known * _LEARNING_SHARE
            self._learns_at = n_arrivals + max(_LEARNING_ARRIVALS, int(n_units), int(n_sessions))
        self._worths.rank(units, learns)
        self._n_ranked, self._ranked_at = units.size, n_arrivals
        self._changed[units] = False
        self._candidates = self._least(units)

    def _least(self, units: Rows) -> list[int]:
        """Return those of the units that are given up next, the first one last."""
        n = min(units.size, max(_LEAST_CANDIDATES, int(units.size * _CANDIDATES_SHARE)))
        worth = self._worths.of[units]
        least = np.argpartition(worth, n - 1)[:n] if n < units.size else np.arange(units.size)
        candidates: list[int] = units[least[np.argsort(-worth[least], kind="stable")]].tolist()
        return candidates
