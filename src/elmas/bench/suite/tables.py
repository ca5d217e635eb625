"""Results of the suite as tables for a terminal. Knows what was measured and nothing about how."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from elmas.bench.suite.results import Results
from elmas.bench.suite.statistics import Estimate
from elmas.bench.suite.trial import Trial

_FIGURES: tuple[tuple[str, str, float, int], ...] = (
    ("JCT, s", "jct_s", 1, 2),
    ("requests/s", "requests_per_s", 1, 2),
    ("output tokens/s", "output_tokens_per_s", 1, 1),
    ("TTFT mean, ms", "ttft_mean_s", 1000, 0),
    ("TTFT median, ms", "ttft_median_s", 1000, 0),
    ("TTFT P99, ms", "ttft_p99_s", 1000, 0),
    ("TPOT mean, ms", "tpot_mean_s", 1000, 1),
    ("ITL P99, ms", "itl_p99_s", 1000, 1),
    ("E2EL mean, ms", "e2el_mean_s", 1000, 0),
    ("prompt from device, %", "prompt_device_share", 100, 1),
    ("from host memory, %", "prompt_host_share", 100, 1),
    ("from disk, %", "prompt_disk_share", 100, 1),
    ("recomputed, %", "prompt_recomputed_share", 100, 1),
    ("hits of an infinite cache, %", "infinite_hit_rate", 100, 1),
    ("device to host, GB", "device_to_host_bytes", 1e-9, 2),
    ("host to device, GB", "host_to_device_bytes", 1e-9, 2),
    ("host to disk, GB", "host_to_disk_bytes", 1e-9, 2),
    ("disk to host, GB", "disk_to_host_bytes", 1e-9, 2),
    ("preemptions", "preemptions", 1, 0),
    ("failed requests", "failed_requests", 1, 0),
    ("processor time of the server, s", "server_cpu_s", 1, 1),
    ("of other processes, s", "other_cpu_s", 1, 1),
)
"""Heading, metric, factor and digits of the rows. A row that no server has is left out."""

_MOVES = (
    "prompt_disk_share",
    "device_to_host_bytes",
    "host_to_device_bytes",
    "host_to_disk_bytes",
    "disk_to_host_bytes",
)
"""These are left out too where they are 0 everywhere: no server has that tier."""

_NOTHING = "-"


@dataclass(frozen=True)
class SummaryTable:
    """One workload: a column per server, a row per figure."""

    title: str
    servers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    """Trials without results, and why; and what must be known of the others."""

    def rich(self) -> Table:
        """Return the table for a terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for heading in ("", *self.servers):
            table.add_column(heading, justify="right" if heading else "left", overflow="fold")
        for heading, cells in self.rows:
            table.add_row(heading, *cells)
        return table


def summary_tables(results: Results, baseline: str | None) -> list[SummaryTable]:
    """Return one table per workload. `baseline` is what the others are compared with; None: apc, else noop, else
    the first server."""
    return [_table(results, workload, baseline) for workload in results.workloads]


def machine_line(results: Results) -> str:
    """Return on what the trials ran, one description per machine and set of versions."""
    found = []
    for trial in results.trials:
        machine = trial.machine
        gpus = ", ".join(machine.get("gpus") or ())
        parts = [f"{machine.get('processor')}, {machine.get('cores')} cores", gpus]
        parts += [f"{name} {version}" for name, version in trial.versions.items()]
        found.append("; ".join(part for part in parts if part))
    return " | ".join(dict.fromkeys(found))


def _table(results: Results, workload: str, baseline: str | None) -> SummaryTable:
    servers = results.servers(workload)
    shown = [name for name in servers if any(trial.status == "done" for trial in results.of(workload, name))]
    wanted = ("apc", "noop", *shown) if baseline is None else (baseline,)
    base = next((name for name in wanted if name in shown), None)
    rows: list[tuple[str, tuple[str, ...]]] = []

    def row(heading: str, cell: Callable[[str], str]) -> None:
        cells = tuple(cell(server) for server in shown)
        if any(each != _NOTHING for each in cells):
            rows.append((heading, cells))

    def figure(metric: str, factor: float, digits: int) -> Callable[[str], str]:
        return lambda server: _cell(results.estimate(workload, server, metric), factor, digits)

    for heading, metric, factor, digits in _FIGURES:
        found = [results.estimate(workload, server, metric) for server in shown]
        if metric in _MOVES and not any(estimate and estimate.value for estimate in found):
            continue
        row(heading, figure(metric, factor, digits))
        if metric == "jct_s" and base is not None:
            row(f"speed, {base} = 1", lambda name: _cell(results.ratio(workload, base, name), 1, 2))
    if base is not None:
        row(f"answers unlike {base}", lambda name: _count(results.n_different_answers(workload, base, name)))
    notes = tuple(
        f"{name}, trial {trial.trial + 1}: {trial.status}: {(trial.reason or '').splitlines()[0]}"
        for name in servers
        for trial in results.of(workload, name)
        if trial.reason is not None
    )
    return SummaryTable(_title(results.of(workload, servers[0])[0]), tuple(shown), tuple(rows), notes)


def _title(trial: Trial) -> str:
    what = trial.workload
    return f"{what.name}: {what.n_requests} requests, scale {what.scale:g}, {what.source}"


def _cell(estimate: Estimate | None, factor: float, digits: int) -> str:
    if estimate is None:
        return _NOTHING
    value = f"{estimate.value * factor:,.{digits}f}"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return value
    return f"{value} ({estimate.low * factor:,.{digits}f} to {estimate.high * factor:,.{digits}f})"


def _count(n: int | None) -> str:
    return _NOTHING if n is None else str(n)
