"""Requests by their estimated cost, the cheapest first, at a few estimates per step.

Estimates are kept, not made anew: the one that is to run next is looked at before it does, and requests that lack the
same block are looked at again when one of them has begun, since the others are then cheaper and follow it. A request
whose next block another one is just bringing is delayed until it is there (the delayed hit of Strata, 2025).
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from elmas.cache.rows import BlockHash

_LOOKS_PER_CHOICE = 4
_LOOKS_PER_STEP = 24
"""Estimates made anew when a request is chosen, and all others of a step."""

_ROUND_LOOKS = 2
"""Of these, estimates of requests one after the other: what nobody noticed is found in the end."""


class Estimate(NamedTuple):
    """What a request needs as of now: `cost` in any unit, and the first of its blocks that the device lacks.

    `is_coming` says that a request that has begun brings most of what it lacks: run now, it would do that work again.
    """

    cost: float
    next_block: BlockHash | None = None
    is_coming: bool = False


_Key = tuple[int, float, int]


@dataclass(slots=True)
class Candidate:
    """A request as the ranking sees it: a lower `priority` goes first, a lower `number` among equals.

    What the ranking keeps of it, also while it is taken out: its place `key` (none while it is delayed or was not
    looked at), the first block that it lacks, and the moment of the estimate.
    """

    name: str
    number: int
    priority: int
    key: _Key | None = None
    next_block: BlockHash | None = None
    looked: int = -1


class Ranking:
    """Candidates by cost. `estimate` says what the candidate of a name needs.

    Adding, moving and removing one takes O(log n) and a move of a list's tail in memory.
    """

    def __init__(self, estimate: Callable[[str], Estimate]) -> None:
        self._estimate = estimate
        # In the order in which they are looked at one after the other.
        self._candidates: OrderedDict[int, Candidate] = OrderedDict()
        self._keys: list[_Key] = []
        self._delayed: OrderedDict[int, None] = OrderedDict()
        self._groups: dict[BlockHash, OrderedDict[int, None]] = {}
        self._changed: OrderedDict[BlockHash, None] = OrderedDict()
        self._moment = 0
        self._n_looks = _LOOKS_PER_STEP

    def add(self, candidate: Candidate) -> None:
        """Rank a candidate, by what is known of it from earlier, if anything is."""
        self._candidates[candidate.number] = candidate
        if candidate.key is None:
            candidate.key, candidate.next_block = self._look(candidate)
        self._place(candidate)
        self._join_group(candidate)

    def remove(self, candidate: Candidate) -> None:
        """Take a candidate out."""
        del self._candidates[candidate.number]
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
        for _ in range(_LOOKS_PER_CHOICE):
            if not self._keys:
                return None
            candidate = self._candidates[self._keys[0][2]]
            if candidate.looked == self._moment:
                return candidate
            self._refresh(candidate)
        return self._candidates[self._keys[0][2]] if self._keys else None

    # Estimates

    def _look(self, candidate: Candidate) -> tuple[_Key | None, BlockHash | None]:
        """Return the place of a candidate as of now, and the block it lacks."""
        candidate.looked = self._moment
        cost, next_block, is_coming = self._estimate(candidate.name)
        return None if is_coming else (candidate.priority, cost, candidate.number), next_block

    def _refresh(self, candidate: Candidate) -> None:
        """Estimate a candidate anew, and move it to its place."""
        key, next_block = self._look(candidate)
        if next_block != candidate.next_block:
            self._leave_group(candidate)
            self._note_change(candidate.next_block)
            candidate.next_block = next_block
            self._join_group(candidate)
        if key != candidate.key:
            self._displace(candidate)
            candidate.key = key
            self._place(candidate)

    def _look_around(self) -> None:
        """At the beginning of a step, look at the next few, and at those that are delayed."""
        for queue, n_looks in ((self._candidates, _ROUND_LOOKS), (self._delayed, _LOOKS_PER_STEP // 2)):
            for _ in range(min(n_looks, len(queue))):
                number = next(iter(queue))
                queue.move_to_end(number)
                self._refresh_for_once(number)

    def _look_at_changed(self) -> None:
        """Look at those that lack what another one has just got, as far as this step's looks reach."""
        while self._changed and self._n_looks > 0:
            block = next(iter(self._changed))
            group = self._groups.get(block)
            first = next(iter(group)) if group else None
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
            insort(self._keys, candidate.key)

    def _displace(self, candidate: Candidate) -> None:
        if candidate.key is None:
            del self._delayed[candidate.number]
        else:
            del self._keys[bisect_left(self._keys, candidate.key)]

    def _join_group(self, candidate: Candidate) -> None:
        """A group are those that lack the same block."""
        if candidate.next_block is not None:
            group = self._groups.get(candidate.next_block)
            if group is None:
                group = self._groups[candidate.next_block] = OrderedDict()
            group[candidate.number] = None

    def _leave_group(self, candidate: Candidate) -> None:
        if candidate.next_block is not None:
            group = self._groups[candidate.next_block]
            del group[candidate.number]
            if not group:
                del self._groups[candidate.next_block]

    def _note_change(self, block: BlockHash | None) -> None:
        """Something has happened to a block; those that lack it may be cheaper now."""
        if block is not None and block in self._groups:
            self._changed[block] = None
