"""Plots of what the simulator found: hit rates over the tier's size, and time over the number of agents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a server or a CI job has no display
import matplotlib.pyplot as plt

_STYLES = {
    "infinite": {"color": "0.75", "linestyle": ":"},
    "optimal": {"color": "0.2", "linestyle": "--"},
    "next-use": {"color": "tab:blue", "marker": "o"},
    "next-use, correct hints": {"color": "tab:cyan", "marker": "^"},
    "next-use, wrong hints": {"color": "tab:purple", "marker": "v", "linestyle": "-."},
    "s3fifo": {"color": "tab:green", "marker": "s"},
    "arc": {"color": "tab:orange", "marker": "d"},
    "lru": {"color": "tab:red", "marker": "x"},
}
_COLUMNS = 4


def plot_retention(results: Mapping[str, Any], path: Path) -> None:
    """Draw the hit rates of `elmas simulate compare`, one panel per family, means over the seeds, to an SVG file."""
    families = list(dict.fromkeys(cell["family"] for cell in results["cells"]))
    n_rows = -(-len(families) // _COLUMNS)
    figure, axes = plt.subplots(n_rows, _COLUMNS, figsize=(3.4 * _COLUMNS, 2.9 * n_rows), squeeze=False)
    for axis, family in zip(axes.flat, families, strict=False):
        cells = [cell for cell in results["cells"] if cell["family"] == family]
        capacities = sorted({cell["capacity"] for cell in cells})
        for arm, style in _STYLES.items():
            means = [_mean(cells, capacity, arm) for capacity in capacities]
            if None not in means:
                axis.plot(capacities, means, label=arm, markersize=4, linewidth=1.3, **style)
        axis.set_title(family, fontsize=10)
        axis.set_xlabel("tier / working set", fontsize=8)
        axis.set_ylabel("prompt tokens hit, %", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    spare = axes.flat[len(families) :]
    for axis in spare:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    (spare[0] if len(spare) else figure).legend(handles, labels, loc="center", fontsize=9, frameon=False)
    _save(figure, path)


def plot_load(results: Mapping[str, Any], path: Path) -> None:
    """Draw seconds per agent and round over the number of agents, of `elmas simulate load`, to an SVG file."""
    points: Sequence[Mapping[str, Any]] = results["points"]
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    n_rounds = results["rounds"]["n_rounds"]
    for arm in dict.fromkeys(point["arm"] for point in points):
        of_arm = [point for point in points if point["arm"] == arm]
        agents = [point["n_agents"] for point in of_arm]
        ms = [1e3 * point["jct_s"] / point["n_agents"] / n_rounds for point in of_arm]
        axis.plot(agents, ms, label=arm, marker="o", markersize=4)
    axis.set_xlabel("agents")
    axis.set_ylabel("JCT / agents / rounds, ms")
    axis.set_title(f"rounds on {results['hardware']}, {results['model_shape']}", fontsize=10)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _mean(cells: Sequence[Mapping[str, Any]], capacity: float, arm: str) -> float | None:
    values = [cell["hit_percent"][arm] for cell in cells if cell["capacity"] == capacity and arm in cell["hit_percent"]]
    return fmean(values) if values else None


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
