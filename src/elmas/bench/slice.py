"""The speed benchmark of a small machine: MT-APC against its control, with reuse and without.

Two workloads of closed-loop rounds (`rounds.py`) run on every arm with the same seeds:

reuse      the histories of all agents are three times what the device cache holds, and fit host memory;
no-reuse   no prompt shares a beginning with another: whatever the cache does here is pure cost.

Every arm gets a fresh server in every trial, and every second trial visits the arms in reverse order, so that a machine
that grows slower or faster during the run does not favour one of them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from elmas.bench.arms import (
    BLOCK_SIZE,
    MODEL_NAME,
    ServerShape,
    arm_command,
    prompt_token_counters,
    running_server,
)
from elmas.bench.client import Endpoint
from elmas.bench.counters import PromptTokens
from elmas.bench.machine import Usage, UsageMeter, describe_machine, describe_versions
from elmas.bench.progress import RunProgress
from elmas.bench.rounds import RoundsResult, RoundsWorkload, digest, first_difference, play_rounds
from elmas.bench.summary import LoadSummary, summarise
from elmas.errors import UserError
from elmas.serve.process import ServerProcess

REUSE_FACTOR = 3.0
"""Working set of the workload with reuse, in device caches."""

_MOST_RUNNING = 256


@dataclass(frozen=True)
class SlicePlan:
    """Everything that decides what is run."""

    shape: ServerShape
    workloads: tuple[RoundsWorkload, ...]
    arms: tuple[str, ...]
    """The first one is the control that the others are compared with."""
    n_trials: int


@dataclass(frozen=True)
class WorkloadRun:
    """One workload on one server."""

    arm: str
    trial: int
    workload: str
    summary: LoadSummary
    tokens: PromptTokens
    """What the server counted meanwhile."""
    usage: Usage
    seconds_per_round: tuple[float, ...]
    outputs: list[list[list[int]]]
    """Output token ids by round and agent."""
    violations: tuple[str, ...]
    """What must not happen and did; empty for a sound run."""

    @property
    def digest(self) -> str:
        """Equal digests mean equal answers."""
        return digest(self.outputs)


@dataclass(frozen=True)
class SliceResult:
    """All runs of a plan, with the exact commands of its servers."""

    plan: SlicePlan
    runs: tuple[WorkloadRun, ...]
    commands: dict[str, str]

    def of(self, workload: str, arm: str) -> list[WorkloadRun]:
        """Return the runs of a workload on an arm, by trial."""
        found = [run for run in self.runs if run.workload == workload and run.arm == arm]
        return sorted(found, key=lambda run: run.trial)

    def ratios(self, workload: str, arm: str) -> list[float]:
        """Return the control's JCT over the arm's for every trial: above 1 the arm is faster."""
        pairs = zip(self.of(workload, self.plan.arms[0]), self.of(workload, arm), strict=True)
        return [control.summary.jct_s / run.summary.jct_s for control, run in pairs]

    def differences(self, workload: str, arm: str) -> list[str]:
        """Return for every trial how the arm's answers differ from the control's; "" where they are the same."""
        pairs = zip(self.of(workload, self.plan.arms[0]), self.of(workload, arm), strict=True)
        return [str(first_difference(control.outputs, run.outputs) or "") for control, run in pairs]

    @property
    def violations(self) -> list[str]:
        """All violations, each with where it happened."""
        return [
            f"{run.arm}, {run.workload}, trial {run.trial + 1}: {text}" for run in self.runs for text in run.violations
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything that was set and measured as plain values."""
        return {
            "benchmark": "slice",
            "arms": list(self.plan.arms),
            "n_trials": self.plan.n_trials,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "server": {**asdict(self.plan.shape), "model": str(self.plan.shape.model), "block_size": BLOCK_SIZE},
            "commands": self.commands,
            "workloads": [asdict(workload) for workload in self.plan.workloads],
            "ratios_to_control": {
                workload.name: {arm: self.ratios(workload.name, arm) for arm in self.plan.arms[1:]}
                for workload in self.plan.workloads
            },
            "violations": self.violations,
            "runs": [_run_json(run) for run in self.runs],
        }


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
) -> SlicePlan:
    """Return a plan; without `n_agents`, as many agents as make the working set three times the device cache.

    `scale` multiplies the device blocks, and the agents where they are given. Raises UserError for sizes that cannot
    work.
    """
    if n_trials < 1 or n_rounds < 1 or scale <= 0:
        raise UserError("--trials and --rounds must be at least 1, --scale more than 0")
    if len(set(arms)) != len(arms) or len(arms) < 1:
        raise UserError("--arms: name every arm once, the control first, for example noop,mt-apc")
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
    return SlicePlan(shape, (reuse, without), tuple(arms), n_trials)


