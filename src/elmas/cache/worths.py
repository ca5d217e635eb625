"""What it is worth to keep each unit of a tier: the chance per second to be asked for it, times what that saves.

A session's unit is worth what `Sessions` says, and what `Sharing` says of the chance that others ask for it; a shared
one has intervals of its own. What a believed client says of the next use of its prefixes counts instead. A prefix is
worth no less than what goes on from it, which could not be reached without it.

A block saves the more the deeper it is: to compute a token takes attention to all before it. For Llama 3 8B that is
0.52 MFLOP per token of context (4 x 32 layers x 4096), beside 16 GFLOP for the token itself. Worth per byte, as in
GDSF (Cherkasova 1998); all blocks are of one size.

Hints cannot starve others: where more than one tenant has something in the tier, each may hold its equal share of the
rows because of hints, what is due first. Beyond that, hints decide what it keeps but not how much: all else that is its
own counts as what stands at the same place in the order by habit.
"""

import math

import numpy as np
from numpy.typing import NDArray

from elmas.cache.intervals import Intervals
from elmas.cache.prefixes import Prefixes
from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.sessions import NO_SESSION, SOONEST_S, Sessions, is_not_overdue
from elmas.cache.sharing import N_LEVELS, Sharing
from elmas.cache.units import NO_UNIT, Units, grown

_MOST_LEVELS = 8
"""So many prefixes on top of each other are looked at when worth is handed down to what they build on."""
_DEEPER_FIRST = 1 + 1e-9
"""A prefix is worth this much more than what goes on from it, so that it goes later."""
_NEW_SHARE = 0.5
"""What is new is on the device too, and is missed only once it is gone from there: it counts less than what is not. It
also keeps those that are worth the same, as all agents of a round are, from taking turns."""
_COST_PER_TOKEN = 3e-5
"""What computing a token costs more for each token before it."""


