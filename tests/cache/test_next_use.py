"""What is given up is what will be asked for last, the tail before the prefix, and never what is pinned."""

import tracemalloc

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from elmas.cache.hints import NO_HINTS, Hints
from elmas.cache.index import TierIndex, resident_run
from elmas.cache.next_use import NextUse
from elmas.cache.rows import BlockHash
from elmas.cache.sessions import NO_SESSION, Sessions
from tests.cache.truth import earn_trust


def chain(*names: int) -> list[bytes]:
    return [name.to_bytes(32, "little") for name in names]


class Tier:
    """One tier and its sessions, asked in order."""

    def __init__(self, n_rows: int, n_slots: int = 1 << 12, is_believed: bool = False) -> None:
        self.sessions = Sessions(n_slots)
        if is_believed:
            earn_trust(self.sessions)
        self.policy = NextUse(n_rows, self.sessions)
        self.index = TierIndex(n_rows, self.policy)

    def ask(
        self,
        hashes: list[BlockHash],
        now_s: float,
        session_id: str | None = None,
        hints: Hints | None = None,
        salt: str | None = None,
    ) -> int:
        """Return how many blocks were there; the others are entered as far as the policy lets them."""
        session = self.sessions.arrive(hashes, now_s, session_id, salt, hints or NO_HINTS)
        rows = self.index.lookup(hashes)
        n_hits = int(resident_run(rows, 0).size)
        self.index.use(rows[rows >= 0], now_s, session)
        missing = [block for block in hashes if not self.index.is_held(block)]
        if missing:
            placed = self.index.reserve(missing, hashes[: hashes.index(missing[0])], session)
            if placed.size:
                self.index.commit(placed, now_s)
        self.sessions.end(session, len(hashes), hashes, now_s)
        return n_hits

    def held(self, hashes: list[BlockHash]) -> list[bool]:
        return (self.index.lookup(hashes) >= 0).tolist()


class Life(RuleBasedStateMachine):
    """Random conversations in a small tier, with pins, removals and few session slots."""

    def __init__(self) -> None:
        super().__init__()
        self.tier = Tier(24, n_slots=4)
        self.now_s = 0.0
        self.histories: list[list[BlockHash]] = [chain(1, 2)]
        self.n_blocks = 100
        self.n_owners = 0

    @rule(which=st.integers(0, 50), keep=st.integers(1, 12), new=st.integers(0, 6), gap_s=st.floats(0, 30))
    def ask(self, which: int, keep: int, new: int, gap_s: float) -> None:
        self.now_s += gap_s
        history = self.histories[which % len(self.histories)][:keep]
        history += chain(*range(self.n_blocks, self.n_blocks + new))
        self.n_blocks += new
        self.histories.append(history)
        self.tier.ask(history, self.now_s)

    @rule(which=st.integers(0, 50))
    def pin(self, which: int) -> None:
        rows = self.tier.index.lookup(self.histories[which % len(self.histories)])
        self.n_owners += 1
        self.tier.index.pin(str(self.n_owners), rows[rows >= 0], 1e9)

    @rule(owner=st.integers(1, 20))
    def unpin(self, owner: int) -> None:
        self.tier.index.unpin(str(owner))

    @rule()
    def clear(self) -> None:
        self.tier.index.clear()

    @invariant()
    def books_balance(self) -> None:
        self.tier.index.check_integrity()
        policy, resident = self.tier.policy, np.array(sorted(self.tier.index._resident.values()), dtype=np.int64)
        units = policy._units
        known = np.flatnonzero(units._unit_of >= 0)
        assert known.tolist() == resident.tolist(), "the policy knows exactly what is resident"
        assert np.array_equal(np.bincount(units.of(known), minlength=units.size), units.n_rows)
        assert len(units._free) == np.count_nonzero(units.n_rows == 0)
        assert all(units.n_rows[unit] for unit in units._own.values())
        for unit in np.flatnonzero(units.n_rows).tolist():
            assert sorted(units._live(unit)) == np.flatnonzero(units._unit_of == unit).tolist()
        worth = policy.worth(resident)
        assert np.isfinite(worth).all()
        assert (worth >= 0).all()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60)


