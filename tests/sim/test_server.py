"""Invariants of the simulated server, on small random traces."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.sim.hardware import hardware, model_shape, step_cost
from elmas.sim.requests import Job
from elmas.sim.run import Setup, hit_bounds, simulate
from elmas.sim.server import Server
from elmas.sim.sources import TraceSource, block_keys
from elmas.sim.traces import Access
from elmas.sim.waiting import OrderPlan

BLOCK_TOKENS = 16
SHAPE = model_shape("llama-3-8b")
BLOCK_BYTES = BLOCK_TOKENS * SHAPE.kv_bytes_per_token
SETUP = Setup(hardware("h200"), SHAPE, n_device_blocks=40, max_batched_tokens=96, max_running=6)


@st.composite
def traces(draw: st.DrawFn) -> list[Access]:
    """A few sessions that share a beginning and come back with longer prompts, all within 30 device blocks."""
    n_shared = draw(st.integers(0, 4))
    lengths = [n_shared * BLOCK_TOKENS] * draw(st.integers(1, 5))
    accesses, now_s = [], 0.0
    for _ in range(draw(st.integers(1, 25))):
        session = draw(st.integers(0, len(lengths) - 1))
        now_s += draw(st.sampled_from((0.0, 0.001, 0.05, 1.0)))
        n_prompt = lengths[session] + draw(st.integers(1, 60))
        n_answer = draw(st.integers(1, 50))
        if n_prompt + n_answer > 30 * BLOCK_TOKENS:
            continue
        n_all = (n_prompt + n_answer) // BLOCK_TOKENS
        own = (session + 1) * 1000
        ids = [block if block < n_shared else own + block for block in range(n_all)]
        n_complete = n_prompt // BLOCK_TOKENS
        answer_ids = tuple(ids[n_complete:]) if draw(st.booleans()) else ()
        accesses.append(Access(now_s, n_prompt, n_answer, tuple(ids[:n_complete]), answer_ids, f"s{session}"))
        # A session that goes on without its answer's blocks would make them differ: they are its own then.
        lengths[session] = n_prompt + n_answer
    return accesses


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    n_host = draw(st.sampled_from((0, 3, 25, 400)))
    return dataclasses.replace(
        SETUP,
        host_bytes=n_host * BLOCK_BYTES,
        policy=draw(st.sampled_from(("lru", "next-use", "arc", "s3fifo"))),
        connector=draw(st.sampled_from(("elmas", "offloading"))),
        order=OrderPlan(draw(st.sampled_from((1, 2, 64)))),
        max_batched_tokens=draw(st.sampled_from((16, 96, 8192))),
        max_running=draw(st.sampled_from((1, 6, 256))),
    )


def with_disk(setup: Setup, n_blocks: int, bytes_per_s: float) -> Setup:
    return dataclasses.replace(
        setup,
        connector="elmas",
        host_bytes=max(setup.host_bytes, 30 * BLOCK_BYTES),
        disk_bytes=n_blocks * BLOCK_BYTES,
        disk_bytes_per_s=bytes_per_s,
    )


def run(setup: Setup, trace: list[Access]) -> Server:
    server = Server(setup.server_plan(), step_cost(setup.hardware, setup.shape), TraceSource(trace, BLOCK_TOKENS))
    server.run()
    return server


def check_is_at_rest(server: Server) -> None:
    """All references, pins and reservations are gone."""
    server.device.check_integrity()
    assert server.device.n_free == server.device.n_blocks
    if server.tiers is not None:
        index = server.tiers.host.index
        index.check_integrity()
        occupancy = index.occupancy()
        assert server.tiers.host.n_loading == 0
        assert server.tiers.host.n_storing == 0
        if server.tiers.disk is None:
            assert (occupancy.n_writing, occupancy.n_pinned) == (0, 0)


@settings(max_examples=80)
@given(setups(), traces())
def test_every_prompt_token_is_counted_once_and_nothing_is_left_behind(setup: Setup, trace: list[Access]) -> None:
    server = run(setup, trace)
    counts = server.records.counts
    assert counts.n_requests == len(trace)
    assert counts.n_prompt_tokens == sum(access.input_tokens for access in trace)
    assert counts.n_answer_tokens == sum(access.output_tokens for access in trace)
    by_source = counts.n_device_tokens + counts.n_host_tokens + counts.n_disk_tokens + counts.n_computed_tokens
    assert by_source == counts.n_prompt_tokens
    assert counts.n_computed_tokens >= len(trace)  # one token at least is computed for each
    check_is_at_rest(server)


@settings(max_examples=30)
@given(setups(), traces(), st.sampled_from((50, 500)), st.sampled_from((1e8, 1e12)))
def test_with_a_disk_every_prompt_token_is_counted_once(
    setup: Setup, trace: list[Access], n_blocks: int, bytes_per_s: float
) -> None:
    server = run(with_disk(setup, n_blocks, bytes_per_s), trace)
    counts = server.records.counts
    by_source = counts.n_device_tokens + counts.n_host_tokens + counts.n_disk_tokens + counts.n_computed_tokens
    assert counts.n_requests == len(trace)
    assert by_source == counts.n_prompt_tokens
    check_is_at_rest(server)


@settings(max_examples=30)
@given(setups(), traces())
def test_the_same_input_gives_the_same_outcome(setup: Setup, trace: list[Access]) -> None:
    for each in (setup, with_disk(setup, 100, 1e10)):
        assert simulate(each, trace).to_json() == simulate(each, trace).to_json()


@settings(max_examples=50)
@given(traces())
def test_unlimited_host_memory_hits_what_an_unlimited_tier_would(trace: list[Access]) -> None:
    # Requests far apart: everything that was computed is in host memory when the next one comes.
    apart = [dataclasses.replace(access, arrival_s=100.0 * i) for i, access in enumerate(trace)]
    setup = dataclasses.replace(SETUP, host_bytes=4000 * BLOCK_BYTES)
    hits = simulate(setup, apart).hit_tokens
    assert hits == hit_bounds(apart, BLOCK_TOKENS, 4000).infinite_hit_tokens


@settings(max_examples=30)
@given(setups(), traces())
def test_no_server_is_faster_than_its_work_and_none_finishes_before_it_began(setup: Setup, trace: list[Access]) -> None:
    outcome = simulate(setup, trace)
    counts = outcome.records.counts
    cost = step_cost(setup.hardware, setup.shape)
    work_s = counts.n_computed_tokens * cost.token_s
    if trace:
        assert outcome.jct_s >= work_s
        assert all(ttft > 0 for ttft in outcome.records.ttft_s)
        pairs = zip(outcome.records.ttft_s, outcome.records.latency_s, strict=True)
        assert all(ttft <= latency for ttft, latency in pairs)


def test_keys_of_blocks_are_32_bytes_and_differ() -> None:
    keys = block_keys([0, 1, 2, 1 << 60, -1, *range(1000, 3000)])
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}
    assert block_keys([1, 2])[1] == block_keys([2])[0]


@settings(max_examples=30)
@given(setups(), traces(), st.integers(1, 3))
def test_no_more_requests_wait_in_the_engine_than_the_front_end_lets_in(
    setup: Setup, trace: list[Access], max_waiting: int
) -> None:
    at_once = [dataclasses.replace(access, arrival_s=0.0) for access in trace]
    plan = dataclasses.replace(setup.server_plan(), max_waiting=max_waiting)
    source = TraceSource(at_once, BLOCK_TOKENS)
    server = Server(plan, step_cost(setup.hardware, setup.shape), source)
    take = source.take

    def counted_take() -> Job:
        assert server._waiting.n_ready + server._waiting.n_aside < max_waiting
        return take()

    source.take = counted_take  # type: ignore[method-assign]
    assert server.run().counts.n_requests == len(trace)
    check_is_at_rest(server)
