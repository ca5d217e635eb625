"""Simulations of traces in processes: the bounds beside the server, and independent servers beside each other.

Each replica is a whole server of its own that gets some of the sessions, as behind a router that keeps a session where
it is. A process reads its part of the trace itself.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

from elmas.sim.parts import WHOLE, Part
from elmas.sim.records import Counts, Records
from elmas.sim.run import BytesMoved, HitBounds, Outcome, Setup, hit_bounds, simulate
from elmas.sim.traces import Access

OpenTrace = Callable[[Part], Iterable[Access]]
"""Begins to read a part of a trace; it must be possible to send it to another process."""


def part_of(accesses: Iterable[Access], part: Part) -> Iterator[Access]:
    """Yield the requests of a part."""
    for number, access in enumerate(accesses):
        if part.has(number, None if access.session_id is None else access.session_id.encode()):
            yield access


def simulate_trace(
    setup: Setup, open_trace: OpenTrace, n_replicas: int = 1, has_bounds: bool = True
) -> tuple[Outcome, HitBounds | None]:
    """Simulate replicas of a server on a trace; return what they come to together, and the bounds of one tier that has
    the capacity of all. One process for each replica, and one for the bounds."""
    if n_replicas == 1 and not has_bounds:
        return simulate(setup, open_trace(WHOLE)), None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_replicas, mp_context=context) as pool:
        bounds = None
        parts = [Part(index, n_replicas) for index in range(n_replicas)]
        others = [pool.submit(_replica, setup, open_trace, part) for part in parts[1:]]
        if has_bounds:
            bounds = pool.submit(_bounds, open_trace, setup.block_tokens, n_replicas * setup.capacity_blocks)
        first = _replica(setup, open_trace, parts[0])
        outcomes = [first, *(other.result() for other in others)]
        return _merged(outcomes), bounds.result() if bounds is not None else None


def _replica(setup: Setup, open_trace: OpenTrace, part: Part) -> Outcome:
    return simulate(setup, open_trace(part))


def _bounds(open_trace: OpenTrace, block_tokens: int, capacity_blocks: int) -> HitBounds:
    return hit_bounds(open_trace(WHOLE), block_tokens, capacity_blocks)


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
