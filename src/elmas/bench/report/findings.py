"""What a reader must know before believing the plots: failures, answers that differ, missing trials, stand-ins."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from elmas.bench.report.results import Results, ServerResult, WorkloadResult

SYNTHETIC = "synthetic"
"""The source of a workload that was generated instead of read from its data set."""

_MOST_REASON = 300
_MOST_EXAMPLES = 3
_LATE_S = 0.02
"""A client that is later than this at P99 measures itself."""

_BUSY_SHARE = 0.1
"""Of all processors. More than that in other hands changes times by as much as servers differ."""

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One statement, and how bad it is."""

    level: Level
    text: str


@dataclass(frozen=True)
class Missing:
    """Trials that gave no result, with the reason."""

    workload: str
    server: str
    status: str
    trials: str
    reason: str


@dataclass(frozen=True)
class Problem:
    """Something that went wrong in trials that gave a result."""

    workload: str
    server: str
    text: str


def findings(results: Results) -> list[Finding]:
    """Return the statements at the top of a report, the worst first."""
    found = [_missing_finding(results), _failure_finding(results), _answer_finding(results)]
    if not all(workload.requests_agree for workload in results.workloads):
        names = ", ".join(each.part.name for each in results.workloads if not each.requests_agree)
        found.append(Finding("bad", f"Servers were sent different requests on {names}"))
    if problems(results):
        found.append(Finding("bad", f"{_n(len(problems(results)), 'violation')} of what must hold"))
    found.append(_source_finding(results))
    if results.workloads and max(workload.n_trials for workload in results.workloads) < 2:
        found.append(Finding("note", "One trial each: no intervals can be given"))
    found += [_lag_finding(results), _load_finding(results)]
    order: list[Level] = ["bad", "note", "good"]
    return sorted((each for each in found if each is not None), key=lambda each: order.index(each.level))


def missing(results: Results) -> list[Missing]:
    """Return the trials without a result; those of one server with one reason together."""
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for workload, server in _each(results):
        for trial in server.other:
            reason = " ".join((trial.reason or "no reason was recorded").split())
            key = (workload.part.name, server.name, trial.status, reason)
            groups.setdefault(key, []).append(trial.trial + 1)
    return [
        Missing(workload, server, status, ", ".join(map(str, numbers)), _short(reason))
        for (workload, server, status, reason), numbers in groups.items()
    ]


def problems(results: Results) -> list[Problem]:
    """Return what must not happen and did: violations, and figures that the server counts otherwise."""
    found = []
    for workload, server in _each(results):
        for trial in server.done:
            where = f"trial {trial.trial + 1}: "
            texts = list(trial.violations)
            texts += [
                f"{check.name} is {check.client:g} by the client and {check.server:g} by the server"
                for check in trial.counters_check
                if not check.agrees
            ]
            found += [Problem(workload.part.name, server.name, where + text) for text in texts]
    return found


def failed_requests(results: Results) -> list[Problem]:
    """Return the requests without a complete answer, counted by their error."""
    found = []
    for workload, server in _each(results):
        errors = Counter(_short(failure.error) for trial in server.done for failure in trial.failures)
        found += [
            Problem(workload.part.name, server.name, f"{_n(n, 'request')}: {error}")
            for error, n in errors.most_common(_MOST_EXAMPLES)
        ]
    return found


def answers_text(server: ServerResult, baseline: str) -> str:
    """Return how a server's answers compare with the baseline's, in a few words."""
    if server.name == baseline:
        return "baseline"
    if server.n_answers_differ is None:
        return "not compared"
    if server.n_answers_differ == 0:
        return "the same"
    return f"{server.n_answers_differ:,} of {server.n_answers_compared:,} differ"


def source_text(workload: WorkloadResult) -> str:
    """Return where a workload's requests come from."""
    if workload.part.source == SYNTHETIC:
        return "synthetic stand-in"
    # A path says more about its owner than about the data.
    return workload.part.source.replace("\\", "/").rsplit("/", 1)[-1]


def _missing_finding(results: Results) -> Finding | None:
    lacking = missing(results)
    if not lacking:
        return None
    crashed = sum(each.status == "crashed" for each in lacking)
    words = f"{_n(crashed, 'server')} crashed, {len(lacking) - crashed} skipped" if crashed else ""
    return Finding("bad" if crashed else "note", words or f"{_n(len(lacking), 'arm')} skipped, with reasons below")


def _failure_finding(results: Results) -> Finding:
    n_failed = sum(len(trial.failures) for _, server in _each(results) for trial in server.done)
    n_sent = sum(
        trial.metrics.n_requests for _, server in _each(results) for trial in server.done if trial.metrics is not None
    )
    if n_failed:
        return Finding("bad", f"{n_failed:,} of {n_sent:,} requests failed")
    return Finding("good", f"All {n_sent:,} requests answered")


def _answer_finding(results: Results) -> Finding:
    compared = [
        server
        for workload, server in _each(results)
        if server.n_answers_differ is not None and server.name != workload.baseline
    ]
    n_differ = sum(server.n_answers_differ or 0 for server in compared)
    n_compared = sum(server.n_answers_compared for server in compared)
    if not n_compared:
        return Finding("note", "Answers of different servers could not be compared")
    if n_differ:
        # Different batches round differently: a few answers may differ without anything being wrong.
        return Finding("note", f"{n_differ:,} of {n_compared:,} answers differ from those of {results.baseline}")
    return Finding("good", f"All answers equal those of {results.baseline}")


def _source_finding(results: Results) -> Finding | None:
    synthetic = [each.part.name for each in results.workloads if each.part.source == SYNTHETIC]
    if not synthetic:
        return Finding("good", "Requests from the published data sets")
    n_all = len(results.workloads)
    which = "all workloads" if len(synthetic) == n_all else ", ".join(synthetic)
    return Finding("note", f"Synthetic stand-ins for data sets: {which}")


def _lag_finding(results: Results) -> Finding | None:
    lags = [trial.lag.p99_s for _, server in _each(results) for trial in server.done if trial.lag is not None]
    if not lags:
        return None
    late = max(lags)
    level: Level = "note" if late > _LATE_S else "good"
    return Finding(level, f"Client lag P99 at most {late * 1000:.1f} ms")


def _load_finding(results: Results) -> Finding | None:
    """Other programs take time from a server, and not from all alike."""
    shares = [
        trial.usage.other_cpu_s / (trial.usage.wall_s * trial.machine.get("cores", 1))
        for _, server in _each(results)
        for trial in server.done
        if trial.usage is not None and trial.usage.wall_s > 0
    ]
    if not shares or max(shares) < _BUSY_SHARE:
        return None
    return Finding(
        "bad", f"Other programs used up to {100 * max(shares):.0f}% of the processors: times are not comparable"
    )


def _each(results: Results) -> Iterable[tuple[WorkloadResult, ServerResult]]:
    return ((workload, server) for workload in results.workloads for server in workload.servers)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_REASON else text[: _MOST_REASON - 1] + "…"


def _n(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
