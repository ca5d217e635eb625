"""The plots of a workload as places and texts: what the page's template draws. Pure functions.

Bars, stacks and boxes are rows, one per server; curves are paths in a box of 100 by 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elmas.bench.report.figures import FIGURES
from elmas.bench.report.results import TIERS, ServerResult, WorkloadResult
from elmas.bench.report.scales import (
    Scale,
    Tick,
    apart,
    distribution_path,
    from_zero,
    line_path,
    logarithmic,
)
from elmas.bench.suite.statistics import Estimate

LABEL_DISTANCE = 7.5
"""Percent of a plot's height that a line of text takes."""

_MOST_TICKS = 6
_BOX_PERCENTILES = (5, 25, 50, 75, 95, 99)
_LEAST_TEXT_SHARE = 0.07
"""A part of a stack that is smaller has no text in it."""


@dataclass(frozen=True)
class BarRow:
    """A bar with its error bar (None: a single trial)."""

    server: str
    width: float
    low: float | None
    high: float | None
    value: str
    ratio: str
    tip: str


@dataclass(frozen=True)
class Bars:
    """One figure of all servers. `mark` is where the baseline's value is."""

    heading: str
    note: str
    rows: list[BarRow]
    mark: float | None


@dataclass(frozen=True)
class Part:
    """A part of a stack."""

    tier: str
    width: float
    text: str


@dataclass(frozen=True)
class StackRow:
    """Where a server's prompt tokens came from; `mark` is what an infinite cache would have served."""

    server: str
    parts: list[Part]
    mark: float | None
    value: str
    tip: str


@dataclass(frozen=True)
class BoxRow:
    """Percentiles of a server's times to first token, as places by name ("p5" to "p99"), and in words."""

    server: str
    at: dict[str, float]
    value: str
    tip: str


@dataclass(frozen=True)
class Curve:
    """A server's line; `label_at` is the height of its label at the right border."""

    server: str
    path: str
    label_at: float = 0.0
    dots: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Curves:
    """Lines of all servers in one box."""

    heading: str
    x_heading: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]


def ratio_text(ratio: Estimate) -> str:
    """Return a ratio as it is written beside a value, with its interval where there is one."""
    text = f"{ratio.value:.2f}×"
    return text if ratio.low is None else f"{text} ({ratio.low:.2f}–{ratio.high:.2f})"


def bars(workload: WorkloadResult, key: str, base_name: str | None = None) -> Bars | None:
    """Return the bars of a figure, as multiples of the baseline's value where the baseline ran; None without values."""
    figure, base_name = FIGURES[key], base_name or workload.baseline
    known = [server for server in workload.measured if key in server.estimates]
    if not known:
        return None
    scale = from_zero([each.estimates[key].high or each.estimates[key].value for each in known])
    base = workload.of(base_name)
    rows = []
    for server in known:
        estimate = server.estimates[key]
        ratio = server.ratios.get(key)
        interval = ""
        if estimate.low is not None and estimate.high is not None:
            interval = f", 95% interval {figure.text(estimate.low)} to {figure.text(estimate.high)}"
        of = f", {ratio_text(ratio)} of {base_name}" if ratio is not None and server.name != base_name else ""
        rows.append(
            BarRow(
                server=server.name,
                width=scale.at(estimate.value),
                low=None if estimate.low is None else scale.at(estimate.low),
                high=None if estimate.high is None else scale.at(estimate.high),
                value=f"{figure.text(estimate.value)} {figure.unit}".strip(),
                ratio=f"{ratio.value:.2f}×" if ratio is not None else "",
                tip=f"{server.name}: {figure.text(estimate.value)} {figure.unit}".strip()
                + f"{interval}, {_trials(estimate.n)}{of}",
            )
        )
    mark = scale.at(base.estimates[key].value) if base is not None and key in base.estimates else None
    return Bars(figure.heading, "lower is better" if figure.is_lower_better else "higher is better", rows, mark)


def stacks(workload: WorkloadResult) -> list[StackRow]:
    """Return where the prompt tokens of each server came from, as far as they were counted."""
    rows = []
    for server in workload.measured:
        if not server.shares:
            continue
        parts = [
            Part(tier, round(100 * share, 3), f"{100 * share:.0f}%" if share >= _LEAST_TEXT_SHARE else "")
            for tier, share in server.shares.items()
            if share > 0
        ]
        hit = 1 - server.shares["recomputed"]
        infinite = server.infinite_share
        words = ", ".join(f"{tier} {100 * server.shares[tier]:.1f}%" for tier in TIERS)
        of = f"; an infinite cache would serve {100 * infinite:.1f}%" if infinite is not None else ""
        value = f"{100 * hit:.1f}%"
        mark = None if infinite is None else round(100 * infinite, 3)
        rows.append(StackRow(server.name, parts, mark, value, f"{server.name}: {words}{of}"))
    return rows


