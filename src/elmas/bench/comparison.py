"""Workloads of closed-loop rounds on several servers that differ in one thing each: the arms.

Every arm gets a fresh server in every trial, with an empty disk directory of its own where it has a disk, and every
second trial visits the arms in reverse order, so that a machine that grows slower or faster during the run does not
favour one of them. All arms get the same requests; their answers are compared token by token.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from elmas.bench.arms import MODEL_NAME, ServerShape, arm_command, running_server
from elmas.bench.client import Endpoint
from elmas.bench.counters import CacheEvents, PromptTokens, read_counters, read_events
from elmas.bench.machine import Usage, UsageMeter, describe_machine, describe_versions
from elmas.bench.progress import RunProgress
from elmas.bench.rounds import RoundsResult, RoundsWorkload, digest, first_difference, play_rounds
from elmas.bench.summary import Metrics, summarise
from elmas.errors import UserError
from elmas.serve.command import ServerCommand
from elmas.serve.process import ServerProcess


@dataclass(frozen=True)
class ComparisonPlan:
    """Everything that decides what is run, under the name of the benchmark."""

    name: str
    shape: ServerShape
    workloads: tuple[RoundsWorkload, ...]
    arms: tuple[str, ...]
    """The first one is the control that the others are compared with."""
    n_trials: int
    restarts: bool = False
    """Whether each server is stopped in the end and started again, to play the last round once more."""


@dataclass(frozen=True)
class WorkloadRun:
    """One workload on one server."""

    arm: str
    trial: int
    workload: str
    summary: Metrics
    tokens: PromptTokens
    """What the server counted meanwhile."""
    events: CacheEvents
    """What the cache of elmas counted meanwhile, by metric; empty for other servers."""
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
class ComparisonResult:
    """The runs of a plan, all or those that have ended, with the exact commands of its servers."""

    plan: ComparisonPlan
    runs: tuple[WorkloadRun, ...]
    commands: dict[str, str]

    @property
    def workload_names(self) -> list[str]:
        """The names under which runs are found, in the order in which they ran."""
        return list(dict.fromkeys(run.workload for run in self.runs))

    def of(self, workload: str, arm: str) -> list[WorkloadRun]:
        """Return the runs of a workload on an arm, by trial."""
        found = [run for run in self.runs if run.workload == workload and run.arm == arm]
        return sorted(found, key=lambda run: run.trial)

    def ratios(self, workload: str, arm: str) -> list[float]:
        """Return the control's JCT over the arm's for every trial: above 1 the arm is faster."""
        return [control.summary.jct_s / run.summary.jct_s for control, run in self._pairs(workload, arm)]

    def differences(self, workload: str, arm: str) -> list[str]:
        """Return for every trial how the arm's answers differ from the control's; "" where they are the same."""
        pairs = self._pairs(workload, arm)
        return [str(first_difference(control.outputs, run.outputs) or "") for control, run in pairs]

    def _pairs(self, workload: str, arm: str) -> list[tuple[WorkloadRun, WorkloadRun]]:
        """The control's run and the arm's, for each trial that both have ended."""
        controls = {run.trial: run for run in self.of(workload, self.plan.arms[0])}
        return [(controls[run.trial], run) for run in self.of(workload, arm) if run.trial in controls]

    @property
    def violations(self) -> list[str]:
        """All violations, each with where it happened."""
        return [
            f"{run.arm}, {run.workload}, trial {run.trial + 1}: {text}" for run in self.runs for text in run.violations
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything that was set and measured as plain values."""
        return {
            "benchmark": self.plan.name,
            "arms": list(self.plan.arms),
            "n_trials": self.plan.n_trials,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "server": {
                name: value if isinstance(value, int | None) else str(value)
                for name, value in asdict(self.plan.shape).items()
                if name != "vllm_arguments"
            },
            "vllm_arguments": list(self.plan.shape.vllm_arguments),
            "commands": self.commands,
            "workloads": [asdict(workload) for workload in self.plan.workloads],
            "ratios_to_control": {
                name: {arm: self.ratios(name, arm) for arm in self.plan.arms[1:]} for name in self.workload_names
            },
            "violations": self.violations,
            "runs": [_run_json(run) for run in self.runs],
        }


