"""From values to places on a page: scales, ticks, curves and labels that do not overlap. Pure functions.

Places are percentages of a plot's width or height, so that one page fits all widths; texts keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

_MOST_POINTS = 240
"""Of a curve: more than a plot has pixels for would only make the page large."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where (percent), and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to 0 to 100 percent, by their logarithms or not."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value; what lies outside is at the border."""
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 3)

    def ticks(self, n_most: int, factor: float = 1.0) -> list[Tick]:
        """Return at most about `n_most` ticks at round values; their texts are of values times `factor`."""
        low, high = self.low * factor, self.high * factor
        if self.is_log:
            values: Sequence[float] = _log_ticks(low, high, n_most)
        else:
            values = MaxNLocator(n_most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        inside = [float(value) for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        return [Tick(self.at(value / factor), f"{value:,.10g}") for value in inside]


def from_zero(values: Sequence[float]) -> Scale:
    """Return a scale from 0 to a little above the largest of `values`."""
    return Scale(0.0, max(max(values, default=0.0), 1e-9) * 1.03)


def logarithmic(values: Sequence[float]) -> Scale:
    """Return a logarithmic scale that holds the positive ones of `values`, at least a factor of 4 wide."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known) / 1.05, max(known) * 1.05
    if high < 4 * low:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    return Scale(low, high, is_log=True)


def _log_ticks(low: float, high: float, n_most: int) -> list[float]:
    """Return 1, 2, 5 of each decade, or 1 and 3, or powers of ten: the finest that are not too many."""
    inside: list[float] = []
    for subs in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = LogLocator(subs=subs, numticks=50).tick_values(low, high)
        inside = [float(value) for value in found if low <= value <= high]
        if len(inside) <= n_most:
            break
    return inside


def distribution_path(values: NDArray[np.float64], scale: Scale) -> str:
    """Return the empirical distribution of ascending `values` as an SVG path in a box of 100 by 100."""
    n_points = min(_MOST_POINTS, values.size)
    quantiles = np.linspace(0, 1, n_points + 1)[1:]
    known = values[np.ceil(quantiles * values.size).astype(int) - 1]
    steps = [f"M{scale.at(float(known[0])):g},100"]
    for value, share in zip(known.tolist(), quantiles.tolist(), strict=True):
        steps.append(f"H{scale.at(value):g}V{100 - 100 * share:.4g}")
    return "".join([*steps, "H100"])


def line_path(x: Sequence[float], y: Sequence[float]) -> str:
    """Return a line through points in percent, from the bottom left, as an SVG path in a box of 100 by 100."""
    return "M" + "L".join(f"{across:g},{100 - up:g}" for across, up in zip(x, y, strict=True))


def apart(places: Sequence[float], distance: float, top: float = 100.0) -> list[float]:
    """Return `places` (0 to `top`) moved so that all are at least `distance` apart, in the same order.

    The sum of squared moves is the least possible: shifted by their ranks, the places only have to ascend, which
    pooling adjacent violators solves (Ayer et al., 1955). Groups that would leave the range are pushed back; where
    there is no room for all, the distance is smaller.
    """
    order = sorted(range(len(places)), key=lambda place: places[place])
    if len(places) > 1:
        distance = min(distance, top / (len(places) - 1))
    groups: list[tuple[float, int]] = []  # the mean of shifted places, and how many they are
    for rank, place in enumerate(order):
        groups.append((places[place] - rank * distance, 1))
        while len(groups) > 1 and groups[-2][0] >= groups[-1][0]:
            (later, n_later), (earlier, n_earlier) = groups.pop(), groups.pop()
            n_both = n_earlier + n_later
            groups.append(((earlier * n_earlier + later * n_later) / n_both, n_both))
    highest = top - (len(places) - 1) * distance
    found, rank = [0.0] * len(places), 0
    for mean, n_places in groups:
        for _ in range(n_places):
            found[order[rank]] = round(min(highest, max(0.0, mean)) + rank * distance, 2)
            rank += 1
    return found
