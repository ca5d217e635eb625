"""The order of waiting requests in vLLM's own scheduler: bounds, groups, rounds, errors."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.sched.request_queue import PriorityRequestQueue

from elmas.cache.index import resident_run
from elmas.cache.retention import POLICIES
from elmas.scheduling.waiting_order import WaitingOrder
from elmas.scheduling.work import run_end
from elmas.vllm.metadata import Confirmations
from elmas.vllm.scheduler import make_scheduler
from elmas.vllm.waiting_queue import WaitingQueue
from elmas.vllm.work_estimates import WorkEstimates
from tests.vllm.oracle import BLOCK_SIZE, Server


class OrderedServer(Server):
    """A server that remembers in which order requests began and how many of their tokens were computed."""

    def __init__(self, model: str, settings: dict[str, Any] | None = None, **shape: Any) -> None:
        super().__init__(model, settings or {}, scheduler_class=make_scheduler, **shape)
        self.begun: list[str] = []
        self.n_computed: dict[str, int] = {}

    def _compute(self, name: str, first: int, n_tokens: int, blocks: list[int]) -> list[int]:
        if name not in self.n_computed:
            self.begun.append(name)
        self.n_computed[name] = self.n_computed.get(name, 0) + n_tokens
        return super()._compute(name, first, n_tokens, blocks)

    def _copy_some(self, confirmations: Confirmations, finished_loads: set[str]) -> None:
        """Copies are done by the end of their step, as those of a real server mostly are."""
        for kind, transfer in self.copies:
            self._copy(kind, transfer)
            if kind == "load":
                finished_loads.add(transfer.owner)
            else:
                confirmations.stores[transfer.number] = 1
        self.copies = []

    @property
    def queue(self) -> WaitingQueue:
        queue = self.scheduler.waiting
        assert isinstance(queue, WaitingQueue)
        return queue

    @property
    def is_ordered(self) -> bool:
        """Whether no error of the order has occurred."""
        is_ordered = self.queue._order is not None
        assert self.half.tier.counts["order_errors"] == (0 if is_ordered else 1)
        return is_ordered


def prompt_of(number: int, n_blocks: int) -> list[int]:
    """Return a prompt that shares nothing with another number's."""
    digits = [number % 5, number // 5 % 5, number // 25 % 5, number // 125 % 5]
    return digits * n_blocks


def test_a_stream_of_perfect_hits_overtakes_a_miss_no_more_than_allowed(model_shape: str) -> None:
    settings = {"scheduler_max_overtaken": 9}
    server = OrderedServer(model_shape, settings, n_blocks=40, n_rows=100, max_num_seqs=1, max_batched_tokens=64)
    server.add("warm", prompt_of(1, 4), 1)
    server.run()
    server.add("running", prompt_of(3, 2), 2)
    server.step()
    server.add("miss", prompt_of(2, 8), 1)
    for number in range(4):
        server.add(f"hit-{number}", prompt_of(1, 4), 1)
    n_hits = 4
    while "miss" not in server.begun:
        server.step()
        while len(server.scheduler.waiting) < 5:
            server.add(f"hit-{n_hits}", prompt_of(1, 4), 1)
            n_hits += 1
    assert server.begun.index("miss") - server.begun.index("running") - 1 == 9
    assert server.is_ordered
    server.run()


def test_after_the_longest_wait_nobody_overtakes(model_shape: str) -> None:
    settings = {"scheduler_max_wait_s": 0.0}
    server = OrderedServer(model_shape, settings, n_blocks=60, n_rows=100, max_num_seqs=1, max_batched_tokens=64)
    server.add("warm", prompt_of(1, 4), 1)
    server.run()
    names = []
    for number in range(6):
        names.append(f"{number}")
        server.add(f"{number}", prompt_of(1 if number % 2 else number + 2, 4), 1)
    server.run()
    assert server.begun == ["warm", *names]


@pytest.mark.parametrize("max_wait_s", [3.0, 7.0])
def test_hits_overtake_a_miss_until_it_has_waited_long_enough(
    model_shape: str, monkeypatch: pytest.MonkeyPatch, max_wait_s: float
) -> None:
    """Each step takes a second of virtual time, and for every hit that begins a new one arrives."""
    now_s = 0.0
    monkeypatch.setattr("elmas.vllm.waiting_queue.monotonic", lambda: now_s)
    settings = {"scheduler_max_wait_s": max_wait_s}
    server = OrderedServer(model_shape, settings, n_blocks=40, n_rows=100, max_num_seqs=1, max_batched_tokens=64)
    server.add("warm", prompt_of(1, 4), 1)
    server.run()
    server.add("running", prompt_of(3, 2), 2)
    server.step()
    server.add("miss", prompt_of(2, 8), 1)
    hits_begun_s = []
    n_hits = 0
    while "miss" not in server.begun:
        while len(server.scheduler.waiting) < 5:
            server.add(f"hit-{n_hits}", prompt_of(1, 4), 1)
            n_hits += 1
        n_before = len(server.begun)
        server.step()
        hits_begun_s += [now_s for name in server.begun[n_before:] if name.startswith("hit")]
        now_s += 1.0
    assert max_wait_s - 2.0 <= hits_begun_s[-1] < max_wait_s  # the one slot is taken for a step or two
    assert server.is_ordered
    server.run()


def test_hits_on_the_device_come_before_hits_in_host_memory_before_misses(
    model_shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OrderedServer(model_shape, n_blocks=24, n_rows=100, max_num_seqs=1, max_batched_tokens=64)
    for number in range(1, 4):  # the last one's blocks are on the device, all are in host memory
        server.add(f"warm-{number}", prompt_of(number, 10), 1)
        server.run()
    taken: list[str] = []
    take = WaitingOrder.take
    monkeypatch.setattr(WaitingOrder, "take", lambda self, name: (taken.append(name), take(self, name)))
    server.add("miss", prompt_of(9, 10), 1)
    server.add("host", prompt_of(1, 10), 1)
    server.add("device", prompt_of(3, 10), 1)
    server.run()
    assert taken == ["device", "host", "miss"]


def test_what_only_the_device_has_is_used_before_it_is_evicted(model_shape: str) -> None:
    """A few cheap misses would cost less than the rest of a long prompt, and take its blocks away."""
    server = OrderedServer(model_shape, {"store": False}, n_blocks=24, n_rows=10, max_num_seqs=1, max_batched_tokens=64)
    server.add("warm", prompt_of(1, 15), 1)
    server.run()
    for number in range(2, 8):
        server.add(f"miss-{number}", prompt_of(number, 4), 1)
    server.add("back", prompt_of(1, 20), 1)
    server.run()
    assert server.begun[:2] == ["warm", "back"]


def test_requests_that_share_a_prefix_nobody_has_follow_the_first_of_them(model_shape: str) -> None:
    """Three groups arrive in turn; the tiers are too small for two prefixes at a time."""
    server = OrderedServer(model_shape, n_blocks=18, n_rows=14, max_num_seqs=1, max_batched_tokens=16)
    for number in range(5):
        for group in range(3):
            server.add(f"{group}-{number}", prompt_of(group, 10) + [number] * 5, 1)
    server.run()
    assert [name[0] for name in server.begun] == ["0"] * 5 + ["1"] * 5 + ["2"] * 5
    again = [server.n_computed[name] for name in server.begun if not name.endswith("-0")]
    assert max(again) <= 6
    assert server.is_ordered


def test_a_prefix_is_loaded_once_for_those_that_arrive_together(model_shape: str) -> None:
    server = OrderedServer(model_shape, n_blocks=64, n_rows=100, max_num_seqs=4, max_batched_tokens=64)
    server.add("warm", prompt_of(1, 10), 1)
    server.run()
    assert server.scheduler.kv_cache_manager.reset_prefix_cache()
    for number in range(4):
        server.add(f"again-{number}", prompt_of(1, 10) + [number] * 3, 2)
    server.run()
    assert server.n_loaded_blocks == 10
    assert server.is_ordered


def test_without_room_nothing_is_looked_at(model_shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = OrderedServer(model_shape, n_blocks=60, n_rows=60, max_num_seqs=1, max_batched_tokens=64)
    server.add("running", prompt_of(1, 2), 20)
    for number in range(2, 10):
        server.add(f"{number}", prompt_of(number, 2), 1)
    server.step()
    calls: list[float] = []
    monkeypatch.setattr(WaitingOrder, "next", lambda self, now_s: calls.append(now_s))
    for _ in range(10):
        server.step()
    assert calls == []
    monkeypatch.undo()
    server.run()
    assert len(server.begun) == 9


@pytest.mark.parametrize("method", ["next", "take", "arrive", "end_step", "put_back", "come_back", "leave"])
@pytest.mark.parametrize("n_calls", [0, 7])
def test_any_error_leaves_first_come_first_served(
    model_shape: str, monkeypatch: pytest.MonkeyPatch, method: str, n_calls: int
) -> None:
    server = OrderedServer(model_shape, n_blocks=30, n_rows=60, max_num_seqs=2, max_batched_tokens=16)
    original, calls = getattr(WaitingOrder, method), 0

    def fails_later(self: WaitingOrder, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > n_calls:
            raise RuntimeError("injected")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WaitingOrder, method, fails_later)
    prompts = {f"{number}": prompt_of(number % 6, 2 + number % 3) for number in range(24)}
    for name, prompt in prompts.items():
        server.add(name, prompt, 2)
    server.abort("20")
    server.run()
    assert sorted(server.begun) == sorted(prompts.keys() - {"20"})
    if not server.is_ordered:
        after = [int(name) for name in server.begun[n_calls + 2 :]]
        assert after == sorted(after)
        for number in range(30, 36):  # and new ones are served
            server.add(f"{number}", prompt_of(number, 2), 1)
        server.run()
        assert server.begun[-6:] == [f"{number}" for number in range(30, 36)]


@pytest.mark.parametrize("method", ["estimate", "has_begun"])
def test_what_fails_about_a_request_leaves_first_come_first_served(
    method: str, model_shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OrderedServer(model_shape, n_blocks=30, n_rows=60, max_num_seqs=1, max_batched_tokens=16)
    monkeypatch.setattr(WorkEstimates, method, lambda *args: 1 // 0)
    names = [f"{number}" for number in range(5)]
    for name in names:
        server.add(name, prompt_of(int(name), 2), 1)
    server.run()
    assert server.begun == names
    assert not server.is_ordered


def test_the_users_own_priorities_are_left_alone(model_shape: str) -> None:
    def make(**kwargs: Any) -> Any:
        kwargs["vllm_config"].scheduler_config.policy = "priority"
        return make_scheduler(**kwargs)

    server = Server(model_shape, {}, n_blocks=30, n_rows=60, scheduler_class=make)
    assert isinstance(server.scheduler.waiting, PriorityRequestQueue)
    server.add("one", prompt_of(1, 2), 1)
    server.run()
    assert server.answers["one"]


def test_preempted_requests_go_on_before_all_others(model_shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests outgrow the device while many short ones wait."""
    server = OrderedServer(model_shape, n_blocks=16, n_rows=60, max_num_seqs=2, max_batched_tokens=32)
    server.add("a", prompt_of(1, 3), 28)
    server.add("b", prompt_of(2, 3), 28)
    server.step()
    for number in range(3, 13):
        server.add(f"{number}", prompt_of(number, 2), 1)
    preempted = []
    prepend = server.queue.prepend_request
    monkeypatch.setattr(server.queue, "prepend_request", lambda request: (preempted.append(request), prepend(request)))
    while not preempted:
        server.step()
    assert server.queue.peek_request() is preempted[0]
    server.run()
    assert {len(answer) for name, answer in server.answers.items() if name in "ab"} == {28}
    assert server.is_ordered


def usable_blocks(server: OrderedServer, names: list[str], n_blocks: int) -> int:
    """Return how many of the waiting requests' first blocks are on the device or after that in host memory."""
    index, pool = server.half.tier.index, server.scheduler.kv_cache_manager.block_pool
    n_usable = 0
    for name in names:
        hashes = server.scheduler.requests[name].block_hashes
        end = run_end(lambda block: pool.get_cached_block(block, [0]) is not None, hashes, 0, n_blocks)
        n_usable += end + resident_run(index.lookup(hashes[:n_blocks]), end).size
    return n_usable


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("window_size", [10, 64, 1000])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_with_a_round_queued_at_once_what_is_resident_is_hit(
    model_shape: str, share: float, window_size: int, policy: str
) -> None:
    """Under LRU that is the tier's share of the working set, every round; a policy that refuses blocks holds less."""
    n_agents, n_blocks = 80, 8
    n_working_set = n_agents * n_blocks
    server = OrderedServer(
        model_shape,
        {"scheduler_window_size": window_size, "policy": policy},
        n_blocks=96,
        n_rows=int(share * n_working_set),
        max_num_seqs=4,
        max_batched_tokens=64,
    )
    for turn in range(6):
        names = [f"{turn}-{agent}" for agent in range(n_agents)]
        for agent, name in enumerate(names):
            server.add(name, [*prompt_of(agent + 1, n_blocks), 0], 1)
        n_usable = usable_blocks(server, names, n_blocks)
        server.run()
        n_hit = n_working_set - sum(server.n_computed[name] - 1 for name in names) / BLOCK_SIZE
        print(
            f"{policy} window {window_size} share {share}: {n_usable / n_working_set:.3f} {n_hit / n_working_set:.3f}"
        )
        if window_size > n_agents:  # shorter ones find too late what only the device has
            assert n_hit >= 0.85 * n_usable
        if policy == "lru" and turn > 0:
            assert n_hit >= 0.95 * share * n_working_set
    assert server.is_ordered


def test_the_beginning_of_a_burst_waits_in_few_steps_for_the_rest(
    model_shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for comes through another thread, which cannot work while one empty step follows the other."""
    n_agents, n_blocks = 24, 8
    now_s = 0.0
    slept_s: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: now_s, time=lambda: 0.0, sleep=slept_s.append)
    monkeypatch.setattr("elmas.vllm.scheduler.time", clock)
    server = OrderedServer(model_shape, n_blocks=48, n_rows=60, max_num_seqs=4, max_batched_tokens=64)

    def come(turn: int, agents: range) -> None:
        nonlocal now_s
        for agent in agents:
            now_s += 0.001
            server.add(f"{turn}-{agent}", [*prompt_of(agent + 1, n_blocks), 0], 1)

    for turn in range(3):
        now_s += 1.0
        come(turn, range(n_agents))
        server.run()
    assert server.half.n_only_on_device > 0
    n_begun, n_loaded, n_slept = len(server.begun), server.n_loaded_blocks, len(slept_s)
    now_s += 1.0
    come(3, range(n_agents // 2))
    for _ in range(8):
        server.step()
    assert len(server.queue) > 0
    assert server.n_loaded_blocks == n_loaded, "those that are to be loaded wait"
    assert len(slept_s) > n_slept
    assert all(0 < seconds <= 0.005 for seconds in slept_s)
    come(3, range(n_agents // 2, n_agents))
    n_slept = len(slept_s)
    server.run()
    assert len(slept_s) == n_slept, "all are there"
    assert len(server.begun) == n_begun + n_agents
    assert server.is_ordered
