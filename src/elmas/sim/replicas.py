"""Simulations of traces in processes: the bounds beside the server, and independent servers beside each other.

Each replica is a whole server of its own that gets some of the sessions, as behind a router that keeps a session where
it is. A process reads the trace itself and passes over what is not its own.
"""

import multiprocessing
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

from elmas.sim.records import Counts, Records
from elmas.sim.run import BytesMoved, HitBounds, Outcome, Setup, hit_bounds, simulate
from elmas.sim.traces import Access

OpenTrace = Callable[[], Iterable[Access]]
"""Begins to read a trace; it must be possible to send it to another process."""


def part_of(accesses: Iterable[Access], replica: int, n_replicas: int) -> Iterator[Access]:
    """Yield the requests that one of the replicas gets: by session, or in turn where a request names none."""
    for number, access in enumerate(accesses):
        key = number if access.session_id is None else zlib.crc32(access.session_id.encode())
        if key % n_replicas == replica:
            yield access


def simulate_trace(
    setup: Setup, open_trace: OpenTrace, n_replicas: int = 1, has_bounds: bool = True
) -> tuple[Outcome, HitBounds | None]:
    """Simulate replicas of a server on a trace; return what they come to together, and the bounds of one tier that has
    the capacity of all. One process for each replica, and one for the bounds."""
    if n_replicas == 1 and not has_bounds:
        return simulate(setup, open_trace()), None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_replicas, mp_context=context) as pool:
        bounds = None
        others = [pool.submit(_replica, setup, open_trace, index, n_replicas) for index in range(1, n_replicas)]
        if has_bounds:
            bounds = pool.submit(_bounds, open_trace, setup.block_tokens, n_replicas * setup.capacity_blocks)
        first = _replica(setup, open_trace, 0, n_replicas)
        outcomes = [first, *(other.result() for other in others)]
        return _merged(outcomes), bounds.result() if bounds is not None else None


def _replica(setup: Setup, open_trace: OpenTrace, index: int, n_replicas: int) -> Outcome:
    accesses = open_trace()
    return simulate(setup, accesses if n_replicas == 1 else part_of(accesses, index, n_replicas))


def _bounds(open_trace: OpenTrace, block_tokens: int, capacity_blocks: int) -> HitBounds:
    return hit_bounds(open_trace(), block_tokens, capacity_blocks)


def _merged(outcomes: list[Outcome]) -> Outcome:
    if len(outcomes) == 1:
        return outcomes[0]
    all_records = [outcome.records for outcome in outcomes]
    merged = Records(counts=_sum_of_counts([records.counts for records in all_records]))
    for records in all_records:
        merged.ttft_s.extend(records.ttft_s)
        merged.latency_s.extend(records.latency_s)
    arrivals = [records.first_arrival_s for records in all_records if records.first_arrival_s is not None]
    merged.first_arrival_s = min(arrivals, default=None)
    merged.last_end_s = max(records.last_end_s for records in all_records)
    moved = [vars(outcome.moved) for outcome in outcomes]
    names = dict.fromkeys(chain.from_iterable(outcome.tier_counts for outcome in outcomes))
    return Outcome(
        records=merged,
        seconds_per_round=[],
        moved=BytesMoved(**{name: sum(each[name] for each in moved) for name in moved[0]}),
        tier_counts={name: sum(outcome.tier_counts.get(name, 0) for outcome in outcomes) for name in names},
    )


def _sum_of_counts(all_counts: list[Counts]) -> Counts:
    values = [vars(counts) for counts in all_counts]
    return Counts(**{name: sum(each[name] for each in values) for name in values[0]})
