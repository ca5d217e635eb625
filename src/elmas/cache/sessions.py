"""Which session a request belongs to, and what it is worth to keep its blocks.

A session is a conversation that grows: a request that goes on where an earlier one, or its answer, ended belongs to the
same session, unless the client names its session. What is expected of it comes from its own intervals
(`Intervals`, `Returns`), and from the client's hints as far as these are believed. Bounded: the session that was heard
of longest ago makes room for a new one.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count, repeat

import numpy as np
from numpy.typing import NDArray

from elmas.cache.hints import NO_HINTS, Hints, Trust
from elmas.cache.intervals import Intervals
from elmas.cache.prefixes import Prefixes, prefixes_in_blocks
from elmas.cache.returns import Returns
from elmas.cache.rows import BlockHash

NO_SESSION = -1
"""Stands where a request's session is not known."""

_N_SLOTS = 1 << 17
_BLOCK_TOKENS = 16
_OVERDUE_SHARE = 0.3
_OVERDUE_S = 1.0
"""A hint holds for this share of its span, and this long at least, after its time; then the session's habits count."""
SOONEST_S = 1e-3
"""What is due is worth no more than what is due in this time."""
_RETURNS_BEFORE_END = 0.98
"""A session had ended that stays away for longer than this share of those that came back did."""


