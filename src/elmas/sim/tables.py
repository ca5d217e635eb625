"""Tables of a comparison of retention policies."""

from collections.abc import Sequence

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
