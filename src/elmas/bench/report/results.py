"""What the trials of a directory say together: one entry per workload and server. Pure: no file, no clock, no markup.

Trials with one number belong together: they ran next to each other in time. Ratios are of such pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elmas.bench.report.figures import FIGURES
from elmas.bench.suite.pairs import count_different_answers, paired
from elmas.bench.suite.statistics import Estimate, mean_estimate, ratio_estimate
from elmas.bench.suite.trial import Trial, WorkloadPart
from elmas.errors import UserError
from elmas.serve.configurations import CONFIGURATIONS

TIERS = ("device", "host", "disk", "recomputed")
"""Where prompt tokens come from, the nearest first."""

_BASELINES = ("apc", "noop", "no-apc")
"""What others are compared with unless somebody says so, as far as it was run."""

_N_PARTS = 20
"""A run without rounds is shown in this many parts."""


@dataclass(frozen=True)
class Timeline:
    """Mean time to first token in the course of a run, over all trials. `x` are rounds from 1 on, or percentages of the
    requests sent."""

    by_round: bool
    x: tuple[float, ...]
    ttft_s: tuple[float, ...]
    seconds: tuple[float, ...]
    """How long each round took; nothing without rounds."""


@dataclass(frozen=True)
class ServerResult:
    """One server on one workload. `ratios` are its figures divided by the baseline's, by figure."""

    name: str
    done: tuple[Trial, ...]
    other: tuple[Trial, ...]
    """Those that were skipped, or crashed."""
    estimates: dict[str, Estimate]
    ratios: dict[str, Estimate]
    shares: dict[str, float]
    """Of the prompt tokens, by tier, from 0 to 1, over all trials; nothing where the server does not count them."""
    infinite_share: float | None
    ttft_s: NDArray[np.float64] = field(repr=False)
    """Of all requests of all trials, ascending."""
    timeline: Timeline | None = None
    n_answers_differ: int | None = None
    """Answers that differ from the baseline's, over all pairs of trials; None where they cannot be compared."""
    n_answers_compared: int = 0


@dataclass(frozen=True)
class WorkloadResult:
    """All servers on one workload, in the order of the report."""

    part: WorkloadPart
    baseline: str
    servers: tuple[ServerResult, ...]
    requests_agree: bool
    """Whether all trials sent the same requests."""

    def of(self, server: str) -> ServerResult | None:
        """Return what a server did; None where it was not asked to."""
        return next((each for each in self.servers if each.name == server), None)

    @property
    def measured(self) -> tuple[ServerResult, ...]:
        """The servers with at least one complete trial."""
        return tuple(each for each in self.servers if each.done)

    @property
    def n_trials(self) -> int:
        """The most complete trials that any server has."""
        return max((len(each.done) for each in self.servers), default=0)


@dataclass(frozen=True)
class Results:
    """Everything a report shows. `servers` are all names, in the order of the report."""

    baseline: str
    servers: tuple[str, ...]
    workloads: tuple[WorkloadResult, ...]
    trials: tuple[Trial, ...]


def collect(trials: Sequence[Trial], baseline: str | None = None) -> Results:
    """Return what the trials say together.

    `baseline` is the server that ratios refer to; None: apc where it was run, else noop, else the first that was. A
    workload on which the baseline did not run has no ratios. Raises UserError for no trials, or an unknown baseline.
    """
    if not trials:
        raise UserError("there are no results of elmas bench run in this directory: run a benchmark first")
    known = list(CONFIGURATIONS)
    names = {trial.server.name for trial in trials}
    servers = sorted(names, key=lambda name: (_place(name, known), name))
    measured = {trial.server.name for trial in trials if trial.status == "done"}
    if baseline is None:
        baseline = next((name for name in (*_BASELINES, *servers) if name in measured), servers[0])
    elif baseline not in names:
        raise UserError(f"--baseline is {baseline!r}, which was not run: choose one of {', '.join(servers)}")
    by_workload: dict[str, list[Trial]] = {}
    for trial in trials:
        by_workload.setdefault(trial.workload.name, []).append(trial)
    workloads = tuple(_workload(group, servers, baseline) for group in by_workload.values())
    return Results(baseline, tuple(servers), workloads, tuple(trials))


def ratios(trials: Sequence[Trial], base: Sequence[Trial]) -> dict[str, Estimate]:
    """Return the figures of `trials` divided by those of the trials in `base` with the same number."""
    found = {}
    for key, figure in FIGURES.items():
        estimate = ratio_estimate(*paired(trials, base, figure.of))
        if estimate is not None:
            found[key] = estimate
    return found


