"""The speed benchmark of a small machine: MT-APC against its control, with reuse and without.

Two workloads of closed-loop rounds (`rounds.py`) run on every arm with the same seeds:

reuse      the histories of all agents are three times what the device cache holds, and fit host memory;
no-reuse   no prompt shares a beginning with another: whatever the cache does here is pure cost.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from elmas.bench.arms import BLOCK_SIZE, ServerShape
from elmas.bench.comparison import ComparisonPlan, check_arms
from elmas.bench.rounds import RoundsWorkload
from elmas.errors import UserError

REUSE_FACTOR = 3.0
"""Working set of the workload with reuse, in device caches."""

_MOST_RUNNING = 256


def plan_slice(
    model: Path,
    *,
    arms: Sequence[str],
    n_agents: int | None,
    n_rounds: int,
    n_device_blocks: int,
    host_memory: str,
    n_trials: int,
    scale: float,
    seed: int,
    vllm_arguments: Sequence[str] = (),
) -> ComparisonPlan:
    """Return a plan; without `n_agents`, as many agents as make the working set three times the device cache.

    `scale` multiplies the device blocks, and the agents where they are given. Raises UserError for sizes that cannot
    work.
    """
    if n_trials < 1 or n_rounds < 1 or scale <= 0:
        raise UserError("--trials and --rounds must be at least 1, --scale more than 0")
    check_arms(arms)
    n_device_blocks = max(1, round(n_device_blocks * scale))
    reuse = RoundsWorkload(
        name="reuse",
        n_agents=1,
        n_rounds=n_rounds,
        system_tokens=512,
        persona_tokens=512,
        observation_tokens=64,
        answer_tokens=16,
        seed=seed,
    )
    shape = ServerShape(
        model=model,
        n_device_blocks=n_device_blocks,
        max_model_len=reuse.longest_request_tokens,
        host_memory=host_memory,
        max_running=max(1, min(_MOST_RUNNING, (n_device_blocks - 1) * BLOCK_SIZE // reuse.longest_request_tokens)),
        vllm_arguments=tuple(vllm_arguments),
    )
    shape.check()
    if n_agents is None:
        own_tokens = reuse.working_set_tokens - reuse.system_tokens
        n_agents = max(1, round((REUSE_FACTOR * shape.device_tokens - reuse.system_tokens) / own_tokens))
    else:
        n_agents = max(1, round(n_agents * scale))
    reuse = replace(reuse, n_agents=n_agents)
    # Two rounds are enough here: without reuse the rounds do not differ but in length.
    without = replace(reuse, name="no-reuse", reuse=False, n_rounds=min(2, n_rounds), seed=seed + 1)
    return ComparisonPlan("slice", shape, (reuse, without), tuple(arms), n_trials)
