"""Compare retention policies on generated traces: families x capacities x policies x seeds, against the bounds."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from elmas.cache.retention import POLICIES
from elmas.errors import UserError
from elmas.sim.cache_only import replay_cache_only
from elmas.sim.generate import FAMILIES, TraceRecipe, generate
from elmas.sim.hints import hints_for
from elmas.sim.optimal import look_ahead
from elmas.sim.packed import pack_trace

HINTED_POLICY = "next-use"
"""The policy that is replayed with correct and with wrong hints, too."""

OPTIMAL, INFINITE = "optimal", "infinite"
"""The bounds, where others are policies."""


@dataclass(frozen=True)
class ComparePlan:
    """What is compared. Capacities are shares of each trace's working set."""

    families: tuple[str, ...] = tuple(FAMILIES)
    policies: tuple[str, ...] = tuple(POLICIES)
    capacities: tuple[float, ...] = (0.25, 0.5, 0.75)
    seeds: tuple[int, ...] = (1, 2, 3)
    n_sessions: int = 300
    block_tokens: int = 64

    def __post_init__(self) -> None:
        """Raise UserError for what does not exist, or nothing to do."""
        for given, known, what in ((self.families, FAMILIES, "family"), (self.policies, POLICIES, "policy")):
            for name in given:
                if name not in known:
                    raise UserError(f"there is no {what} {name!r}: choose from {', '.join(known)}")
        if not all(0 < capacity < float("inf") for capacity in self.capacities):
            raise UserError("a capacity is a share of the working set such as 0.25: give more than 0")
        if not (self.families and self.policies and self.capacities and self.seeds):
            raise UserError("nothing to compare: give a family, a policy, a capacity and a seed at least")

    def arms(self) -> list[tuple[str, str]]:
        """Return what is replayed on every trace: pairs of policy and kind of hints."""
        arms = [(policy, "none") for policy in self.policies]
        if HINTED_POLICY in self.policies:
            arms += [(HINTED_POLICY, "correct"), (HINTED_POLICY, "wrong")]
        return arms


@dataclass(frozen=True)
class Cell:
    """One trace and capacity: hit tokens in percent of the prompt tokens, by arm (see `arm_name`), bounds included."""

    family: str
    seed: int
    capacity: float
    n_requests: int
    working_set_blocks: int
    hit_percent: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A plan and its cells, ordered by family, capacity and seed."""

    plan: ComparePlan
    cells: tuple[Cell, ...]

    def mean_percent(self, family: str, capacity: float) -> dict[str, float]:
        """Return the hits by arm, in percent, averaged over the seeds."""
        cells = [cell for cell in self.cells if cell.family == family and cell.capacity == capacity]
        return {arm: fmean(cell.hit_percent[arm] for cell in cells) for arm in cells[0].hit_percent}

    def to_json(self) -> dict[str, Any]:
        """Return plan and cells."""
        return {"plan": asdict(self.plan), "cells": [asdict(cell) for cell in self.cells]}


def arm_name(policy: str, hints: str) -> str:
    """Return the name of an arm: the policy's, and the kind of hints where there are some."""
    return policy if hints == "none" else f"{policy}, {hints} hints"


def compare(plan: ComparePlan, n_workers: int, on_trace: Callable[[], None]) -> Comparison:
    """Replay everything in worker processes, one trace at a time in each; `on_trace` is called after each trace."""
    traces = [(family, seed) for family in plan.families for seed in plan.seeds]
    cells: list[Cell] = []
    # Spawned, not forked: the caller may show progress from a thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_workers, len(traces)), mp_context=context) as pool:
        futures = [pool.submit(compare_on_trace, plan, family, seed) for family, seed in traces]
        for future in as_completed(futures):
            cells += future.result()
            on_trace()
    place = {family: i for i, family in enumerate(plan.families)}
    return Comparison(plan, tuple(sorted(cells, key=lambda cell: (place[cell.family], cell.capacity, cell.seed))))


def compare_on_trace(plan: ComparePlan, family: str, seed: int) -> list[Cell]:
    """Replay all arms and capacities on the trace of a family and seed."""
    recipe = TraceRecipe(family, plan.n_sessions, seed, plan.block_tokens)
    trace = pack_trace(generate(recipe), plan.block_tokens)
    future = look_ahead(trace)
    hints = {kind: hints_for(kind, trace, future, seed) for _, kind in plan.arms()}

    def cells() -> Iterator[Cell]:
        for capacity in plan.capacities:
            n_blocks = max(1, int(capacity * future.peak_live_blocks))
            percent: dict[str, float] = {}
            for policy, kind in plan.arms():
                result = replay_cache_only(trace, future, policy, n_blocks, hints[kind])
                percent[arm_name(policy, kind)] = 100 * result.host_hit_tokens / result.prompt_tokens
            percent[OPTIMAL] = 100 * result.optimal_hit_tokens / result.prompt_tokens
            percent[INFINITE] = 100 * result.infinite_hit_tokens / result.prompt_tokens
            yield Cell(family, seed, capacity, trace.n_requests, future.peak_live_blocks, percent)

    return list(cells())
