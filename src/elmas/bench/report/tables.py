"""Tables of a report as headings and cells, for the page and for Markdown. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elmas.bench.report.figures import FIGURES, Figure
from elmas.bench.report.findings import answers_text
from elmas.bench.report.plots import ratio_text
from elmas.bench.report.results import TIERS, Results, ServerResult, WorkloadResult, inverse
from elmas.bench.suite.statistics import Estimate
from elmas.units import format_bytes

_NOTHING = "–"
_MOVES = {
    "device_to_host": "Device to host, per trial",
    "host_to_device": "Host to device, per trial",
    "host_to_disk": "Host to disk, per trial",
    "disk_to_host": "Disk to host, per trial",
}


@dataclass(frozen=True)
class Cell:
    """A text, and the ratio that colours it: above 1 is better than the baseline. None: no colour."""

    text: str
    goodness: float | None = None


@dataclass(frozen=True)
class Table:
    """Headings of the columns, and rows that begin with their own heading."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def speed_table(results: Results, key: str) -> Table:
    """Return how much better than the baseline every server is on every workload, by a figure: 2 is twice as good."""
    figure = FIGURES[key]
    rows = []
    for name in results.servers:
        servers = [workload.of(name) for workload in results.workloads]
        rows.append((name, tuple(_goodness(server, figure, results.baseline) for server in servers)))
    return Table(tuple(workload.part.name for workload in results.workloads), tuple(rows))


def figure_table(workload: WorkloadResult) -> Table:
    """Return all figures of a workload, one column per server."""
    servers = workload.measured
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for figure in FIGURES.values():
        if any(figure.key in server.estimates for server in servers):
            cells = tuple(_value(server, figure) for server in servers)
            rows.append((figure.heading_with_unit, cells))

    def add(heading: str, text: Callable[[ServerResult], str | None]) -> None:
        texts = [text(server) for server in servers]
        if any(each is not None for each in texts):
            rows.append((heading, tuple(Cell(each or _NOTHING) for each in texts)))

    for tier in TIERS:
        add(f"Prompt tokens, {tier}, %", lambda server, tier=tier: _percent(server.shares.get(tier)))  # type: ignore[misc]
    add("Prompt tokens an infinite cache would serve, %", lambda server: _percent(server.infinite_share))
    for move, heading in _MOVES.items():
        add(heading, lambda server, move=move: _moved(server, move))  # type: ignore[misc]
    add("Processor time of the server, s", lambda server: _mean(server, lambda trial: trial.usage.server_cpu_s))
    add("Processor time of others, s", lambda server: _mean(server, lambda trial: trial.usage.other_cpu_s))
    add("Client lag, P99, ms", lambda server: _mean(server, lambda trial: trial.lag.p99_s * 1000))
    add("Failed requests", lambda server: f"{sum(len(trial.failures) for trial in server.done):,}")
    add(f"Answers as {workload.baseline}", lambda server: answers_text(server, workload.baseline))
    add("Trials", lambda server: str(len(server.done)))
    return Table(tuple(server.name for server in servers), tuple(rows))


def _goodness(server: ServerResult | None, figure: Figure, baseline: str) -> Cell:
    if server is None or not server.done:
        statuses = {trial.status for trial in server.other} if server is not None else set()
        return Cell(" and ".join(sorted(statuses)) or _NOTHING)
    if server.name == baseline:
        return Cell("1")
    ratio = server.ratios.get(figure.key)
    if ratio is None:
        return Cell(_NOTHING)
    better = inverse(ratio) if figure.is_lower_better else ratio
    return Cell(ratio_text(better), better.value)


def _value(server: ServerResult, figure: Figure) -> Cell:
    estimate: Estimate | None = server.estimates.get(figure.key)
    if estimate is None:
        return Cell(_NOTHING)
    text = figure.text(estimate.value)
    if estimate.low is not None and estimate.high is not None:
        text += f" ({figure.text(estimate.low)}–{figure.text(estimate.high)})"
    return Cell(text)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _moved(server: ServerResult, move: str) -> str | None:
    known = [n for trial in server.done if trial.bytes is not None and (n := getattr(trial.bytes, move)) is not None]
    return format_bytes(round(sum(known) / len(known))) if known else None


def _mean(server: ServerResult, value: Callable[..., float]) -> str | None:
    values = []
    for trial in server.done:
        try:
            values.append(value(trial))
        except AttributeError:
            continue  # this trial was not asked for it
    return f"{sum(values) / len(values):.1f}" if values else None


def column_texts(table: Table) -> Sequence[Sequence[str]]:
    """Return a table's rows as texts only."""
    return [[heading, *(cell.text for cell in cells)] for heading, cells in table.rows]
