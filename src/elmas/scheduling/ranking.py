"""Requests by their estimated cost, the cheapest first, at a few estimates per step.

Estimates are kept, not made anew: the one that is to run next is looked at before it does, and requests that lack the
same block are looked at again when one of them has begun, since the others are then cheaper and follow it. A request
whose next block another one is just bringing is delayed until it is there (the delayed hit of Strata, 2025).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from elmas.cache.rows import BlockHash
from elmas.scheduling.key_queue import Key, KeyQueue
from elmas.scheduling.sorted_numbers import SortedNumbers

_LOOKS_PER_CHOICE = 4
_LOOKS_PER_STEP = 24
"""Estimates made anew when a request is chosen, and all others of a step."""

_ROUND_LOOKS = 2
"""Of these, estimates of requests one after the other: what nobody noticed is found in the end."""


class Estimate(NamedTuple):
    """What a request needs as of now: `cost` in any unit, and the first of its blocks that the device lacks.

    `is_coming` says that a request that has begun brings most of what it lacks: run now, it would do that work again.
    With the numbers of its blocks found the next look begins: on the device, up to the last one in host memory after
    these, and of those on the device in host memory, too.
    """

    cost: float
    next_block: BlockHash | None = None
    is_coming: bool = False
    n_device: int = 0
    n_resident: int = 0
    n_kept: int = 0


Look = Callable[[str, Estimate | None], Estimate]
"""Says what the request of a name needs; knows the estimate before, if there was one."""


@dataclass(slots=True)
class Candidate:
    """A request as the ranking sees it: a lower `priority` goes first, a lower `number` among equals.

    What the ranking keeps of it, also while it is taken out: its place `key` (none while it is delayed or was not
    looked at), the estimate and its moment.
    """

    name: str
    number: int
    priority: int
    key: Key | None = None
    estimate: Estimate | None = None
    looked: int = -1

    @property
    def next_block(self) -> BlockHash | None:
        """The first block that the device lacked when the request was last looked at."""
        return None if self.estimate is None else self.estimate.next_block


class Ranking:
    """The candidates in a window, by cost. `look` says what a candidate needs; `window` has the candidates' numbers and
    `candidates`, by number, these and others. Both are the owner's, who changes them together with the ranking.

    Adding, moving and taking out a candidate are O(log n) at most.
    """

    def __init__(self, look: Look, window: SortedNumbers, candidates: Mapping[int, Candidate]) -> None:
        self._estimate = look
        self._window = window
        self._candidates = candidates
        # Up to here they were looked at one after the other.
        self._last_number = -1
        self._keys = KeyQueue()
        self._delayed: OrderedDict[int, None] = OrderedDict()
        # Those that lack the same block; most lack one alone.
        self._groups: dict[BlockHash, int | OrderedDict[int, None]] = {}
        self._changed: OrderedDict[BlockHash, None] = OrderedDict()
        self._moment = 0
        self._n_looks = _LOOKS_PER_STEP

    def add(self, candidate: Candidate) -> None:
        """Rank a candidate, by what is known of it from earlier, if anything is."""
        if candidate.key is None:
            candidate.looked = self._moment
            candidate.estimate = self._estimate(candidate.name, candidate.estimate)
            candidate.key = self._key(candidate, candidate.estimate)
        self._place(candidate)
        self._join_group(candidate)

    def remove(self, candidate: Candidate) -> None:
        """Take a candidate out."""
        self._displace(candidate)
        self._leave_group(candidate)

    def has_begun(self, candidate: Candidate) -> None:
        """A candidate that was taken out is tried: from now on the caches may hold something else."""
        self._moment += 1
        self._note_change(candidate.next_block)

    def end_step(self) -> None:
        """The step is over: the caches may hold something else, and a few may be looked at again."""
        self._moment += 1
        self._n_looks = _LOOKS_PER_STEP

    def best(self) -> Candidate | None:
        """Return the cheapest; None when all are delayed or there is none."""
        if self._n_looks == _LOOKS_PER_STEP:
            self._look_around()
        if self._changed:
            self._look_at_changed()
        keys, candidates = self._keys, self._candidates
        for _ in range(_LOOKS_PER_CHOICE):
            first = keys.first
            if first is None:
                return None
            candidate = candidates[first[2]]
            if candidate.looked == self._moment or not self._refresh(candidate):
                return candidate
        first = keys.first
        return None if first is None else candidates[first[2]]

    # Estimates

    @staticmethod
    def _key(candidate: Candidate, estimate: Estimate) -> Key | None:
        """Return the place of a candidate, none if it is to be delayed."""
        return None if estimate.is_coming else (candidate.priority, estimate.cost, candidate.number)

    def _refresh(self, candidate: Candidate) -> bool:
        """Estimate a candidate anew, and move it to its place; returns whether that is another one."""
        before = candidate.estimate
        candidate.looked = self._moment
        estimate = self._estimate(candidate.name, before)
        if estimate is before:
            return False
        if before is None or estimate.next_block != before.next_block:
            self._leave_group(candidate)
            self._note_change(candidate.next_block)
            candidate.estimate = estimate
            self._join_group(candidate)
        candidate.estimate = estimate
        key = self._key(candidate, estimate)
        if key == candidate.key:
            return False
        self._displace(candidate)
        candidate.key = key
        self._place(candidate)
        return True

    def _look_around(self) -> None:
        """At the beginning of a step, look at the next few, and at those that are delayed."""
        for _ in range(min(_ROUND_LOOKS, len(self._window))):
            self._last_number = self._window.after(self._last_number)
            self._refresh_for_once(self._last_number)
        for _ in range(min(_LOOKS_PER_STEP // 2, len(self._delayed))):
            number = next(iter(self._delayed))
            self._delayed.move_to_end(number)
            self._refresh_for_once(number)

    def _look_at_changed(self) -> None:
        """Look at those that lack what another one has just got, as far as this step's looks reach."""
        while self._changed and self._n_looks > 0:
            block = next(iter(self._changed))
            group = self._groups.get(block)
            first = next(iter(group)) if isinstance(group, OrderedDict) else group
            if first is not None:
                self._refresh_for_once(first)
            # Where nothing has changed for the first one, the others can wait until they are looked at anyway.
            if first is None or self._candidates[first].next_block == block:
                del self._changed[block]

    def _refresh_for_once(self, number: int) -> None:
        self._n_looks -= 1
        self._refresh(self._candidates[number])

    # Places and groups

    def _place(self, candidate: Candidate) -> None:
        if candidate.key is None:
            self._delayed[candidate.number] = None
        else:
            self._keys.add(candidate.key)

    def _displace(self, candidate: Candidate) -> None:
        if candidate.key is None:
            del self._delayed[candidate.number]
        else:
            self._keys.remove(candidate.key)

    def _join_group(self, candidate: Candidate) -> None:
        block, number = candidate.next_block, candidate.number
        if block is not None:
            group = self._groups.setdefault(block, number)
            if isinstance(group, OrderedDict):
                group[number] = None
            elif group != number:
                self._groups[block] = OrderedDict.fromkeys((group, number))

    def _leave_group(self, candidate: Candidate) -> None:
        block = candidate.next_block
        if block is not None:
            group = self._groups[block]
            if isinstance(group, int):
                del self._groups[block]
                return
            del group[candidate.number]
            if not group:
                del self._groups[block]

    def _note_change(self, block: BlockHash | None) -> None:
        """Something has happened to a block; those that lack it may be cheaper now."""
        if block is not None and block in self._groups:
            self._changed[block] = None
