"""The report as one HTML file that needs nothing else: no network, no other file, and no JavaScript to be read.

Plots are HTML boxes and small SVG curves whose places are percentages (`plots`), so they fit every width, while their
texts keep their size.
"""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from elmas.bench.report import findings, plots, tables
from elmas.bench.report.colors import looks
from elmas.bench.report.figures import FIGURES, PLOTTED, SUMMARISED
from elmas.bench.report.markdown import machine_text
from elmas.bench.report.results import TIERS, Results, WorkloadResult, collect, speed
from elmas.bench.report.scales import Tick

ABLATION = (
    "mt-apc-only-mt",
    "mt-apc-only-async",
    "mt-apc-only-sched",
    "mt-apc-no-prefetch",
    "mt-apc-no-sched",
    "mt-apc-no-disk",
    "mt-apc",
)
"""The configurations of which each lacks or has one mechanism, from the least to everything."""

_HEADLINED = "mt-apc"

_ABLATION_FIGURES = ("jct", "ttft_mean", "total_tokens_per_s")


@dataclass(frozen=True)
class _Section:
    """A workload with all that is drawn for it."""

    result: WorkloadResult
    anchor: str
    source: str
    bars: list[plots.Bars]
    stacks: list[plots.StackRow]
    boxes: list[plots.BoxRow]
    box_ticks: list[Tick]
    distributions: plots.Curves | None
    timelines: list[plots.Curves]
    table: tables.Table


@dataclass(frozen=True)
class _Ablation:
    """The bars of a workload's ablation and what they are multiples of."""

    workload: str
    base: str
    bars: list[plots.Bars]


@dataclass(frozen=True)
class Headline:
    """The one number of the page: the speed of a server in multiples of the baseline's."""

    server: str
    base: str
    ratio: str
    interval: str
    n_workloads: int


@dataclass(frozen=True)
class _Command:
    """How a server was started, for which workloads."""

    server: str
    workloads: str
    line: str


def page(results: Results) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("elmas.bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    script, _, _ = environment.loader.get_source(environment, "report.js")  # type: ignore[union-attr]
    return environment.get_template("report.html.jinja").render(
        css=source, script=script, results=results, **_content(results)
    )


def headline(results: Results) -> Headline | None:
    """Return the speed of mt-apc over all workloads that it and the baseline completed.

    None without it, and for a single trial: a number without an interval must not be the largest thing on a page.
    """
    found = speed(results, _HEADLINED) if results.baseline != _HEADLINED else None
    if found is None or found[0].low is None or found[0].high is None:
        return None
    estimate, n_workloads = found
    interval = f"95% interval {estimate.low:.2f} to {estimate.high:.2f}"
    if found[0].low <= 1 <= found[0].high:
        interval += ", which shows no difference"
    return Headline(_HEADLINED, results.baseline, f"{estimate.value:.2f}×", interval, n_workloads)


def ablations(results: Results) -> list[_Ablation]:
    """Return the ablation of each workload on which at least two of its configurations ran, normalised to the first."""
    found = []
    for workload in results.workloads:
        names = [name for name in ABLATION if (server := workload.of(name)) is not None and server.done]
        if len(names) < 2:
            continue
        part = [
            trial
            for trial in results.trials
            if trial.workload.name == workload.part.name and trial.server.name in names
        ]
        alone = collect(part, names[0]).workloads[0]
        drawn = [
            replace(bars, rows=sorted(bars.rows, key=lambda row: ABLATION.index(row.server)))
            for key in _ABLATION_FIGURES
            if (bars := plots.bars(alone, key)) is not None
        ]
        found.append(_Ablation(workload.part.name, names[0], drawn))
    return found


def _content(results: Results) -> dict[str, Any]:
    sections = [_section(workload, number) for number, workload in enumerate(results.workloads, 1)]
    begun = sorted(trial.begun for trial in results.trials)
    machines = list(dict.fromkeys(machine_text(trial.machine) for trial in results.trials))
    return {
        "version": version("elmas"),
        "looks": looks(results.servers),
        "tiers": TIERS,
        "headline": headline(results),
        "findings": findings.findings(results),
        "summaries": [(FIGURES[key], tables.speed_table(results, key)) for key in SUMMARISED],
        "sections": sections,
        "ablations": ablations(results),
        "missing": findings.missing(results),
        "problems": findings.problems(results),
        "failed": findings.failed_requests(results),
        "has_intervals": any(workload.n_trials > 1 for workload in results.workloads),
        "n_trials": max((workload.n_trials for workload in results.workloads), default=0),
        "dates": begun[0][:10] if begun[0][:10] == begun[-1][:10] else f"{begun[0][:10]} to {begun[-1][:10]}",
        "machines": machines,
        "versions": _versions(results),
        "invocations": list(dict.fromkeys(trial.invocation for trial in results.trials if trial.invocation)),
        "commands": _commands(results),
        "shade": shade,
    }


def shade(goodness: float | None) -> str:
    """Return the style of a cell of the summary: how strongly it is coloured, and as what. A factor of 2 is all."""
    if goodness is None or goodness <= 0:
        return ""
    better = goodness >= 1
    strength = min(1.0, (goodness if better else 1 / goodness) - 1)
    return f"--heat: {100 * strength:.0f}%; --tint: var(--{'better' if better else 'worse'})"


def _section(workload: WorkloadResult, number: int) -> _Section:
    boxes, ticks = plots.boxes(workload) if any(each.ttft_s.size for each in workload.measured) else ([], [])
    return _Section(
        result=workload,
        anchor=f"w{number}",
        source=findings.source_text(workload),
        bars=[drawn for key in PLOTTED if (drawn := plots.bars(workload, key)) is not None],
        stacks=plots.stacks(workload),
        boxes=boxes,
        box_ticks=ticks,
        distributions=plots.distributions(workload),
        timelines=plots.timelines(workload),
        table=tables.figure_table(workload),
    )


def _versions(results: Results) -> list[tuple[str, str]]:
    """Return the versions of each part; several where trials differ."""
    found: dict[str, list[str]] = {}
    for trial in results.trials:
        for name, value in trial.versions.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return [(name, ", ".join(values)) for name, values in found.items()]


def _commands(results: Results) -> list[_Command]:
    """Return the different commands by server, each with the workloads that it was used for."""
    found: dict[tuple[str, str], list[str]] = {}
    for server in results.servers:
        for trial in results.trials:
            if trial.server.name == server and trial.server.command:
                names = found.setdefault((server, trial.server.command), [])
                if trial.workload.name not in names:
                    names.append(trial.workload.name)
    return [_Command(server, ", ".join(names), line) for (server, line), names in found.items()]