def check_arms(arms: Sequence[str]) -> None:
    """Raise UserError unless there are arms, each once."""
    if len(set(arms)) != len(arms) or len(arms) < 1:
        raise UserError("--arms: name every arm once, the control first, for example noop,mt-apc")


def run_comparison(
    plan: ComparisonPlan,
    log_directory: Path,
    progress: RunProgress,
    on_run: Callable[[ComparisonResult], None] = lambda result: None,
) -> ComparisonResult:
    """Run the plan, one server at a time. `on_run` is called after every run with all there is so far.

    Raises UserError when a server does not start.
    """
    runs: list[WorkloadRun] = []
    commands = {}
    for arm in plan.arms:
        with _own_disk(plan.shape) as shape:
            commands[arm] = arm_command(arm, shape).shell_line()  # what cannot work should show now, not after minutes

    def keep(run: WorkloadRun) -> None:
        runs.append(run)
        on_run(ComparisonResult(plan, tuple(runs), commands))

    for trial in range(plan.n_trials):
        arms = plan.arms if trial % 2 == 0 else plan.arms[::-1]
        for arm in arms:
            with _own_disk(plan.shape) as shape:
                _run_arm(plan, arm, trial, arm_command(arm, shape), log_directory, progress, keep)
    return ComparisonResult(plan, tuple(runs), commands)


def _run_arm(
    plan: ComparisonPlan,
    arm: str,
    trial: int,
    command: ServerCommand,
    log_directory: Path,
    progress: RunProgress,
    keep: Callable[[WorkloadRun], None],
) -> None:
    """Run all workloads on one server, and with `restarts` the last round once more on a second one."""
    where = f"trial {trial + 1} of {plan.n_trials}, {arm}"
    log_path = log_directory / f"{plan.name}-{arm.replace(':', '-')}-{trial + 1}.log"
    progress.stage(f"{where}: starting the server")
    with running_server(command, log_path) as (server, _):
        progress.stage(f"{where}: warming up")
        asyncio.run(_play(server, _warm_up(plan.workloads[0])))
        for workload in plan.workloads:
            server.reset_caches()
            progress.stage(f"{where}: {workload.name}", workload.n_agents * workload.n_rounds)
            run = run_workload(server, workload, arm, trial, progress)
            keep(run)
            if workload.reuse:
                progress.stage(f"{where}: {reloaded(workload.name)}", workload.n_agents)
                # In the rounds themselves the device still holds what all agents share, so a tier could keep wrong data
                # for it and nobody would notice.
                httpx.post(f"{server.base_url}/reset_prefix_cache", timeout=30).raise_for_status()
                keep(_run_last_round(server, workload, reloaded(workload.name), run, progress))
    if plan.restarts:
        progress.stage(f"{where}: starting the server again")
        with running_server(command, log_path.with_suffix(".again.log")) as (server, _):
            workload = plan.workloads[-1]
            asyncio.run(_play(server, _warm_up(workload)))
            progress.stage(f"{where}: {restarted(workload.name)}", workload.n_agents)
            keep(_run_last_round(server, workload, restarted(workload.name), run, progress))