def run_slice(plan: SlicePlan, log_directory: Path, progress: RunProgress) -> SliceResult:
    """Run the plan, one server at a time. Raises UserError when a server does not start."""
    runs: list[WorkloadRun] = []
    commands = {}
    for arm in plan.arms:
        arm_command(arm, plan.shape)  # what cannot work should not show after ten minutes
    for trial in range(plan.n_trials):
        arms = plan.arms if trial % 2 == 0 else plan.arms[::-1]
        for arm in arms:
            where = f"trial {trial + 1} of {plan.n_trials}, {arm}"
            command = arm_command(arm, plan.shape)
            commands[arm] = command.shell_line()
            progress.stage(f"{where}: starting the server")
            with running_server(command, log_directory / f"slice-{arm}-{trial + 1}.log") as (server, _):
                progress.stage(f"{where}: warming up")
                asyncio.run(_play(server, _warm_up(plan.workloads[0])))
                for workload in plan.workloads:
                    progress.stage(f"{where}: {workload.name}", workload.n_agents * workload.n_rounds)
                    runs.append(run_workload(server, workload, arm, trial, progress))
    return SliceResult(plan, tuple(runs), commands)


def run_workload(
    server: ServerProcess, workload: RoundsWorkload, arm: str, trial: int, progress: RunProgress
) -> WorkloadRun:
    """Empty the server's caches and run one workload on it."""
    server.reset_caches()
    before = prompt_token_counters(server)
    meter = UsageMeter()
    result = asyncio.run(_play(server, workload, progress))
    usage = meter.stop()
    tokens = prompt_token_counters(server) - before
    violations = find_violations(result, tokens)
    if workload.reuse:
        progress.stage(f"{arm}: the last round again, from the tiers below the device")
        violations += asyncio.run(_find_reload_differences(server, result))
    return WorkloadRun(
        arm=arm,
        trial=trial,
        workload=workload.name,
        summary=summarise(result.records),
        tokens=tokens,
        usage=usage,
        seconds_per_round=tuple(result.seconds_per_round),
        outputs=result.outputs,
        violations=tuple(violations),
    )


def find_violations(result: RoundsResult, tokens: PromptTokens) -> list[str]:
    """Return what makes a run worthless: failed requests, wrong lengths, or reuse where there is nothing to reuse."""
    workload = result.workload
    found = []
    failed = [record.error for record in result.records if record.error is not None]
    if failed:
        found.append(f"{len(failed)} requests failed, the first with: {failed[0]}")
    n_short = sum(
        record.error is None and record.completion_tokens != workload.answer_tokens for record in result.records
    )
    if n_short:
        found.append(f"{n_short} answers do not have {workload.answer_tokens} tokens")
    if tokens.total != workload.total_prompt_tokens and not failed:
        found.append(f"the server counted {tokens.total} prompt tokens, {workload.total_prompt_tokens} were sent")
    reused = tokens.device + tokens.host
    if not workload.reuse and reused:
        found.append(f"{reused} prompt tokens were reused though no two prompts have a common beginning")
    # In the first round after a reset only the system prompt can be there, from agents that were served before.
    most_cached = max((record.cached_tokens or 0 for record in result.rounds[0]), default=0)
    if workload.reuse and most_cached > workload.system_tokens:
        found.append(f"{most_cached} prompt tokens were cached in the first round: the caches were not empty")
    return found


async def _find_reload_differences(server: ServerProcess, result: RoundsResult) -> list[str]:
    """Empty the device's cache only, play the last round again and return what is answered otherwise.

    In the rounds themselves the device still holds what all agents share, so a tier could keep wrong data for it and
    nobody would notice.
    """
    httpx.post(f"{server.base_url}/reset_prefix_cache", timeout=30).raise_for_status()
    last = len(result.rounds) - 1
    async with Endpoint(server.base_url, MODEL_NAME) as endpoint:
        again = await play_rounds(endpoint, result.workload, rounds=[last])
    difference = first_difference(result.outputs[last:], again.outputs)
    if difference is None:
        return []
    where = replace(difference, round_index=last)
    return [f"with an empty device cache the last round is answered otherwise: {where}"]


async def _play(server: ServerProcess, workload: RoundsWorkload, progress: RunProgress | None = None) -> RoundsResult:
    async with Endpoint(server.base_url, MODEL_NAME) as endpoint:
        return await play_rounds(endpoint, workload, on_request=progress.advance if progress else None)


def _warm_up(workload: RoundsWorkload) -> RoundsWorkload:
    """Return a short workload that takes the first-use costs: buffers, threads, connections."""
    return replace(
        workload, name="warm-up", n_agents=min(8, workload.n_agents), n_rounds=1, reuse=False, seed=workload.seed + 2
    )


def median_of(runs: Sequence[WorkloadRun], figure: str, part: str = "") -> float:
    """Return the median over trials of a figure of the summary ("jct_s"), or of a part of it ("ttft", "p99_s")."""
    values = [getattr(run.summary, figure) for run in runs]
    return float(median(getattr(value, part) if part else value for value in values))


def _run_json(run: WorkloadRun) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "trial": run.trial,
        "workload": run.workload,
        "summary": {
            **asdict(run.summary),
            "output_tokens_per_s": run.summary.output_tokens_per_s,
            "prompt_tokens_per_s": run.summary.prompt_tokens_per_s,
        },
        "prompt_tokens_by_source": asdict(run.tokens),
        "hit_rates": asdict(run.tokens.rates),
        "usage": asdict(run.usage),
        "seconds_per_round": list(run.seconds_per_round),
        "digest": run.digest,
        "violations": list(run.violations),
        "output_token_ids": run.outputs,
    }
