"""What the cache costs vLLM's scheduler: the measurement of `elmas.vllm.scheduler_cost` against its budgets."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from elmas.bench.evictions import EvictionCost, eviction_costs
from elmas.bench.machine import describe_machine, describe_versions
from elmas.vllm.disk_cost import DiskCost, disk_cost
from elmas.vllm.scheduler_cost import RequestCost, StepCost, request_costs, step_costs

SIZES = (16, 64, 256, 1024, 2000)
"""Blocks of the requests that are timed."""

PINNED_ROWS = 1 << 20
"""Rows of the host memory whose rows are all pinned."""


@dataclass(frozen=True)
class SchedulerResult:
    """All measurements of one run."""

    requests: Sequence[RequestCost]
    steps: Sequence[StepCost]
    disk: DiskCost
    evictions: Sequence[EvictionCost]

    @property
    def within_budget(self) -> bool:
        """Whether every measurement keeps to its budget."""
        costs: list[RequestCost | StepCost | EvictionCost] = [*self.requests, *self.steps, *self.evictions]
        return (
            all(cost.microseconds <= cost.budget_microseconds for cost in costs)
            and self.disk.disk.request_microseconds <= self.disk.budget_microseconds
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": "scheduler",
            "machine": describe_machine(),
            "versions": describe_versions(),
            "requests": [{**asdict(cost), "budget_microseconds": cost.budget_microseconds} for cost in self.requests],
            "steps": [{**asdict(cost), "budget_microseconds": cost.budget_microseconds} for cost in self.steps],
            "disk": {**asdict(self.disk), "budget_microseconds": self.disk.budget_microseconds},
            "evictions": [{**asdict(cost), "budget_microseconds": cost.budget_microseconds} for cost in self.evictions],
        }


def measure_scheduler(model: Path, n_waiting: int, n_waiting_for_disk: int) -> SchedulerResult:
    """Return the costs per request, by size, per step with `n_waiting` requests waiting, with a queue of
    `n_waiting_for_disk` whose blocks are all on disk, and of finding room where all rows are pinned."""
    return SchedulerResult(
        request_costs(str(model), SIZES),
        step_costs(str(model), n_waiting),
        disk_cost(str(model), n_waiting_for_disk),
        eviction_costs(PINNED_ROWS),
    )


def request_table(result: SchedulerResult) -> Table:
    """Return the costs per request."""
    table = Table(title="connector, per request, all blocks in host memory", title_justify="left")
    for heading in ("blocks", "us", "budget, us"):
        table.add_column(heading, justify="right")
    for cost in result.requests:
        table.add_row(str(cost.n_blocks), f"{cost.microseconds:.0f}", f"{cost.budget_microseconds:.0f}")
    return table


def step_table(result: SchedulerResult) -> Table:
    """Return the costs per step."""
    table = Table(title="scheduler, per step", title_justify="left")
    headings = (
        "waiting",
        "in host memory",
        "begin",
        "us",
        "of that the order",
        "no-op connector, us",
        "budget, us",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for cost in result.steps:
        table.add_row(
            str(cost.n_waiting),
            f"{cost.resident_share:.0%}",
            str(cost.n_admitted),
            f"{cost.microseconds:.0f}",
            f"{cost.order_microseconds:.0f}",
            f"{cost.noop_microseconds:.0f}",
            f"{cost.budget_microseconds:.0f}",
        )
    return table


def disk_table(result: SchedulerResult) -> Table:
    """Return the costs with everything on disk, and for comparison in host memory."""
    cost = result.disk
    table = Table(title=f"{cost.n_waiting} requests of {cost.n_blocks} blocks waiting at once", title_justify="left")
    for heading in ("", "all on disk, us", "all in host memory, us", "budget, us"):
        table.add_column(heading, justify="right" if heading else "left")
    for heading, figure, budget in (
        ("connector and I/O orders, per request", "request_microseconds", f"{cost.budget_microseconds:.0f}"),
        ("  of that at its arrival", "arrival_microseconds", ""),
        ("a whole step, median", "step_microseconds", ""),
        ("a whole step, longest", "longest_step_microseconds", ""),
        ("steps", "n_steps", ""),
    ):
        table.add_row(heading, *(f"{getattr(each, figure):.0f}" for each in (cost.disk, cost.host)), budget)
    return table


def eviction_table(result: SchedulerResult) -> Table:
    """Return the costs of finding room in host memory that waiting requests have pinned."""
    table = Table(title=f"room for 16 blocks, {result.evictions[0].n_rows} rows pinned but for", title_justify="left")
    for heading in ("policy", "unpinned", "us", "budget, us"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for cost in result.evictions:
        table.add_row(cost.policy, str(cost.n_unpinned), f"{cost.microseconds:.0f}", f"{cost.budget_microseconds:.0f}")
    return table
