"""Tables of a comparison of retention policies."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from elmas.sim.compare import Comparison
from elmas.sim.gates import Verdict


def comparison_table(comparison: Comparison) -> Table:
    """Return the hits of every arm in percent of the prompt tokens: a row for each family and capacity."""
    arms = list(comparison.cells[0].hit_percent)
    table = Table(title="hit tokens in percent of the prompt tokens, mean over the seeds")
    table.add_column("family")
    table.add_column("capacity", justify="right")
    for arm in arms:
        table.add_column(arm.replace(", ", ",\n"), justify="right")
    for family in comparison.plan.families:
        for capacity in comparison.plan.capacities:
            percent = comparison.mean_percent(family, capacity)
            table.add_row(family, f"{capacity:g}", *(f"{percent[arm]:.1f}" for arm in arms))
    return table


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return what is demanded and what was reached instead."""
    table = Table(title="demands that are not met")
    table.add_column("demand")
    table.add_column("family")
    for name in ("capacity", "least", "mean", "worst seed"):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        table.add_row(
            verdict.demand,
            verdict.family,
            f"{verdict.capacity:g}",
            f"{verdict.least:.1f}",
            f"{verdict.mean:.1f}",
            f"{verdict.worst:.1f}",
        )
    return table


def fit_table(report: Mapping[str, Any]) -> Table:
    """Return the measured runs of `fit_report` beside the predicted ones."""
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in report["hardware"].items() if name != "name")
    table = Table(title=f"{report['hardware']['name']}: measured and predicted seconds", caption=parameters)
    for name in ("workload", "connector", "host memory"):
        table.add_column(name)
    for name in ("JCT", "predicted", "error"):
        table.add_column(name, justify="right")
    for name in ("per round", "predicted per round"):
        table.add_column(name)
    for row in report["rows"]:
        table.add_row(
            row["workload"],
            row["connector"] if row["host_memory"] else "none",
            row["host_memory"] or "none",
            f"{row['jct_s']:.1f}",
            f"{row['predicted_jct_s']:.1f}",
            f"{100 * row['error']:+.1f}%",
            " ".join(f"{seconds:.1f}" for seconds in row["seconds_per_round"]),
            " ".join(f"{seconds:.1f}" for seconds in row["predicted_seconds_per_round"]),
        )
    return table
