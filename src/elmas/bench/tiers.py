"""What each tier is worth: rounds whose working set outgrows the device and host memory, with and without a disk.

The workloads A, B and C are sized for one large GPU whose device cache is capped; `small` is for two cores without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elmas.bench.arms import BLOCK_SIZE, ServerShape
from elmas.bench.comparison import ComparisonPlan, check_arms
from elmas.bench.rounds import RoundsWorkload
from elmas.errors import UserError

WORKLOADS = {
    workload.name: workload
    for workload in (
        RoundsWorkload("small", 54, 5, system_tokens=512, persona_tokens=512, observation_tokens=64, answer_tokens=16),
        RoundsWorkload("A", 160, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32),
        RoundsWorkload("B", 320, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32),
        RoundsWorkload("C", 96, 4, system_tokens=1024, persona_tokens=512, observation_tokens=1536, answer_tokens=32),
    )
}
"""The workloads by name. In A the histories of 160 agents grow to 35 GB of Llama 3 8B's KV, in B to 70, in C to 85."""


@dataclass(frozen=True)
class TierSizes:
    """The sizes of the tiers; without `disk` no arm has a disk tier."""

    n_device_blocks: int
    host_memory: str
    disk: Path | None = None
    disk_capacity: str | None = None
    block_size: int = BLOCK_SIZE


def plan_tiers(
    model: Path,
    names: Sequence[str],
    *,
    arms: Sequence[str],
    sizes: TierSizes,
    n_agents: int | None = None,
    n_rounds: int | None = None,
    max_running: int | None = None,
    n_trials: int = 1,
    restarts: bool = False,
    seed: int = 0,
    vllm_arguments: Sequence[str] = (),
) -> ComparisonPlan:
    """Return the plan for the named workloads; `n_agents` and `n_rounds` replace theirs.

    Without `max_running`, as many requests run at once as the device cache holds. Raises UserError for unknown names
    and sizes that cannot work.
    """
    check_arms(arms)
    if n_trials < 1 or (n_agents or 1) < 1 or (n_rounds or 1) < 1:
        raise UserError("--trials, --agents and --rounds must be at least 1")
    if (sizes.disk is None) != (sizes.disk_capacity is None):
        raise UserError("--disk and --disk-capacity belong together: give both, or none for arms without a disk")
    workloads = tuple(_workload(name, n_agents, n_rounds, seed) for name in names)
    longest = max(workload.longest_request_tokens for workload in workloads)
    shape = ServerShape(
        model=model,
        n_device_blocks=sizes.n_device_blocks,
        max_model_len=longest,
        host_memory=sizes.host_memory,
        max_running=max_running or max(1, (sizes.n_device_blocks - 1) * sizes.block_size // longest),
        vllm_arguments=tuple(vllm_arguments),
        block_size=sizes.block_size,
        disk=sizes.disk,
        disk_capacity=sizes.disk_capacity,
    )
    shape.check()
    return ComparisonPlan("tiers", shape, workloads, tuple(arms), n_trials, restarts)


def _workload(name: str, n_agents: int | None, n_rounds: int | None, seed: int) -> RoundsWorkload:
    try:
        workload = WORKLOADS[name]
    except KeyError:
        raise UserError(f"unknown workload {name!r}: choose from {', '.join(WORKLOADS)}") from None
    return replace(workload, n_agents=n_agents or workload.n_agents, n_rounds=n_rounds or workload.n_rounds, seed=seed)