def test_of_a_cycle_larger_than_the_tier_as_much_is_kept_as_fits() -> None:
    tier, hits = Tier(60), []
    for turn in range(8):
        hits.append(sum(tier.ask(chain(*range(10 * n, 10 * n + 10)), 10.0 * turn + n) for n in range(10)))
    assert min(hits[3:]) >= 45, f"of 100 blocks 60 fit: {hits}"


def test_what_is_shared_outlives_what_one_session_had() -> None:
    tier = Tier(12)
    for n in range(30):
        tier.ask(chain(1, 2, 3, 100 + n, 200 + n), float(n))
    assert tier.held(chain(1, 2, 3)) == [True] * 3


def test_a_tail_goes_before_its_prefix() -> None:
    tier = Tier(10, is_believed=True)
    tier.ask(chain(*range(10)), 0.0, "a", Hints(next_use_s=50.0))
    tier.ask(chain(20, 21, 22), 1.0, "b", Hints(next_use_s=2.0))
    held = tier.held(chain(*range(10)))
    assert held == [True] * 7 + [False] * 3


def test_a_session_that_is_done_goes_first_and_leaves_what_others_share() -> None:
    tier = Tier(10, is_believed=True)
    tier.ask(chain(1, 2, 10, 11, 12), 0.0, "a", Hints(next_use_s=60.0))
    tier.ask(chain(1, 2, 20, 21, 22), 1.0, "b", Hints(is_done=True))
    tier.ask(chain(30, 31, 32, 33, 34), 2.0, "c", Hints(next_use_s=5.0))
    assert tier.held(chain(1, 2, 10, 11, 12)) == [True] * 5
    assert tier.held(chain(20, 21, 22)) == [False] * 3


def test_what_is_worth_less_than_all_others_is_refused() -> None:
    tier = Tier(6, is_believed=True)
    tier.ask(chain(1, 2, 3), 0.0, "a", Hints(next_use_s=4.0))
    tier.ask(chain(4, 5, 6), 0.0, "b", Hints(next_use_s=4.0))
    for n in range(5):
        tier.ask(chain(50 + n), 0.1 * n, str(n), Hints(is_done=True))
    assert tier.held(chain(1, 2, 3, 4, 5, 6)) == [True] * 6


def test_without_a_session_nothing_is_refused() -> None:
    tier = Tier(4)
    for n in range(10):
        rows = tier.index.reserve(chain(2 * n, 2 * n + 1), [], NO_SESSION)
        assert rows.size == 2
        tier.index.commit(rows, float(n))


def test_the_pass_over_the_units_is_made_now_and_then_only() -> None:
    tier = Tier(4096, n_slots=1 << 14)
    for n in range(2048):
        tier.ask(chain(2 * n, 2 * n + 1), float(n))
    n_passes = 0
    rank = tier.policy._rank

    def counted() -> None:
        nonlocal n_passes
        n_passes += 1
        rank()

    tier.policy._rank = counted  # type: ignore[method-assign]
    for n in range(2048, 4096):
        tier.ask(chain(2 * n, 2 * n + 1), float(n))
    assert n_passes <= 2 * 16


def test_nothing_new_is_refused_where_it_goes_on_to_a_disk() -> None:
    tier = Tier(6, is_believed=True)
    tier.sessions.takes_all_new = True
    tier.ask(chain(1, 2, 3), 0.0, "a", Hints(next_use_s=4.0))
    tier.ask(chain(4, 5, 6), 0.0, "b", Hints(next_use_s=4.0))
    tier.ask(chain(50, 51), 0.1, "c", Hints(is_done=True))
    assert tier.held(chain(50, 51)) == [True, True]


