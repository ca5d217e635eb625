"""The order saves work, starves nobody, keeps its books and looks at little."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elmas.scheduling.bounds import Bounds
from elmas.scheduling.ranking import Estimate
from elmas.scheduling.waiting_order import WaitingOrder

FREE = Bounds(max_overtaken=10_000, max_wait_s=1e9)


@dataclass
class World:
    """What the requests need, by name; counts the looks."""

    estimates: dict[str, Estimate] = field(default_factory=dict)
    n_looks: int = 0

    def look(self, name: str, before: Estimate | None = None) -> Estimate:
        self.n_looks += 1
        return self.estimates[name]


def ordered(bounds: Bounds, window_size: int, costs: list[float]) -> tuple[WaitingOrder, World]:
    """Return an order in which requests "0", "1" ... of these costs wait."""
    world = World({str(number): Estimate(cost) for number, cost in enumerate(costs)})
    order = WaitingOrder(bounds, window_size, world.look)
    for name in world.estimates:
        order.arrive(name, 0.0)
    return order, world


def drain(order: WaitingOrder, now_s: float = 0.0) -> list[str]:
    """Run one request after the other."""
    names = []
    while (name := order.next(now_s)) is not None:
        order.take(name)
        names += order.end_step()
    return names


@given(st.lists(st.integers(0, 5).map(float), max_size=30))
def test_cheapest_first_and_arrival_among_equals(costs: list[float]) -> None:
    order, _ = ordered(FREE, 1000, costs)
    assert drain(order) == sorted((str(n) for n in range(len(costs))), key=lambda name: (costs[int(name)], int(name)))


@given(st.lists(st.integers(0, 5).map(float), max_size=30))
def test_a_window_of_one_is_first_come_first_served(costs: list[float]) -> None:
    order, world = ordered(FREE, 1, costs)
    assert drain(order) == [str(number) for number in range(len(costs))]
    assert world.n_looks == 0


@given(st.lists(st.integers(0, 9).map(float), max_size=30), st.integers(2, 8))
def test_only_the_first_of_the_queue_are_in_the_window(costs: list[float], window_size: int) -> None:
    order, _ = ordered(FREE, window_size, costs)
    left = list(range(len(costs)))
    for name in drain(order):
        window = left[:window_size]
        assert int(name) == min(window, key=lambda number: (costs[number], number))
        left.remove(int(name))


def test_a_lower_priority_number_goes_first() -> None:
    world = World({"cheap": Estimate(1.0), "urgent": Estimate(9.0), "late": Estimate(0.0)})
    order = WaitingOrder(FREE, 10, world.look)
    for name, priority in (("cheap", 0), ("urgent", -1), ("late", 5)):
        order.arrive(name, 0.0, priority)
    assert drain(order) == ["urgent", "cheap", "late"]


@pytest.mark.parametrize("priority", [0, -100])
def test_a_stream_of_perfect_hits_does_not_starve_an_expensive_request(priority: int) -> None:
    """For every request that runs a new one arrives that costs nothing."""
    order, world = ordered(Bounds(7, 1e9), 1000, [100.0, *([0.0] * 5)])
    names: list[str] = []
    while "0" not in names:
        name = order.next(0.0)
        assert name is not None
        order.take(name)
        names += order.end_step()
        new = f"hit {len(names)}"
        world.estimates[new] = Estimate(0.0)
        order.arrive(new, 0.0, priority)
    assert names.index("0") == 7


def test_waiting_too_long_ends_the_overtaking() -> None:
    order, world = ordered(Bounds(1000, 30.0), 1000, [9.0, 8.0])
    world.estimates["hit"] = Estimate(0.0)
    order.arrive("hit", 20.0)
    assert order.next(29.9) == "hit"
    assert drain(order, 30.0) == ["0", "1", "hit"]


@given(
    st.floats(1.0, 30.0),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.lists(st.integers(0, 3).map(float), max_size=3)), max_size=60),
)
def test_with_a_slot_per_step_nobody_is_overtaken_after_the_longest_wait(
    max_wait_s: float, steps: list[tuple[float, list[float]]]
) -> None:
    """In virtual time, new ones arriving all the time: until its longest wait is over cheaper ones pass."""
    order, world = ordered(Bounds(10_000, max_wait_s), 1000, [2.0])
    arrived_s = {"0": 0.0}
    now_s = 0.0
    for seconds, costs in steps:
        for cost in costs:
            name = str(len(world.estimates))
            world.estimates[name] = Estimate(cost)
            order.arrive(name, now_s)
            arrived_s[name] = now_s
        now_s += seconds
        chosen = order.next(now_s)
        if chosen is None:
            continue
        is_over = [name for name, since_s in arrived_s.items() if now_s - since_s >= max_wait_s]
        if is_over:
            assert chosen == is_over[0]
        else:
            assert chosen == min(arrived_s, key=lambda name: (world.estimates[name].cost, int(name)))
        order.take(chosen)
        order.end_step()
        del arrived_s[chosen]


def test_requests_that_lack_the_same_block_follow_the_first_of_them() -> None:
    """Arrivals of two groups alternate, all cold: without grouping they would run in turn."""
    world = World({f"{group}{number}": Estimate(64.0, group.encode()) for number in range(20) for group in "ab"})
    order = WaitingOrder(FREE, 1000, world.look)
    for name in world.estimates:
        order.arrive(name, 0.0)
    names: list[str] = []
    while (name := order.next(0.0)) is not None:
        order.take(name)
        names += order.end_step()
        for other in world.estimates:
            if other[0] == name[0]:  # the shared block is on the device now
                world.estimates[other] = Estimate(16.0, other.encode())
    assert [name[0] for name in names] == ["a"] * 20 + ["b"] * 20


def test_a_delayed_hit_lets_others_pass_and_runs_when_its_blocks_have_come() -> None:
    world = World({"hit": Estimate(1.0, b"x", is_coming=True), "miss": Estimate(9.0), "other": Estimate(9.0)})
    order = WaitingOrder(FREE, 10, world.look)
    for name in world.estimates:
        order.arrive(name, 0.0)
    assert order.next(0.0) == "miss"
    order.take("miss")
    order.end_step()
    world.estimates["hit"] = Estimate(0.0)
    assert drain(order) == ["hit", "other"]


def test_what_is_delayed_alone_does_not_run_but_its_bounds_hold() -> None:
    world = World({"hit": Estimate(1.0, b"x", is_coming=True)})
    order = WaitingOrder(Bounds(10, 30.0), 10, world.look)
    order.arrive("hit", 0.0)
    assert order.next(1.0) is None
    assert order.next(30.0) == "hit"


def test_an_estimate_that_was_too_low_is_noticed_before_it_runs() -> None:
    order, world = ordered(FREE, 1000, [1.0, 2.0, 3.0])
    order.end_step()
    world.estimates["0"] = Estimate(9.0)
    assert drain(order) == ["1", "2", "0"]


def test_an_estimate_that_was_too_high_is_noticed_in_the_end() -> None:
    order, world = ordered(FREE, 1000, [9.0] * 200)
    world.estimates["150"] = Estimate(0.0)
    for _ in range(100):
        order.end_step()
        name = order.next(0.0)
    assert name == "150"


@pytest.mark.parametrize("n_waiting", [100, 10_000])
def test_a_step_looks_at_few_however_many_wait(n_waiting: int) -> None:
    order, world = ordered(FREE, 100_000, [float(number % 7) for number in range(n_waiting)])
    assert world.n_looks == n_waiting  # one at each arrival
    for _ in range(20):
        before = world.n_looks
        name = order.next(0.0)
        assert name is not None
        order.take(name)
        order.end_step()
        assert world.n_looks - before <= 32
    before = world.n_looks
    order.end_step()
    assert world.n_looks == before  # nobody asked


estimates = st.builds(
    Estimate,
    st.integers(0, 4).map(float),
    st.sampled_from([None, b"a", b"b", b"c"]),
    st.booleans(),
)


class Model(RuleBasedStateMachine):
    """Requests arrive, step aside, come back, leave, run and are put back, with estimates that change all the time."""

    @initialize(max_overtaken=st.integers(0, 6), max_wait_s=st.integers(1, 30), window_size=st.integers(1, 12))
    def start(self, max_overtaken: int, max_wait_s: int, window_size: int) -> None:
        self.bounds = Bounds(max_overtaken, float(max_wait_s))
        self.world = World()
        self.order = WaitingOrder(self.bounds, window_size, self.world.look)
        self.now_s = 0.0
        self.arrived_s: dict[str, float] = {}
        self.aside: set[str] = set()
        self.taken: list[str] = []
        self.n_overtaken: dict[str, int] = {}
        self.n_arrived = 0

    def ready(self) -> list[str]:
        return [name for name in self.arrived_s if name not in self.aside and name not in self.taken]

    @rule(
        cost=st.integers(0, 4),
        group=st.integers(0, 3),
        coming=st.booleans(),
        aside=st.booleans(),
        rank=st.integers(-1, 1),
    )
    def arrive(self, cost: int, group: int, coming: bool, aside: bool, rank: int) -> None:
        name = f"{self.n_arrived:06}"
        self.n_arrived += 1
        self.world.estimates[name] = Estimate(float(cost), bytes([group]), coming)
        self.order.arrive(name, self.now_s, rank, aside)
        self.arrived_s[name], self.n_overtaken[name] = self.now_s, 0
        if aside:
            self.aside.add(name)

    @rule(seconds=st.integers(1, 9))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.arrived_s)
    @rule(data=st.data(), estimate=estimates)
    def change(self, data: st.DataObject, estimate: Estimate) -> None:
        self.world.estimates[data.draw(st.sampled_from(sorted(self.arrived_s)))] = estimate

    @precondition(lambda self: self.ready())
    @rule(data=st.data())
    def step_aside(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.ready()))
        self.order.step_aside(name)
        self.aside.add(name)

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.aside)))
        self.order.come_back(name)
        self.aside.remove(name)

    @precondition(lambda self: self.arrived_s.keys() - set(self.taken))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.arrived_s.keys() - set(self.taken))))
        assert self.order.leave(name)
        del self.arrived_s[name]
        self.aside.discard(name)

    @rule()
    def take(self) -> None:
        ready = self.ready()
        name = self.order.next(self.now_s)
        if name is None:
            return
        assert name in ready
        for other in ready:
            if other >= name:
                continue
            n_now = self.n_overtaken[other] + sum(taken > other for taken in self.taken)
            assert n_now < self.bounds.max_overtaken, f"{other} is overtaken once too often"
            assert self.now_s - self.arrived_s[other] < self.bounds.max_wait_s, f"{other} has waited too long"
        self.order.take(name)
        self.taken.append(name)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.taken))
        self.order.put_back(name)
        self.taken.remove(name)

    @rule()
    def end_step(self) -> None:
        assert self.order.end_step() == self.taken
        for name in self.taken:
            del self.arrived_s[name]
            for other in self.arrived_s:
                self.n_overtaken[other] += name > other and other not in self.taken
        self.taken = []

    @invariant()
    def nobody_is_lost(self) -> None:
        if hasattr(self, "order"):
            assert len(self.order) == len(self.arrived_s) - len(self.taken)
            assert self.order.n_aside == len(self.aside)

    def teardown(self) -> None:
        if not hasattr(self, "order"):
            return
        self.end_step()
        for name in sorted(self.aside):
            self.order.come_back(name)
        assert drain(self.order, 1e9) == sorted(self.arrived_s)
        assert len(self.order) == 0


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40)
