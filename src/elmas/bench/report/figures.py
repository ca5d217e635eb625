"""The figures of a trial that a report shows, and what it says of each."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from elmas.bench.suite.trial import Trial


@dataclass(frozen=True)
class Figure:
    """One figure: where it is in a trial (None: not measured), and how it is written.

    Values in SI units times `factor` are in `unit`, which is empty where the heading has it.
    """

    key: str
    heading: str
    unit: str
    is_lower_better: bool
    value: Callable[[Trial], float | None]
    factor: float = 1.0

    def of(self, trial: Trial) -> float | None:
        """Return the trial's value in SI units; None where it was not measured."""
        return self.value(trial) if trial.metrics is not None else None

    @property
    def heading_with_unit(self) -> str:
        """The heading of a row of values."""
        return f"{self.heading}, {self.unit}" if self.unit else self.heading

    def text(self, value: float) -> str:
        """Return a value in SI units as people read it, in `unit`: three significant digits, none below the point from
        100 on."""
        scaled = value * self.factor
        n_digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
        return f"{scaled:,.{n_digits}f}"


def _metric(path: str) -> Callable[[Trial], float | None]:
    get = attrgetter(f"metrics.{path}")

    def value(trial: Trial) -> float | None:
        found = get(trial)
        return None if found is None else float(found)

    return value


def _spread(name: str, part: str) -> Callable[[Trial], float | None]:
    """Return a part of a spread: one of its fields, or a percentile ("99")."""

    def value(trial: Trial) -> float | None:
        spread = getattr(trial.metrics, name)
        if spread is None:
            return None
        found = spread.percentiles_s.get(part) if part.isdecimal() else getattr(spread, part)
        return None if found is None else float(found)

    return value


def _latencies() -> list[Figure]:
    names = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}
    parts = {
        "mean_s": "mean",
        "median_s": "median",
        "std_s": "standard deviation",
        "90": "P90",
        "95": "P95",
        "99": "P99",
    }
    return [
        Figure(f"{name}_{part.removesuffix('_s')}", f"{short}, {word}", "ms", True, _spread(name, part), 1000.0)
        for name, short in names.items()
        for part, word in parts.items()
    ]


FIGURES: dict[str, Figure] = {
    figure.key: figure
    for figure in (
        Figure("jct", "Job completion time", "s", True, _metric("jct_s")),
        Figure("requests_per_s", "Requests/s", "", False, _metric("requests_per_s")),
        Figure("output_tokens_per_s", "Output tokens/s", "", False, _metric("output_tokens_per_s")),
        Figure("total_tokens_per_s", "Prompt and output tokens/s", "", False, _metric("total_tokens_per_s")),
        *_latencies(),
    )
}
"""All figures by key, in the order of tables."""

PLOTTED = ("jct", "ttft_mean", "ttft_99", "total_tokens_per_s")
"""Those that have bars of their own."""

SUMMARISED = ("jct", "ttft_mean", "ttft_99", "output_tokens_per_s")
"""Those of the summary."""