class Sessions:
    """The sessions of one server, each in a slot 0 .. n_slots - 1. Times are those of the calls; `now_s` is the
    latest. Blocks are of `block_tokens` tokens."""

    def __init__(
        self, n_slots: int = _N_SLOTS, block_tokens: int = _BLOCK_TOKENS, is_behind_device: bool = False
    ) -> None:
        self.block_tokens = block_tokens
        self.is_behind_device = is_behind_device
        """Whether a cache on the device holds what is new for a while."""
        self.takes_all_new = False
        """Whether nothing new is refused: what goes on to a disk that is worth it passes through host memory."""
        self.now_s = 0.0
        self.n_arrivals = 0
        self.generation: NDArray[np.int64] = np.full(n_slots, NO_SESSION, dtype=np.int64)
        """Changes when a slot is given to another session."""
        self.prefixes_of: dict[int, Prefixes] = {}
        """What the latest request of each session said of its prefixes, where it did."""
        self.tenant_of: NDArray[np.int32] = np.zeros(n_slots, dtype=np.int32)
        self._generations = count()
        self._trust = Trust()
        self._intervals = Intervals(n_slots)
        self._n_active: NDArray[np.int32] = np.zeros(n_slots, dtype=np.int32)
        self._is_first: NDArray[np.bool_] = np.ones(n_slots, dtype=np.bool_)
        self._predicted_s: NDArray[np.float64] = np.full(n_slots, np.nan)
        self._ttl_s: NDArray[np.float64] = np.full(n_slots, np.inf)
        self._priority: NDArray[np.float64] = np.ones(n_slots)
        self._is_done: NDArray[np.bool_] = np.zeros(n_slots, dtype=np.bool_)
        self._is_judged: NDArray[np.bool_] = np.zeros(n_slots, dtype=np.bool_)
        self._slot_of: dict[BlockHash | tuple[int, str], int] = {}
        self._keys_of: list[tuple[BlockHash | tuple[int, str], ...]] = [()] * n_slots
        self._by_age: OrderedDict[int, None] = OrderedDict()
        self._is_known: NDArray[np.bool_] = np.zeros(n_slots, dtype=np.bool_)
        self._free = list(range(n_slots - 1, -1, -1))
        self._first, self._later = Returns(), Returns()

    # What happens

    def arrive(
        self,
        hashes: Sequence[BlockHash],
        now_s: float,
        session_id: str | None = None,
        salt: str | None = None,
        hints: Hints = NO_HINTS,
    ) -> int:
        """A request with these complete blocks has arrived; returns the slot of its session, a new one if need be.

        Session ids of different salts are different sessions. `hints` say what comes after the request's end.
        """
        self.now_s = now_s
        self.n_arrivals += 1
        tenant = self._trust.tenant(salt)
        slot = self._find(hashes, session_id, tenant)
        if slot == NO_SESSION:
            slot = self._begin(session_id, tenant, hashes, now_s)
        else:
            self._judge_return(slot, now_s)
            age = self._intervals.back(slot, now_s)
            (self._first if self._is_first[slot] else self._later).returned(age)
            self._is_first[slot] = False
            self._touch(slot)
        self._n_active[slot] += 1
        self.prefixes_of.pop(slot, None)
        if hints is not NO_HINTS:
            self.hint(slot, hints, now_s)
        if hints.prefixes is not None:
            said = prefixes_in_blocks(hints.prefixes, hashes, self.block_tokens, tenant, now_s)
            self.prefixes_of[slot] = said
        return slot

    def end(self, slot: int, n_prompt_blocks: int, hashes: Sequence[BlockHash], now_s: float) -> None:
        """A request of the session has ended with these complete blocks, of which the first are its prompt's."""
        self.now_s = now_s
        if slot == NO_SESSION:
            return
        self._intervals.last_s[slot] = now_s
        self._n_active[slot] = max(0, self._n_active[slot] - 1)
        self._touch(slot)
        tails = {*hashes[max(0, n_prompt_blocks - 1) : n_prompt_blocks], *hashes[-1:]}
        names = [key for key in self._keys_of[slot] if isinstance(key, tuple)]
        self._set_keys(slot, (*names, *tails))

    def find(self, session_id: str, salt: str | None = None) -> int:
        """Return the slot of a named session, NO_SESSION when it is not known."""
        return self._slot_of.get((self._trust.tenant(salt), session_id), NO_SESSION)

    def hint(self, slot: int, hints: Hints, now_s: float) -> None:
        """The client says what is to come, counted from when it was last heard of, which is now."""
        self.now_s = self._intervals.last_s[slot] = now_s
        self._is_judged[slot] = False
        self._is_done[slot] = hints.is_done
        self._priority[slot] = hints.priority
        self._ttl_s[slot] = np.inf if hints.ttl_s is None else hints.ttl_s
        self._predicted_s[slot] = np.nan
        if hints.next_use_s is not None:
            self._predicted_s[slot] = hints.next_use_s
        elif hints.next_use_steps is not None:
            self._predicted_s[slot] = hints.next_use_steps * self._intervals.scale_of(slot)

    # What is expected

    def last_s(self, slot: int) -> float:
        """Return when a request of the session last arrived or ended."""
        return float(self._intervals.last_s[slot])

    def waited_s(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long each session has been away: not at all while a request of it waits or runs."""
        waited_s = np.maximum(0.0, self.now_s - self._intervals.last_s[slots])
        return np.where(self._n_active[slots] > 0, 0.0, waited_s)

    def _waited_s_of(self, slot: int) -> float:
        return 0.0 if self._n_active.item(slot) > 0 else max(0.0, self.now_s - self._intervals.last_s.item(slot))

    def refresh(self) -> None:
        """Learn what those that wait tell. O(sessions)."""
        slots = np.flatnonzero(self._is_known)
        ages = self._ages(slots)
        is_first = self._is_first[slots]
        self._first.refresh(ages[is_first])
        self._later.refresh(ages[~is_first])
        self._judge_absent(slots, ages)

    def learned_values(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the chance per second that each session comes back, by habit."""
        ages = self._ages(slots)
        index = np.where(self._is_first[slots], self._first.index(ages), self._later.index(ages))
        return index / self._intervals.scale_s(slots)

    def values(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what it is worth now to keep a block of each session: the chance to be asked for it, per second, by
        habit and by hints that are believed."""
        values = self.learned_values(slots)
        tenants = self.tenant_of[slots]
        predicted_s = self._predicted_s[slots]
        waited_s = self.waited_s(slots)
        left_s = predicted_s - waited_s
        holds = is_not_overdue(left_s, predicted_s) & self._trust.believes_returns(tenants)
        values = np.where(holds, 1 / np.maximum(np.abs(left_s), SOONEST_S), values) * self._priorities(slots)
        is_over = (self._is_done[slots] & self._trust.believes_ends(tenants)) | (waited_s > self._ttl_s[slots])
        return np.where(is_over, 0.0, values)

    def values_of(self, slot: int) -> tuple[float, float]:
        """Return what `learned_values` and `values` say of one session: for each new batch of blocks it is asked, and
        arrays of one take ten times as long."""
        scale_s = self._intervals.scale_of(slot)
        waited_s = self._waited_s_of(slot)
        returns = self._first if self._is_first.item(slot) else self._later
        by_habit = by_hint = returns.index_at(waited_s / scale_s) / scale_s
        predicted_s, priority = self._predicted_s.item(slot), self._priority.item(slot)
        tenant = self.tenant_of[slot : slot + 1]
        if not math.isnan(predicted_s):
            left_s = predicted_s - waited_s
            if is_not_overdue(left_s, predicted_s) and self._trust.believes_returns(tenant):
                by_hint = 1 / max(abs(left_s), SOONEST_S)
        if priority != 1.0:
            by_hint *= min(1.0, priority) if self._trust.distrusts(tenant) else priority
        is_over = self._is_done.item(slot) and self._trust.believes_ends(tenant)
        return by_habit, 0.0 if is_over or waited_s > self._ttl_s.item(slot) else by_hint

    @property
    def n_known(self) -> int:
        """Sessions that are known now."""
        return len(self._by_age)

    # How far hints are believed

    def believes_prefixes(self, tenants: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tenant whether what it says of its prefixes is believed."""
        return self._trust.believes_prefixes(tenants)

    def judge_prefix(self, tenant: int, predicted_s: float, actual_s: float) -> None:
        """A prefix of which a tenant said that it would be asked for after `predicted_s` was so after `actual_s`; inf:
        not yet, long after."""
        self._trust.used(tenant, predicted_s, actual_s)

    # Within

    def _priorities(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        priority = self._priority[slots]
        return np.where(self._trust.distrusts(self.tenant_of[slots]), np.minimum(1.0, priority), priority)

    def _ages(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(self.waited_s(slots) / self._intervals.scale_s(slots))

    def _judge_return(self, slot: int, now_s: float) -> None:
        """The session is back: whatever its hints said holds no longer."""
        tenant = int(self.tenant_of[slot])
        if self._is_done[slot]:
            self._trust.ended(tenant, is_true=False)
        elif not (self._is_judged[slot] or np.isnan(self._predicted_s[slot])):
            self._trust.returned(tenant, float(self._predicted_s[slot]), now_s - self.last_s(slot))
        self._is_done[slot] = False
        self._predicted_s[slot] = np.nan
        self._ttl_s[slot] = np.inf

    def _judge_absent(self, slots: NDArray[np.int64], ages: NDArray[np.float64]) -> None:
        """What was predicted and has not come true long after, and what was said to have ended and has."""
        waited_s = self.now_s - self._intervals.last_s[slots]
        predicted_s = self._predicted_s[slots]
        is_new = ~self._is_judged[slots]
        first, later = (returns.latest_age(_RETURNS_BEFORE_END) for returns in (self._first, self._later))
        has_ended = is_new & self._is_done[slots] & (ages > np.where(self._is_first[slots], first, later))
        is_missed = is_new & ~self._is_done[slots] & (waited_s > 2 * predicted_s + _OVERDUE_S)
        for slot in slots[has_ended].tolist():
            self._trust.ended(int(self.tenant_of[slot]), is_true=True)
        for slot in slots[is_missed].tolist():
            self._trust.returned(int(self.tenant_of[slot]), float(self._predicted_s[slot]), np.inf)
        self._is_judged[slots[has_ended | is_missed]] = True

    def _find(self, hashes: Sequence[BlockHash], session_id: str | None, tenant: int) -> int:
        if session_id is not None:
            slot = self._slot_of.get((tenant, session_id), NO_SESSION)
            if slot == NO_SESSION or self._goes_on(slot, hashes):
                return slot
            # The client has begun anew: what it said before will not be asked for by this session.
            self._set_keys(slot, tuple(key for key in self._keys_of[slot] if not isinstance(key, tuple)))
            return NO_SESSION
        found = map(self._slot_of.get, reversed(hashes), repeat(NO_SESSION))
        return next((slot for slot in found if slot != NO_SESSION), NO_SESSION)

    def _goes_on(self, slot: int, hashes: Sequence[BlockHash]) -> bool:
        tails = [key for key in self._keys_of[slot] if not isinstance(key, tuple)]
        return not tails or any(tail in hashes for tail in tails)

    def _begin(self, session_id: str | None, tenant: int, hashes: Sequence[BlockHash], now_s: float) -> int:
        if not self._free:
            self._give_up(next(iter(self._by_age)))
        slot = self._free.pop()
        self.generation[slot] = next(self._generations)
        self.tenant_of[slot] = tenant
        self._intervals.begin(slot, now_s)
        self._is_first[slot] = True
        self._n_active[slot] = 0
        self._is_done[slot], self._priority[slot] = False, 1.0
        self._predicted_s[slot], self._ttl_s[slot] = np.nan, np.inf
        self._is_known[slot] = True
        self._touch(slot)
        self._set_keys(slot, ((tenant, session_id),) if session_id is not None else tuple(hashes[-1:]))
        return slot

    def _give_up(self, slot: int) -> None:
        age = self._waited_s_of(slot) / self._intervals.scale_of(slot)
        (self._first if self._is_first.item(slot) else self._later).gave_up(age)
        self._set_keys(slot, ())
        self.prefixes_of.pop(slot, None)
        del self._by_age[slot]
        self._is_known[slot] = False
        self._free.append(slot)

    def _touch(self, slot: int) -> None:
        self._by_age[slot] = None
        self._by_age.move_to_end(slot)

    def _set_keys(self, slot: int, keys: tuple[BlockHash | tuple[int, str], ...]) -> None:
        for key in self._keys_of[slot]:
            if self._slot_of.get(key) == slot:
                del self._slot_of[key]
        self._keys_of[slot] = keys
        for key in keys:
            self._slot_of[key] = slot


def is_not_overdue(left_s: NDArray[np.float64] | float, predicted_s: NDArray[np.float64] | float) -> NDArray[np.bool_]:
    """Return whether predictions, of which so much time is left, may still come true; not where they are NaN."""
    return np.asarray(left_s > -np.maximum(_OVERDUE_S, _OVERDUE_SHARE * predicted_s))
