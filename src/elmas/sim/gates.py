"""What the retention policies must reach on the generated families, and whether they do."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from elmas.sim.compare import HINTED_POLICY, OPTIMAL, Cell, Comparison, arm_name

_CLASSICS = ("lru", "arc", "s3fifo")
_CORRECT, _WRONG = arm_name(HINTED_POLICY, "correct"), arm_name(HINTED_POLICY, "wrong")

_OF_OPTIMAL = {"cyclic": 95.0, "cyclic-shuffled": 95.0, "cyclic-churn": 80.0}
_OF_OPTIMAL_AT = {("cyclic-shuffled", 0.25): 90.0}
"""Percent of offline optimal without hints, on rounds."""

_LEAST_ABOVE_CLASSICS = -0.5
_ABOVE_CLASSICS_AT = {("tool-agents", 0.25): 3.0, ("chats", 0.5): 3.0, ("scans", 0.25): 2.0}
"""Percentage points above the best of the classic policies without hints, where sessions come and go."""

_OF_OPTIMAL_WITH_CORRECT_HINTS = 97.0
_LEAST_WITH_WRONG_HINTS = -3.0
"""Percentage points above the policy without hints."""


@dataclass(frozen=True)
class Verdict:
    """One demand on one family and capacity: the mean over the seeds, and the worst seed, against the least allowed."""

    demand: str
    family: str
    capacity: float
    least: float
    mean: float
    worst: float

    @property
    def holds(self) -> bool:
        """Whether the mean reaches what is demanded."""
        return self.mean >= self.least


def judge(comparison: Comparison) -> list[Verdict]:
    """Return the verdict on every demand that the comparison has the figures for."""
    verdicts = []
    for family in comparison.plan.families:
        for capacity in comparison.plan.capacities:
            cells = [cell for cell in comparison.cells if (cell.family, cell.capacity) == (family, capacity)]
            for demand, least, values in _demands(family, capacity, cells):
                verdicts.append(Verdict(demand, family, capacity, least, fmean(values), min(values)))
    return verdicts


def _demands(family: str, capacity: float, cells: list[Cell]) -> Iterator[tuple[str, float, list[float]]]:
    """Yield each demand, what it takes, and the value of each cell."""
    known = cells[0].hit_percent.keys()
    hits = {arm: [cell.hit_percent[arm] for cell in cells] for arm in known}
    if HINTED_POLICY not in known:
        return
    ours, best = hits[HINTED_POLICY], hits[OPTIMAL]
    if family in _OF_OPTIMAL:
        least = _OF_OPTIMAL_AT.get((family, capacity), _OF_OPTIMAL[family])
        yield "percent of optimal", least, _shares(ours, best)
    elif known >= set(_CLASSICS):
        least = _ABOVE_CLASSICS_AT.get((family, capacity), _LEAST_ABOVE_CLASSICS)
        classic = [max(values) for values in zip(*(hits[name] for name in _CLASSICS), strict=True)]
        yield "points above the best classic", least, _differences(ours, classic)
    yield "percent of optimal, correct hints", _OF_OPTIMAL_WITH_CORRECT_HINTS, _shares(hits[_CORRECT], best)
    yield "points above no hints, wrong hints", _LEAST_WITH_WRONG_HINTS, _differences(hits[_WRONG], ours)


def _shares(values: list[float], wholes: list[float]) -> list[float]:
    return [100 * value / whole if whole else 100.0 for value, whole in zip(values, wholes, strict=True)]


def _differences(values: list[float], others: list[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
