"""A random life of many requests on a disk that is late and fails: all of them run, and nothing is left."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.cache.rows import BlockHash
from tests.movement.disks import chain
from tests.movement.test_disk_tier import Machine


@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32), failure_share=st.sampled_from([0.0, 0.2]), n_rows=st.sampled_from([6, 20, 60]))
def test_every_request_runs_and_nothing_is_left_however_the_disk_behaves(
    seed: int, failure_share: float, n_rows: int
) -> None:
    rng = random.Random(seed)
    machine = Machine(n_rows=n_rows, n_slots=5, n_segments=4, max_run_records=3, admits_all=rng.random() < 0.5)
    tier = machine.tier
    now_s = not_reading_s = 0.0
    live = dict[str, list[BlockHash]]()
    for number in range(400):
        now_s += rng.choice([0.0, 0.01, 0.2])
        tier.look(now_s)
        if rng.random() < 0.3 and number < 300:
            name, prompt = f"request-{number}", chain(rng.choices([0, 1], k=rng.randint(1, 8)))
            n_covered = machine.arrive(name, prompt, now_s)
            assert 0 <= n_covered <= len(prompt)
            live[name] = prompt
        if rng.random() < 0.1:
            tier.take_turns(now_s)
        machine.cancel(share=0.5, rng=rng)
        was_reading = bool(machine.reads)
        reads, writes = machine.take_orders(now_s)
        if not (was_reading or reads):
            not_reading_s = now_s
        elif writes:
            assert len(writes) == 1
            assert now_s - not_reading_s >= 1.0, "something is written while something is read"
            not_reading_s = now_s
        assert tier.prefetcher.n_rows_ahead + tier.prefetcher.n_blocks_reading <= max(1, n_rows // 2)
        for read in rng.sample(sorted(machine.reads), rng.randint(0, min(3, len(machine.reads)))):
            machine.end_read(read, now_s, rng.random() >= failure_share, rng.random() < failure_share)
        for write in rng.sample(sorted(machine.writes), rng.randint(0, min(2, len(machine.writes)))):
            machine.end_write(write, now_s, rng.random() < failure_share)
        ready = [name for name in live if not tier.is_waiting(name)]
        for name in ready[: rng.randint(0, 2)]:
            prompt = live.pop(name)
            if rng.random() < 0.2:
                machine.forget(name)
            else:
                machine.run(name, prompt, now_s)
        assert tier.n_waiting == tier.prefetcher.n_pending
        machine.host.index.check_integrity()
        machine.index.check_integrity()
    for _ in range(300):
        now_s += 0.1
        tier.look(now_s)
        tier.take_turns(now_s)
        for name in [name for name in live if not tier.is_waiting(name)]:
            machine.run(name, live.pop(name), now_s)
        machine.end_all(now_s)
    assert not live, "somebody waits forever"
    machine.assert_nothing_is_left()
    assert tier.counts["disk_prefetches"] >= tier.counts["disk_landed"] + tier.counts["disk_gone_deadline"]