def test_who_claims_everything_does_not_starve_another_tenant() -> None:
    """One tenant's sessions come back every ten seconds, another one floods the tier with what never comes back."""
    claims = [
        None,
        Hints(next_use_s=0.01, priority=10.0),
        Hints(priority=10.0),
        Hints(next_use_s=0.01, priority=10.0, prefixes=((16 * 5, 0.01),)),
    ]
    for is_believed in (False, True):
        kept = [hits_of_the_regular(claim, is_believed) for claim in claims]
        assert kept[0] > 500, "there is something to lose"
        assert min(kept) >= 0.95 * kept[0], f"{kept}, liar believed at first: {is_believed}"


def hits_of_the_regular(claim: Hints | None, is_believed: bool) -> int:
    tier, n_hits, now_s = Tier(60), 0, 0.0
    if is_believed:
        earn_trust(tier.sessions, "liar")
    for turn in range(40):
        for agent in range(6):
            now_s = 10.0 * turn + agent
            blocks = chain(*range(5 * agent, 5 * agent + 5))
            n_hits += tier.ask(blocks, now_s, f"agent {agent}", salt="regular")
            for n in range(2):
                first = 1000 + 5 * (12 * turn + 2 * agent + n)
                flood = chain(*range(first, first + 5))
                tier.ask(flood, now_s + 0.3 + 0.3 * n, f"flood {first}", claim, "liar")
    return n_hits


def test_a_tenant_holds_by_hints_its_equal_share_at_most() -> None:
    tier = Tier(40)
    earn_trust(tier.sessions, "hinting")
    for n in range(4):
        tier.ask(chain(n), 0.0, f"other {n}", salt="other")
    for n in range(7):
        blocks = chain(*range(100 + 5 * n, 105 + 5 * n))
        tier.ask(blocks, 0.1 * n, f"hinting {n}", Hints(next_use_s=5.0, priority=10.0), "hinting")
    tier.policy._rank()
    slots = np.array([tier.sessions.find(f"hinting {n}", "hinting") for n in range(7)])
    rows = tier.index.lookup([chain(100 + 5 * n)[0] for n in range(7)])
    worth, by_hint = tier.policy.worth(rows), tier.sessions.values(slots)
    assert (worth >= by_hint).tolist() == [True] * 4 + [False] * 3, "20 of 40 rows, those that are due first"
    assert (worth < 0.5 * by_hint).tolist() == [False] * 4 + [True] * 3


def test_a_prefix_that_others_are_due_to_ask_for_stays_and_what_is_beyond_it_goes() -> None:
    tier = Tier(10, is_believed=True)
    for n in range(12):  # prefixes that are asked for as was said, so that they are believed
        tier.ask(chain(1), -100.0 + n, f"early {n}", Hints(is_done=True, prefixes=((16, 1.0),)))
    tier.ask(chain(1, 2, 3, 4, 5, 6), 0.0, "a", Hints(is_done=True, prefixes=((16, 1.0), (48, 20.0))))
    tier.ask(chain(20, 21, 22, 23, 24, 25, 26), 0.5, "b", Hints(next_use_s=10.0, prefixes=()))
    assert tier.held(chain(1, 2, 3)) == [True] * 3
    assert tier.held(chain(4, 5, 6)) == [False] * 3
    assert tier.held(chain(20, 21, 22, 23, 24, 25, 26)) == [True] * 7


def test_a_tier_takes_memory_by_its_units() -> None:
    sessions, n_rows, rows_per_unit = Sessions(1 << 12), 1 << 16, 32
    tracemalloc.start()
    policy = NextUse(n_rows, sessions)
    assert tracemalloc.get_traced_memory()[0] < 5 * n_rows + 100_000, "nothing is held yet"
    for first in range(0, n_rows, rows_per_unit):
        block = first.to_bytes(32, "little")
        session = sessions.arrive([block], float(first))
        policy.insert(np.arange(first, first + rows_per_unit), [block] * rows_per_unit, session, float(first))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 40 * n_rows
