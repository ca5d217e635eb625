"""Trials as a run would have left them, made from a seed: for tests of the report."""

from collections.abc import Sequence

import numpy as np

from elmas.bench.machine import Usage
from elmas.bench.suite.trial import (
    CounterCheck,
    Failure,
    Lag,
    RequestColumns,
    Round,
    ServerPart,
    TierBytes,
    TokenCounts,
    Trial,
    WorkloadPart,
)
from elmas.bench.summary import Metrics, Spread, spread

MACHINE = {"processor": "Test CPU", "cores": 2, "memory_bytes": 24 << 30, "gpus": [], "system": "Linux 6.1"}

SPEEDS = {
    "no-apc": 0.8,
    "apc": 1.0,
    "noop": 0.98,
    "mt-apc": 1.9,
    "mt-apc-only-mt": 1.35,
    "mt-apc-only-async": 1.5,
    "mt-apc-no-sched": 1.6,
    "vllm-offload-lru": 1.4,
}
"""Of servers, in multiples of apc; others are as fast as apc."""


def make_trial(
    workload: str, server: str, number: int, n_rounds: int = 5, n_agents: int = 40, *, answer: str = "same"
) -> Trial:
    """Return a complete trial; one round means none."""
    speed = SPEEDS.get(server, 1.0)
    random = np.random.default_rng([number, n_rounds, len(server)])
    n = n_rounds * n_agents
    round_s = 4.0 / speed
    number_of_round = np.repeat(np.arange(n_rounds), n_agents)
    submitted = number_of_round * round_s + random.uniform(0, 0.05, n)
    ttft = random.lognormal(-1.2, 0.5, n) / speed * (1 + 0.1 * number_of_round)
    e2el = ttft + random.uniform(0.1, 0.3, n)
    jct_s = float((submitted + e2el).max())
    reused = 0.0 if server == "no-apc" else min(0.85, 0.45 * speed)
    prompt = n * 900
    device = int(prompt * reused * 0.6)
    host = int(prompt * reused * 0.3) if speed > 1 else 0
    disk = int(prompt * reused * 0.1) if speed > 1.55 else 0
    return Trial(
        workload=WorkloadPart(workload, 0, 0.1, "synthetic", n, 120_000, {"n_agents": n_agents, "n_rounds": n_rounds}),
        server=ServerPart(server, f"elmas serve models/tiny --name {server} --policy <x> & more", {}, 32, 21.0),
        trial=number,
        status="done",
        begun=f"2026-11-26T01:{10 + number:02}:00+00:00",
        machine=MACHINE,
        versions={"elmas": "0.1.0", "vllm": "0.32.0"},
        invocation="elmas bench run --benchmarks all --num-trials 3",
        metrics=Metrics(
            jct_s,
            n,
            0,
            prompt,
            n * 8,
            n / jct_s,
            n * 8 / jct_s,
            (prompt + n * 8) / jct_s,
            _spread(ttft),
            _spread((e2el - ttft) / 7),
            _spread((e2el - ttft) / 7),
            _spread(e2el),
        ),
        tokens=TokenCounts(prompt, device, host, disk, prompt - device - host - disk),
        infinite_hit_rate=0.88,
        bytes=TierBytes(3 << 30, 2 << 30) if speed > 1 else TierBytes(),
        request_digest=f"requests of {workload}",
        output_digest=f"{answer} answers",
        lag=Lag(0.001, 0.001, 0.004, 0.01),
        usage=Usage(jct_s, jct_s * 1.8, 0.4),
        rounds=[
            Round(at, at * round_s, at * round_s + round_s * 0.95, n_agents, float(ttft[number_of_round == at].mean()))
            for at in range(n_rounds)
        ]
        if n_rounds > 1
        else [],
        requests=RequestColumns(
            agent=[f"agent {at % n_agents}" for at in range(n)],
            turn=number_of_round.tolist(),
            round=number_of_round.tolist(),
            submitted_s=submitted.tolist(),
            ttft_s=ttft.tolist(),
            e2el_s=e2el.tolist(),
            n_in=[900] * n,
            n_out=[8] * n,
            cached=[0] * n,
            answer=[answer] * n,
        ),
        counters_check=[CounterCheck("prompt_tokens", prompt, prompt, True)],
    )


def make_trials(
    workloads: Sequence[str], servers: Sequence[str] = tuple(SPEEDS), n_trials: int = 3, n_rounds: int = 5
) -> list[Trial]:
    """Return the trials of a whole run."""
    return [
        make_trial(workload, server, number, n_rounds)
        for workload in workloads
        for server in servers
        for number in range(n_trials)
    ]


def without_result(trial: Trial, status: str, reason: str) -> Trial:
    """Return the trial as if its server had been skipped or had crashed."""
    return Trial(
        workload=trial.workload,
        server=trial.server,
        trial=trial.trial,
        status=status,  # type: ignore[arg-type]
        begun=trial.begun,
        machine=trial.machine,
        versions=trial.versions,
        reason=reason,
    )


def failed(agent: str) -> Failure:
    """Return a request without an answer."""
    return Failure(agent, 0, "<html>503</html> the server is overloaded")


def _spread(values: np.ndarray) -> Spread | None:
    return spread(values.tolist())
