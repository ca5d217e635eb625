"""Lives of a small tier, random ones too, to compare a policy with a slow model of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from elmas.cache.retention import RetentionPolicy
from elmas.cache.rows import BlockHash, Rows, as_rows
from elmas.cache.sessions import NO_SESSION

CAPACITY = 10

_rows = st.sets(st.integers(0, CAPACITY - 1))
_prompts = st.lists(st.integers(0, 29), min_size=1, max_size=CAPACITY, unique=True)
_steps = st.one_of(
    st.tuples(st.just("ask"), _prompts, _rows),
    st.tuples(st.just("ask"), _prompts, st.just(set())),
    st.tuples(st.just("evict"), st.integers(1, CAPACITY), _rows),
    st.tuples(st.just("remove"), _rows, st.none()),
)
histories = st.lists(_steps, max_size=80)
"""Steps for `play`: ask for a prompt's blocks while rows are pinned, evict, or remove rows."""


class Model(Protocol):
    """What a policy must do, one row at a time in plain Python. Rows come in prefix order, pins as a set of rows."""

    def insert(self, rows: list[int], blocks: list[bytes]) -> None:
        """See `RetentionPolicy.insert`."""

    def use(self, rows: list[int]) -> None:
        """See `RetentionPolicy.use`."""

    def remove(self, rows: list[int]) -> None:
        """See `RetentionPolicy.remove`."""

    def victims(self, n_rows: int, pinned: set[int]) -> list[int]:
        """See `RetentionPolicy.victims`."""


class GhostModel:
    """The blocks given up, oldest first: at most `max_ghosts`, of the last `2 * max_ghosts` given up."""

    def __init__(self, max_ghosts: int) -> None:
        self.blocks: dict[bytes, int] = {}
        self.n_added = 0
        self.max_ghosts = max_ghosts

    def add(self, given_up: bytes) -> None:
        """Remember one more."""
        self.blocks[given_up] = self.n_added
        self.n_added += 1
        recent = self.n_added - 2 * self.max_ghosts
        self.blocks = {name: number for name, number in self.blocks.items() if number >= recent}
        self.trim(self.max_ghosts)

    def trim(self, n_blocks: int) -> None:
        """Forget the oldest."""
        while len(self.blocks) > n_blocks:
            del self.blocks[next(iter(self.blocks))]


class Compared:
    """A policy that does what another does, which must be what the model does."""

    def __init__(self, policy: RetentionPolicy, model: Model) -> None:
        self.policy = policy
        self.model = model

    def insert(self, rows: Rows, blocks: Sequence[BlockHash], session: int, now_s: float) -> None:
        """Tell both."""
        self.policy.insert(rows, blocks, session, now_s)
        self.model.insert(rows.tolist(), list(blocks))

    def use(self, rows: Rows, session: int, now_s: float) -> None:
        """Tell both."""
        self.policy.use(rows, session, now_s)
        self.model.use(rows.tolist())

    def remove(self, rows: Rows) -> None:
        """Tell both."""
        self.policy.remove(rows)
        self.model.remove(rows.tolist())

    def victims(self, n_rows: int, n_pins: NDArray[np.int32], wanted: Sequence[BlockHash], session: int) -> Rows:
        """Ask both: the same rows in the same order, and none of them pinned."""
        rows = self.policy.victims(n_rows, n_pins, wanted, session)
        assert rows.tolist() == self.model.victims(n_rows, set(np.flatnonzero(n_pins).tolist()))
        assert not n_pins[rows].any()
        return rows

    def worth(self, rows: Rows) -> NDArray[np.float64]:
        """Return the policy's answer, which must not be negative."""
        worth = self.policy.worth(rows)
        assert (worth >= 0).all()
        return worth


class Tier:
    """What an index does with a policy, for blocks that are numbers; `held` has the row of each."""

    def __init__(self, policy: RetentionPolicy, n_rows: int) -> None:
        self.policy = policy
        self.held: dict[int, int] = {}
        self.n_rows = n_rows
        self._free = list(range(n_rows))

    def ask(self, prompt: Sequence[int], pinned: Iterable[int] = ()) -> int:
        """Use what is held of a prompt and insert the rest; returns how many leading blocks were held."""
        used = [self.held[number] for number in prompt if number in self.held]
        missing = [number for number in prompt if number not in self.held]
        n_hits = prompt.index(missing[0]) if missing else len(prompt)
        self.policy.use(as_rows(used), NO_SESSION, 0.0)
        if len(missing) > len(self._free):
            self.evict(len(missing) - len(self._free), {*pinned, *used})
        placed = missing[: len(self._free)]
        rows = [self._free.pop() for _ in placed]
        self.held.update(zip(placed, rows, strict=True))
        self.policy.insert(as_rows(rows), [block(number) for number in placed], NO_SESSION, 0.0)
        return n_hits

    def evict(self, n_rows: int, pinned: Iterable[int]) -> None:
        """Empty what the policy gives up while rows are pinned."""
        n_pins = np.zeros(self.n_rows, dtype=np.int32)
        n_pins[list(pinned)] = 1
        self._drop(self.policy.victims(n_rows, n_pins, [], NO_SESSION).tolist())

    def remove(self, rows: Iterable[int]) -> None:
        """Empty those of the rows that are held."""
        found = [row for row in self.held.values() if row in set(rows)]
        self.policy.remove(as_rows(found))
        self._drop(found)

    def _drop(self, rows: list[int]) -> None:
        for number in [number for number, row in self.held.items() if row in rows]:
            self._free.append(self.held.pop(number))


def block(number: int) -> bytes:
    """Return a block hash that is different for each number."""
    return number.to_bytes(32, "big")


def play(history: list[tuple], policy: RetentionPolicy, model: Model, check: Callable[[], None]) -> None:
    """Play a history with a policy and its model, and `check` after each step."""
    tier = Tier(Compared(policy, model), CAPACITY)
    for action, argument, pinned in history:
        if action == "ask":
            tier.ask(argument, pinned)
        elif action == "evict":
            tier.evict(argument, pinned)
        else:
            tier.remove(argument)
        tier.policy.worth(as_rows(list(tier.held.values())))
        check()


def hits_after_a_scan(policy: RetentionPolicy) -> int:
    """Let a prompt of 50 blocks come four times to a tier of 100, then 500 others once; returns what is left of it."""
    tier = Tier(policy, 100)
    for _ in range(4):
        tier.ask(range(50))
    for first in range(1000, 1500, 10):
        tier.ask(range(first, first + 10))
    return tier.ask(range(50))