def speed(results: Results, name: str) -> tuple[Estimate, int] | None:
    """Return how many times as fast as the baseline a server finished its jobs, and on how many workloads; or None.

    It is the geometric mean over the workloads that both completed, which does not depend on which of the two is called
    the baseline (Fleming and Wallace, "How not to lie with statistics", CACM 1986). The interval is over trials.
    """
    jct = FIGURES["jct"]
    by_number: dict[int, list[float]] = {}
    n_workloads = 0
    for workload in results.workloads:
        server, base = workload.of(name), workload.of(results.baseline)
        if server is None or base is None:
            continue
        ours, theirs = ({trial.trial: jct.of(trial) for trial in each.done} for each in (server, base))
        pairs = {number: (theirs[number], value) for number, value in ours.items() if value and theirs.get(number)}
        n_workloads += bool(pairs)
        for number, (base_s, own_s) in pairs.items():
            by_number.setdefault(number, []).append(math.log((base_s or 0.0) / (own_s or 1.0)))
    means = [math.exp(sum(logs) / len(logs)) for logs in by_number.values() if len(logs) == n_workloads]
    estimate = ratio_estimate(means, [1.0] * len(means))
    return None if estimate is None else (estimate, n_workloads)


def inverse(ratio: Estimate) -> Estimate:
    """Return the ratio of the other way round."""
    low, high = (None if each is None else 1 / each for each in (ratio.high, ratio.low))
    return Estimate(1 / ratio.value, ratio.n, low, high)


def _place(name: str, known: list[str]) -> int:
    base = name.split(":")[0]
    return known.index(base) if base in known else len(known)


def _workload(trials: Sequence[Trial], servers: Sequence[str], baseline: str) -> WorkloadResult:
    base = [trial for trial in trials if trial.server.name == baseline and trial.status == "done"]
    results = []
    for name in servers:
        of_server = [trial for trial in trials if trial.server.name == name]
        if of_server:
            results.append(_server(name, of_server, base))
    digests = {trial.request_digest for trial in trials if trial.request_digest is not None}
    return WorkloadResult(trials[0].workload, baseline, tuple(results), len(digests) <= 1)


def _server(name: str, trials: Sequence[Trial], base: Sequence[Trial]) -> ServerResult:
    done: tuple[Trial, ...] = tuple(trial for trial in trials if trial.status == "done")
    estimates = {}
    for key, figure in FIGURES.items():
        values = [value for trial in done if (value := figure.of(trial)) is not None]
        estimate = mean_estimate(values)
        if estimate is not None:
            estimates[key] = estimate
    counted = [trial.tokens for trial in done if trial.tokens is not None and trial.tokens.prompt]
    n_prompt = sum(tokens.prompt for tokens in counted)
    infinite = [trial.infinite_hit_rate for trial in done if trial.infinite_hit_rate is not None]
    ttft = [value for trial in done if trial.requests for value in trial.requests.ttft_s if value is not None]
    n_differ, n_compared = count_different_answers(done, base)
    return ServerResult(
        name=name,
        done=done,
        other=tuple(trial for trial in trials if trial.status != "done"),
        estimates=estimates,
        ratios=ratios(done, base),
        shares={tier: sum(getattr(each, tier) for each in counted) / n_prompt for tier in TIERS} if n_prompt else {},
        infinite_share=sum(infinite) / len(infinite) if infinite else None,
        ttft_s=np.sort(np.array(ttft, dtype=np.float64)),
        timeline=_timeline(done),
        n_answers_differ=n_differ if n_compared else None,
        n_answers_compared=n_compared,
    )


def _timeline(trials: Sequence[Trial]) -> Timeline | None:
    rounds: dict[int, list[tuple[float | None, float]]] = {}
    for trial in trials:
        for each in trial.rounds:
            rounds.setdefault(each.round, []).append((each.ttft_mean_s, each.end_s - each.begin_s))
    if len(rounds) > 1:
        x, ttft, seconds = [], [], []
        for place, number in enumerate(sorted(rounds)):
            means = [mean for mean, _ in rounds[number] if mean is not None]
            if means:
                x.append(float(place + 1))
                ttft.append(sum(means) / len(means))
                seconds.append(sum(length for _, length in rounds[number]) / len(rounds[number]))
        return Timeline(True, tuple(x), tuple(ttft), tuple(seconds))
    parts: list[list[float]] = [[] for _ in range(_N_PARTS)]
    for trial in trials:
        values = trial.requests.ttft_s if trial.requests is not None else []
        for place, value in enumerate(values):
            if value is not None:
                parts[place * _N_PARTS // len(values)].append(value)
    points = [((place + 1) * 100 / _N_PARTS, sum(part) / len(part)) for place, part in enumerate(parts) if part]
    if len(points) < 2:
        return None
    return Timeline(False, tuple(at for at, _ in points), tuple(value for _, value in points), ())
