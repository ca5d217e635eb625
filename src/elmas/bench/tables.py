"""Results as tables for a terminal or a log. Knows what was measured and nothing about how."""

from statistics import median

from rich.table import Table

from elmas.bench.comparison import ComparisonResult, median_of
from elmas.bench.counters import HitRates
from elmas.bench.summary import Metrics


def milliseconds(seconds: float | None) -> str:
    """Return seconds as whole milliseconds, "-" for None."""
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def share(value: float) -> str:
    """Return a share of 1 as a percentage with one digit."""
    return f"{value * 100:.1f}"


def comparison_title(result: ComparisonResult, name: str) -> str:
    """Return what the table of a workload, or of what was played after a restart, is about."""
    plan = result.plan
    workload = next((each for each in plan.workloads if each.name == name), None)
    if workload is None:
        return name
    if workload.reuse:
        what = f"working set {workload.working_set_tokens / plan.shape.device_tokens:.1f} device caches"
    else:
        what = "no prompt has a common beginning with another"
    medians = f"; medians of {plan.n_trials} trials" if plan.n_trials > 1 else ""
    return f"{workload.name}: {workload.n_agents} agents, {workload.n_rounds} rounds, {what}{medians}"


def comparison_table(result: ComparisonResult, workload_name: str) -> Table:
    """Return the figures of a workload, one column per arm; every figure is the median over trials."""
    plan = result.plan
    table = Table()
    for heading in ("", *plan.arms):
        table.add_column(heading, justify="right" if heading else "left")
    runs = {arm: result.of(workload_name, arm) for arm in plan.arms}

    def row(heading: str, values: list[str]) -> None:
        table.add_row(heading, *values)

    def figures(heading: str, figure: str, part: str = "", digits: int = 0, factor: float = 1.0) -> None:
        row(heading, [f"{median_of(runs[arm], figure, part) * factor:,.{digits}f}" for arm in plan.arms])

    figures("JCT, s", "jct_s", digits=2)
    row(f"speed, {plan.arms[0]} = 1", [_ratio_cell(result, workload_name, arm) for arm in plan.arms])
    figures("TTFT mean, ms", "ttft", "mean_s", factor=1000)
    figures("TTFT median, ms", "ttft", "median_s", factor=1000)
    figures("TTFT P99, ms", "ttft", "99", factor=1000)
    figures("TPOT mean, ms", "tpot", "mean_s", digits=1, factor=1000)
    figures("output tokens/s", "output_tokens_per_s")
    figures("prompt and output tokens/s", "total_tokens_per_s")
    rates = {arm: [run.tokens.rates for run in runs[arm]] for arm in plan.arms}
    for name in ("device", "host", "disk", "recomputed"):
        row(f"prompt tokens {name}, %", [share(_median_rate(rates[arm], name)) for arm in plan.arms])
    for heading, name in (
        ("processor time of the server, s", "server_cpu_s"),
        ("of other processes, s", "other_cpu_s"),
    ):
        row(heading, [f"{median(getattr(run.usage, name) for run in runs[arm]):.1f}" for arm in plan.arms])
    row("preemptions", [str(max(run.tokens.preemptions for run in runs[arm])) for arm in plan.arms])
    row(f"answers as {plan.arms[0]}", [_same_cell(result, workload_name, arm) for arm in plan.arms])
    return table


def _ratio_cell(result: ComparisonResult, workload: str, arm: str) -> str:
    ratios = result.ratios(workload, arm)
    if len(ratios) == 1 or arm == result.plan.arms[0]:
        return f"{median(ratios):.2f}"
    return f"{median(ratios):.2f} ({' '.join(f'{ratio:.2f}' for ratio in ratios)})"


def _same_cell(result: ComparisonResult, workload: str, arm: str) -> str:
    n_different = sum(bool(text) for text in result.differences(workload, arm))
    return "same" if n_different == 0 else f"differ in {n_different} trials"


def _median_rate(rates: list[HitRates], name: str) -> float:
    return float(median(getattr(rate, name) for rate in rates))


def summary_rows(summaries: list[Metrics]) -> list[tuple[str, list[str]]]:
    """Return heading and cells of the figures that every load has, one cell per summary."""
    ttft = [each.ttft for each in summaries]
    return [
        ("JCT, s", [f"{each.jct_s:.1f}" for each in summaries]),
        ("TTFT mean, ms", [milliseconds(each.mean_s if each else None) for each in ttft]),
        ("TTFT median, ms", [milliseconds(each.median_s if each else None) for each in ttft]),
        ("TTFT P99, ms", [milliseconds(each.percentiles_s["99"] if each else None) for each in ttft]),
        ("output tokens/s", [f"{each.output_tokens_per_s or 0:.0f}" for each in summaries]),
        ("prompt and output tokens/s", [f"{each.total_tokens_per_s or 0:,.0f}" for each in summaries]),
    ]