def boxes(workload: WorkloadResult) -> tuple[list[BoxRow], list[Tick]]:
    """Return the spread of the times to first token of each server, and the ticks of their common scale (ms)."""
    known = [server for server in workload.measured if server.ttft_s.size]
    scale = _ttft_scale(known)
    rows = []
    for server in known:
        values = {f"p{percent}": float(np.percentile(server.ttft_s, percent)) for percent in _BOX_PERCENTILES}
        text = FIGURES["ttft_mean"].text
        words = ", ".join(f"{name.upper()} {text(value)} ms" for name, value in values.items())
        places = {name: scale.at(value) for name, value in values.items()}
        tip = f"{server.name}: {words}; {server.ttft_s.size:,} requests"
        rows.append(BoxRow(server.name, places, f"{text(values['p50'])} ms", tip))
    return rows, scale.ticks(_MOST_TICKS, 1000.0)


def distributions(workload: WorkloadResult) -> Curves | None:
    """Return the empirical distributions of the times to first token; None without any."""
    known = [server for server in workload.measured if server.ttft_s.size]
    if not known:
        return None
    scale = _ttft_scale(known)
    curves = [Curve(server.name, distribution_path(server.ttft_s, scale)) for server in known]
    share = Scale(0.0, 100.0)
    y_ticks = [Tick(share.at(value), f"{value:g}%") for value in (0, 25, 50, 75, 100)]
    return Curves(
        "Share of requests answered within a time",
        "time to first token, ms (logarithmic)",
        scale.ticks(_MOST_TICKS, 1000.0),
        y_ticks,
        curves,
    )


def timelines(workload: WorkloadResult) -> list[Curves]:
    """Return how the mean time to first token, and the length of rounds, went on in the course of the run."""
    known = [(server, server.timeline) for server in workload.measured if server.timeline is not None]
    if not known:
        return []
    by_round = known[0][1].by_round
    found = [
        _timeline(
            "Mean time to first token, ms",
            by_round,
            [(server, line.x, line.ttft_s) for server, line in known],
            1000.0,
            "ms",
        )
    ]
    if by_round:
        found.append(
            _timeline(
                "Seconds per round", by_round, [(server, line.x, line.seconds) for server, line in known], 1.0, "s"
            )
        )
    return found


def _timeline(
    heading: str,
    by_round: bool,
    lines: Sequence[tuple[ServerResult, tuple[float, ...], tuple[float, ...]]],
    factor: float,
    unit: str,
) -> Curves:
    all_x = [at for _, x, _ in lines for at in x]
    across = Scale(min(all_x), max(max(all_x), min(all_x) + 1))
    up = from_zero([value for _, _, y in lines for value in y])
    labels = apart([up.at(y[-1]) for _, _, y in lines], LABEL_DISTANCE)
    curves = []
    for (server, x, y), label_at in zip(lines, labels, strict=True):
        places = [(across.at(at), up.at(value)) for at, value in zip(x, y, strict=True)]
        name = "round" if by_round else "up to"
        after = "" if by_round else "% of the requests"
        dots = tuple(
            (*place, f"{server.name}, {name} {at:g}{after}: {value * factor:,.4g} {unit}")
            for place, at, value in zip(places, x, y, strict=True)
        )
        path = line_path([at for at, _ in places], [at for _, at in places])
        curves.append(Curve(server.name, path, label_at, dots))
    n_ticks = min(_MOST_TICKS, len(set(all_x)))
    x_ticks = [tick for tick in across.ticks(n_ticks) if not by_round or float(tick.text.replace(",", "")).is_integer()]
    x_heading = "round" if by_round else "requests sent, %"
    return Curves(heading, x_heading, x_ticks, up.ticks(5, factor), curves)


def _ttft_scale(servers: Sequence[ServerResult]) -> Scale:
    """From the fastest answer but the first percent to the slowest, over all servers."""
    ends = [float(value) for each in servers for value in (np.percentile(each.ttft_s, 1), each.ttft_s[-1])]
    return logarithmic(ends)


def _trials(n: int) -> str:
    return "one trial" if n == 1 else f"mean of {n} trials"