class Worths:
    """See the module."""

    def __init__(self, capacity_rows: int, units: Units, sessions: Sessions) -> None:
        self.of: NDArray[np.float64] = np.zeros(0)
        """The worth of each unit when it was last ranked."""
        self.sharing = Sharing()
        self._capacity_rows = capacity_rows
        self._units = units
        self._sessions = sessions
        self._shared = Intervals(0)
        self._shared_returns = Returns()
        self._tenant: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._teller: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._said_s: NDArray[np.float64] = np.zeros(0)
        self._span_s: NDArray[np.float64] = np.zeros(0)
        # Tenants that have raised worth by hints and hold more than their share.
        self._beyond_share: set[int] = set()

    # What happens

    def begin(self, unit: int, session: int, used_s: float) -> None:
        """A new unit was brought by a session, and used then."""
        n = self._units.size
        if n > self.of.size:
            self.of, self._said_s = grown(self.of, n, 0.0), grown(self._said_s, n, 0.0)
            self._span_s = grown(self._span_s, n, np.nan)
            self._tenant, self._teller = grown(self._tenant, n, 0), grown(self._teller, n, NO_SESSION)
            self._shared.grow(n)
        self._shared.begin(unit, used_s)
        self._tenant[unit] = self._sessions.tenant_of[session] if session != NO_SESSION else 0
        self._span_s[unit] = np.nan

    def split(self, unit: int, part: int, used_s: float) -> None:
        """A part of a unit is one of its own from now on, with its history."""
        self.begin(part, NO_SESSION, used_s)
        if self._units.owner[unit] == NO_SESSION:
            self._shared.copy(unit, part)
        for values in (self._tenant, self._teller, self._said_s, self._span_s):
            values[part] = values[unit]

    def share(self, unit: int, used_s: float) -> None:
        """A unit whose only user used it then has none of its own from now on."""
        self._shared.begin(unit, used_s)

    def used(self, unit: int, session: int, now_s: float, judged: set[float]) -> None:
        """A session uses a unit: see what was said of that. `judged` are the times whose hints were judged by this
        use already."""
        said_s, span_s = self._said_s.item(unit), self._span_s.item(unit)
        if math.isnan(span_s) or (math.isinf(span_s) and session == self._teller.item(unit)):
            return
        if said_s not in judged:
            judged.add(said_s)
            self._sessions.judge_prefix(int(self._tenant[unit]), span_s, now_s - said_s)
        self._span_s[unit] = np.nan

    def came_back(self, unit: int, now_s: float) -> None:
        """A shared unit is used."""
        self._shared_returns.returned(self._shared.back(unit, now_s))

    def expect(self, unit: int, prefixes: Prefixes | None, number: int, session: int) -> None:
        """A session says of a unit what holds for this of its prefixes: others will ask for what is in one when it is
        due, and for what is beyond them all never."""
        if prefixes is None:
            return
        self._tenant[unit], self._teller[unit], self._said_s[unit] = prefixes.tenant, session, prefixes.said_s
        self._span_s[unit] = prefixes.span_s(number)

    def gone(self, unit: int, head: BlockHash) -> None:
        """A session's unit, which begins with this block, is given up before anybody shared it."""
        owner = int(self._units.owner[unit])
        self.sharing.gone(head, self.level(unit), owner, self._sessions.last_s(owner))

    def refused(self, head: BlockHash, session: int) -> None:
        """What a session brings, beginning with this block, is not taken."""
        self.sharing.gone(head, self._level_of_new(session), session, self._sessions.now_s)

    # Worth

    def rank(self, units: Rows, learns: bool) -> None:
        """Compute the worth of all units, which these are; `learns` from what waits first."""
        owners = self._units.owner[units]
        is_owned = owners != NO_SESSION
        if learns:
            self._sessions.refresh()
            self._judge_absent(units)
        shared, owned, owners = units[~is_owned], units[is_owned], owners[is_owned].astype(np.int64)
        by_habit, by_hint = np.zeros(units.size), np.zeros(units.size)
        scale_s = self._shared.scale_s(shared)
        ages = np.maximum(0.0, self._sessions.now_s - self._shared.last_s[shared]) / scale_s
        levels, waited_s = self._levels(owned), self._sessions.waited_s(owners)
        if learns:
            self._shared_returns.refresh(ages)
            self.sharing.refresh(levels, waited_s, self._sessions.now_s)
        by_habit[~is_owned] = self._shared_returns.index(ages) / scale_s
        is_current = self._units.is_current(owned)
        by_others = self.sharing.values(levels, waited_s)
        by_habit[is_owned] = np.where(is_current, self._sessions.learned_values(owners), 0.0) + by_others
        due, is_believed = self._due(units)
        by_hint[~is_owned] = np.where(is_believed[~is_owned], due[~is_owned], by_habit[~is_owned])
        by_owner = np.where(is_current, self._sessions.values(owners), 0.0)
        by_hint[is_owned] = np.where(is_believed[is_owned], np.maximum(due[is_owned], by_owner), by_owner + by_others)
        self.of[units] = self._within_quotas(units, by_habit, by_hint) * self._savings(self._depths(units))
        self._hand_down(units)

    def of_new(self, session: int, prefixes: Prefixes | None, number: int) -> float:
        """Return the worth of a new block of a session, in this of the prefixes that it is believed to know of."""
        if session == NO_SESSION or self._sessions.takes_all_new:
            return float("inf")
        by_habit, by_hint = self._sessions.values_of(session)
        by_others = self.sharing.value_of_new(self._level_of_new(session))
        by_habit += by_others
        if prefixes is None:
            by_hint += by_others
        else:
            by_hint = max(by_hint, 1 / max(SOONEST_S, prefixes.span_s(number)))
        if self._sessions.tenant_of.item(session) in self._beyond_share:
            by_hint = min(by_hint, by_habit)
        if self._sessions.is_behind_device:
            by_hint *= _NEW_SHARE
        return by_hint * self._saving(self._depth_of_new(session))

    def level(self, unit: int) -> int:
        """Return how many prefixes a unit builds on."""
        level, below = 0, self._units.parent(unit)
        while below != NO_UNIT and level < N_LEVELS - 1:
            level, below = level + 1, self._units.parent(below)
        return level

    def _level_of_new(self, session: int) -> int:
        """Return how many prefixes new blocks of a session build on."""
        unit = self._units.own(session)
        if unit != NO_UNIT:
            return self.level(unit)
        parent = self._units.next_parent(session)
        return 0 if parent == NO_UNIT else min(N_LEVELS - 1, 1 + self.level(parent))

    def _depth_of_new(self, session: int) -> int:
        """Where the unit of new blocks begins: one measure for what comes and goes, or like sessions take turns."""
        unit = self._units.own(session)
        below = self._units.next_parent(session) if unit == NO_UNIT else self._units.parent(unit)
        n_levels = _MOST_LEVELS + (unit == NO_UNIT)
        depth = 0
        while below != NO_UNIT and n_levels > 0:
            depth += self._units.n_rows.item(below)
            below, n_levels = self._units.parent(below), n_levels - 1
        return depth

    def _due(self, units: Rows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the worth of units by what was said of them, and whether that is believed."""
        span_s = self._span_s[units]
        left_s = span_s - (self._sessions.now_s - self._said_s[units])
        is_believed = is_not_overdue(left_s, span_s) & self._sessions.believes_prefixes(self._tenant[units])
        return 1 / np.maximum(np.abs(left_s), SOONEST_S), is_believed

    def _judge_absent(self, units: Rows) -> None:
        """What was said to be due and was not asked for long after."""
        waited_s = self._sessions.now_s - self._said_s[units]
        missed = units[waited_s > 2 * self._span_s[units] + 1.0]
        told = {(int(self._tenant[unit]), float(self._said_s[unit])): float(self._span_s[unit]) for unit in missed}
        for (tenant, _), span_s in told.items():
            self._sessions.judge_prefix(tenant, span_s, np.inf)
        self._span_s[missed] = np.nan

    def _within_quotas(
        self, units: Rows, by_habit: NDArray[np.float64], by_hint: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the worth by hints; beyond the share of a tenant that has raised some, no more than the worth that
        stands at the same place among its own by habit: it keeps as many rows there as without hints."""
        self._beyond_share.clear()
        tenants, number = np.unique(self._tenant[units], return_inverse=True)
        if tenants.size < 2:
            return by_hint
        worth = by_hint.copy()
        share_rows = self._capacity_rows / tenants.size
        is_raised = by_hint > by_habit
        for i, tenant in enumerate(tenants.tolist()):
            own = np.flatnonzero(number == i)
            if not is_raised[own].any():
                continue
            by_due, by_gap = (own[np.argsort(-values[own], kind="stable")] for values in (by_hint, by_habit))
            n_due = self._units.n_rows[units[by_due]]
            end_rows = np.cumsum(n_due)
            is_beyond = end_rows > share_rows
            beyond = by_due[is_beyond]
            if beyond.size:
                ends_by_gap = np.cumsum(self._units.n_rows[units[by_gap]])
                same_place = np.searchsorted(ends_by_gap, (end_rows - n_due)[is_beyond], side="right")
                worth[beyond] = np.minimum(by_hint[beyond], by_habit[by_gap[same_place]])
                self._beyond_share.add(tenant)
        return worth

    def _savings(self, depths_rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what having a block at these depths saves, in the work for one without context."""
        return np.asarray(1.0 + _COST_PER_TOKEN * self._sessions.block_tokens * depths_rows, dtype=np.float64)

    def _saving(self, depth_rows: int) -> float:
        return 1.0 + _COST_PER_TOKEN * self._sessions.block_tokens * depth_rows

    def _depths(self, units: Rows) -> NDArray[np.int64]:
        """Return how many rows each unit builds on, as far as they are held."""
        depths, below = np.zeros(units.size, dtype=np.int64), self._units.parents(units)
        for _ in range(_MOST_LEVELS):
            if (below == NO_UNIT).all():
                break
            depths += np.where(below != NO_UNIT, self._units.n_rows[below], 0)
            below = self._units.parents(below)
        return depths

    def _levels(self, units: Rows) -> NDArray[np.int64]:
        levels, below = np.zeros(units.size, dtype=np.int64), self._units.parents(units)
        for _ in range(N_LEVELS - 1):
            levels += below != NO_UNIT
            below = self._units.parents(below)
        return levels

    def _hand_down(self, units: Rows) -> None:
        """A prefix is worth at least as much as what goes on from it."""
        parents = self._units.parents(units)
        has_parent = parents != NO_UNIT
        children, parents = units[has_parent], parents[has_parent]
        for _ in range(_MOST_LEVELS):
            before = self.of[parents]
            np.maximum.at(self.of, parents, self.of[children] * _DEEPER_FIRST)
            if np.array_equal(before, self.of[parents]):
                return