def run_workload(
    server: ServerProcess,
    workload: RoundsWorkload,
    arm: str,
    trial: int,
    progress: RunProgress,
    rounds: Sequence[int] | None = None,
) -> WorkloadRun:
    """Run one workload, or some rounds of it, on a server."""
    before, events_before = read_counters(server.metrics()), read_events(server.metrics())
    meter = UsageMeter()
    result = asyncio.run(_play(server, workload, progress, rounds))
    usage = meter.stop()
    samples = server.metrics()
    tokens, events = read_counters(samples) - before, read_events(samples)
    return WorkloadRun(
        arm=arm,
        trial=trial,
        workload=workload.name,
        summary=summarise(result.records),
        tokens=tokens,
        events={name: value - events_before.get(name, 0.0) for name, value in events.items()},
        usage=usage,
        seconds_per_round=tuple(result.seconds_per_round),
        outputs=result.outputs,
        violations=tuple(find_violations(result, tokens)) if rounds is None else (),
    )


def reloaded(workload_name: str) -> str:
    """Return the name in the results of the last round of a workload, played again with an empty device cache."""
    return f"{workload_name}, last round with an empty device cache"


def restarted(workload_name: str) -> str:
    """Return the name in the results of the last round of a workload, played again on a restarted server."""
    return f"{workload_name}, last round after a restart"


def _run_last_round(
    server: ServerProcess, workload: RoundsWorkload, name: str, played: WorkloadRun, progress: RunProgress
) -> WorkloadRun:
    """Play the last round again, under another name in the results, and compare its answers with those of `played`."""
    last = workload.n_rounds - 1
    run = run_workload(server, workload, played.arm, played.trial, progress, rounds=[last])
    difference = first_difference(played.outputs[last:], run.outputs)
    violations = () if difference is None else (f"{name}: answered otherwise: {replace(difference, round_index=last)}",)
    return replace(run, workload=name, violations=violations)


@contextmanager
def _own_disk(shape: ServerShape) -> Iterator[ServerShape]:
    """Give the shape with a directory of its own below its disk directory, which is removed in the end."""
    if shape.disk is None:
        yield shape
        return
    shape.disk.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="elmas-bench-", dir=shape.disk, ignore_cleanup_errors=True) as directory:
        yield replace(shape, disk=Path(directory))


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
    reused = tokens.device + tokens.host + tokens.disk
    if not workload.reuse and reused:
        found.append(f"{reused} prompt tokens were reused though no two prompts have a common beginning")
    # In the first round after a reset only the system prompt can be there, from agents that were served before.
    most_cached = max((record.cached_tokens or 0 for record in result.rounds[0]), default=0)
    if workload.reuse and most_cached > workload.system_tokens:
        found.append(f"{most_cached} prompt tokens were cached in the first round: the caches were not empty")
    return found


async def _play(
    server: ServerProcess,
    workload: RoundsWorkload,
    progress: RunProgress | None = None,
    rounds: Sequence[int] | None = None,
) -> RoundsResult:
    async with Endpoint(server.base_url, MODEL_NAME) as endpoint:
        return await play_rounds(endpoint, workload, on_request=progress.advance if progress else None, rounds=rounds)


def _warm_up(workload: RoundsWorkload) -> RoundsWorkload:
    """Return a short workload that takes the first-use costs: buffers, threads, connections."""
    return replace(
        workload, name="warm-up", n_agents=min(8, workload.n_agents), n_rounds=1, reuse=False, seed=workload.seed + 2
    )


def median_of(runs: Sequence[WorkloadRun], figure: str, part: str = "") -> float:
    """Return the median over trials of a figure ("jct_s"), or of a part of it ("ttft", "mean_s" or "99")."""
    values = [getattr(run.summary, figure) for run in runs]
    if part.isdecimal():
        return float(median(value.percentiles_s[part] for value in values))
    return float(median(getattr(value, part) if part else value for value in values))


def _run_json(run: WorkloadRun) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "trial": run.trial,
        "workload": run.workload,
        "summary": asdict(run.summary),
        "prompt_tokens_by_source": asdict(run.tokens),
        "hit_rates": asdict(run.tokens.rates),
        "cache_events": run.events,
        "usage": asdict(run.usage),
        "seconds_per_round": list(run.seconds_per_round),
        "digest": run.digest,
        "violations": list(run.violations),
        "output_token_ids": run.outputs,
    }
