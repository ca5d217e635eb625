"""Figures as text, for the tables of a terminal or a log."""

from elmas.bench.summary import Metrics


def milliseconds(seconds: float | None) -> str:
    """Return seconds as whole milliseconds, "-" for None."""
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def share(value: float) -> str:
    """Return a share of 1 as a percentage with one digit."""
    return f"{value * 100:.1f}"


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
