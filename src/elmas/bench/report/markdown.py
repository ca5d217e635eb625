"""The report as Markdown, for a README: what was measured, ratios, and hit rates."""

from collections.abc import Sequence
from typing import Any

from elmas.bench.report.figures import FIGURES
from elmas.bench.report.findings import findings, missing, source_text
from elmas.bench.report.results import TIERS, Results, WorkloadResult
from elmas.bench.report.tables import Table, column_texts, speed_table

_RATIOS = {"jct": "Speed", "ttft_mean": "Mean time to first token", "ttft_99": "Time to first token, P99"}


def markdown(results: Results) -> str:
    """Return the report as Markdown with tables."""
    lines = [f"Baseline: `{results.baseline}`. Ratios above 1 are better; in brackets the 95% interval.", ""]
    lines += [f"- {each.text}." for each in findings(results)]
    for key, heading in _RATIOS.items():
        if any(key in server.ratios for workload in results.workloads for server in workload.servers):
            note = "baseline's value divided by the server's" if FIGURES[key].is_lower_better else "server's value"
            lines += ["", f"**{heading}** ({FIGURES[key].heading}: {note})", ""]
            lines += _table(speed_table(results, key), "server")
    for workload in results.workloads:
        lines += _workload(workload)
    lacking = missing(results)
    if lacking:
        lines += ["", "**Not measured**", ""]
        lines += [f"- `{each.server}` on {each.workload}: {each.status}, {each.reason}" for each in lacking]
    lines += ["", f"Machine: {machine_text(results.trials[0].machine)}."]
    return "\n".join(lines) + "\n"


def machine_text(machine: dict[str, Any]) -> str:
    """Return a machine in one line."""
    gpus = ", ".join(machine.get("gpus") or []) or "no GPU"
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in machine else ""
    cores = f"{machine['cores']} cores" if "cores" in machine else ""
    parts = [machine.get("processor", ""), cores, memory, gpus, machine.get("system", "")]
    return ", ".join(str(part) for part in parts if part)


def _workload(workload: WorkloadResult) -> list[str]:
    servers = workload.measured
    if not servers:
        return []
    columns = ["JCT, s", "TTFT mean, ms", "TTFT P99, ms", "output tokens/s", *(f"{tier}, %" for tier in TIERS)]
    rows = []
    for server in servers:
        cells = []
        for key in ("jct", "ttft_mean", "ttft_99", "output_tokens_per_s"):
            estimate = server.estimates.get(key)
            cells.append(FIGURES[key].text(estimate.value) if estimate is not None else "–")
        cells += [f"{100 * server.shares[tier]:.1f}" if server.shares else "–" for tier in TIERS]
        rows.append([server.name, *cells])
    part = workload.part
    what = f"{part.n_requests:,} requests, scale {part.scale:g}, {source_text(workload)}, trials: {workload.n_trials}"
    return ["", f"**{part.name}** ({what})", "", *_rows(["server", *columns], rows)]


def _table(table: Table, corner: str) -> list[str]:
    return _rows([corner, *table.columns], column_texts(table))


def _rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    alignment = line([":---", *("---:" for _ in headings[1:])])
    return [line(headings), alignment, *(line([f"`{row[0]}`", *row[1:]]) for row in rows)]
