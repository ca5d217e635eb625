"""All trials of a result directory as one tidy table, as estimates per server, and against each other."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elmas.bench.suite.pairs import count_different_answers, paired
from elmas.bench.suite.statistics import Estimate, mean_estimate, ratio_estimate
from elmas.bench.suite.trial import Trial
from elmas.bench.summary import Spread
from elmas.errors import UserError

CSV_NAME = "results.csv"
_COLUMNS = ("workload", "server", "trial", "metric", "value")


@dataclass(frozen=True)
class Row:
    """One figure of one trial; the name of the metric ends in its unit."""

    workload: str
    server: str
    trial: int
    """From 1, as in file names."""
    metric: str
    value: float


@dataclass(frozen=True)
class Results:
    """The trials of a directory."""

    trials: tuple[Trial, ...]

    @property
    def workloads(self) -> list[str]:
        """The workloads, by name."""
        return sorted({trial.workload.name for trial in self.trials})

    def servers(self, workload: str) -> list[str]:
        """The servers of a workload, in the order in which their first trials were begun."""
        found = sorted((t for t in self.trials if t.workload.name == workload), key=lambda t: (t.trial, t.begun))
        return list(dict.fromkeys(trial.server.name for trial in found))

    def of(self, workload: str, server: str) -> list[Trial]:
        """The trials of a pair, done or not, by number."""
        found = [t for t in self.trials if (t.workload.name, t.server.name) == (workload, server)]
        return sorted(found, key=lambda trial: trial.trial)

    def estimate(self, workload: str, server: str, metric: str) -> Estimate | None:
        """Return the mean of a metric over the trials of a pair; None where it was not measured."""
        values = [value for trial in self.of(workload, server) if (value := metrics_of(trial).get(metric)) is not None]
        return mean_estimate(values)

    def ratio(self, workload: str, baseline: str, server: str, metric: str = "jct_s") -> Estimate | None:
        """Return the baseline's metric over the server's, over all trials that both have; None without any.

        For a duration, above 1 means that the server is faster.
        """
        ours, theirs = paired(
            self.of(workload, server), self.of(workload, baseline), lambda trial: metrics_of(trial).get(metric)
        )
        return ratio_estimate(theirs, ours)

    def n_different_answers(self, workload: str, baseline: str, server: str) -> int | None:
        """Return how many answers of a server differ from the baseline's in trials that both have; None without any."""
        done, base = ([t for t in self.of(workload, name) if t.status == "done"] for name in (server, baseline))
        n_different, n_compared = count_different_answers(done, base)
        return n_different if n_compared else None

    @property
    def problems(self) -> list[str]:
        """What makes trials worthless, in words: crashes, violations, and requests that were not the same."""
        found = []
        for trial in self.trials:
            where = f"{trial.server.name}, {trial.workload.name}, trial {trial.trial + 1}"
            if trial.status == "crashed":
                found.append(f"{where}: crashed: {(trial.reason or '').splitlines()[0]}")
            found.extend(f"{where}: {text}" for text in trial.violations)
        for workload in self.workloads:
            digests = {t.request_digest for t in self.trials if t.workload.name == workload and t.status == "done"}
            if len(digests) > 1:
                found.append(f"{workload}: the servers did not all get the same requests")
            answers = {t.output_digest for t in self.trials if t.workload.name == workload and t.status == "done"}
            if len(answers) > 1:
                found.append(f"{workload}: the servers did not all give the same answers")
        return found

    def check_baseline(self, baseline: str) -> None:
        """Raise UserError when no trial is of `baseline`."""
        names = sorted({trial.server.name for trial in self.trials})
        if baseline not in names:
            raise UserError(f"--baseline {baseline!r} has no results: choose from {', '.join(names)}")


def metrics_of(trial: Trial) -> dict[str, float]:
    """Return all figures of a trial by name; nothing for one that was skipped or crashed."""
    metrics, tokens = trial.metrics, trial.tokens
    if trial.status != "done" or metrics is None:
        return {}
    found: dict[str, float | None] = {
        "jct_s": metrics.jct_s,
        "requests_per_s": metrics.requests_per_s,
        "output_tokens_per_s": metrics.output_tokens_per_s,
        "total_tokens_per_s": metrics.total_tokens_per_s,
        "requests": metrics.n_requests,
        "failed_requests": metrics.n_failed,
        "prompt_tokens": metrics.prompt_tokens,
        "output_tokens": metrics.output_tokens,
    }
    for name, spread in (("ttft", metrics.ttft), ("tpot", metrics.tpot), ("itl", metrics.itl), ("e2el", metrics.e2el)):
        found |= _spread_metrics(name, spread)
    if tokens is not None and tokens.prompt:
        for tier in ("device", "host", "disk", "recomputed"):
            found[f"prompt_{tier}_share"] = getattr(tokens, tier) / tokens.prompt
        found |= {"hit_rate": trial.hit_rate, "preemptions": tokens.preemptions}
    found["infinite_hit_rate"] = trial.infinite_hit_rate
    if trial.bytes is not None:
        for direction in ("device_to_host", "host_to_device", "host_to_disk", "disk_to_host"):
            found[f"{direction}_bytes"] = getattr(trial.bytes, direction)
    if trial.lag is not None:
        found["client_lag_p99_s"] = trial.lag.p99_s
    if trial.usage is not None:
        found |= {"server_cpu_s": trial.usage.server_cpu_s, "other_cpu_s": trial.usage.other_cpu_s}
    return {name: float(value) for name, value in found.items() if value is not None}


def rows(trials: Iterable[Trial]) -> list[Row]:
    """Return one row per workload, server, trial and metric."""
    return [
        Row(trial.workload.name, trial.server.name, trial.trial + 1, metric, value)
        for trial in trials
        for metric, value in metrics_of(trial).items()
    ]


def write_csv(trials: Sequence[Trial], path: Path) -> None:
    """Write the tidy table of all trials."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((row.workload, row.server, row.trial, row.metric, f"{row.value:.9g}") for row in rows(trials))


def _spread_metrics(name: str, spread: Spread | None) -> dict[str, float | None]:
    if spread is None:
        return {}
    found: dict[str, float | None] = {
        f"{name}_mean_s": spread.mean_s,
        f"{name}_median_s": spread.median_s,
        f"{name}_std_s": spread.std_s,
    }
    return found | {f"{name}_p{percent}_s": value for percent, value in spread.percentiles_s.items()}
