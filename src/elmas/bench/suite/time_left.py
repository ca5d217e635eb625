"""How long a run will still take, from what has run so far. Pure: gets durations, reads no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from elmas.bench.suite.plan import Session
from elmas.bench.workloads.workload import Workload


@dataclass
class TimeLeft:
    """Durations so far, in seconds."""

    starts_s: list[float] = field(default_factory=list)
    """Of servers."""
    played_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """By workload and server."""
    n_requests: dict[str, int] = field(default_factory=dict)
    """Of the workloads that were played."""

    def add(self, workload: Workload, server: str, seconds: float) -> None:
        """One trial took `seconds`."""
        self.played_s.setdefault((workload.name, server), []).append(seconds)
        self.n_requests[workload.name] = workload.n_requests

    def of(self, workload: Workload, server: str) -> float | None:
        """Return what a trial will take; None before the first trial.

        It is the mean of the same trials before, else of the same workload elsewhere, else the time per request of all
        workloads so far.
        """
        same = self.played_s.get((workload.name, server))
        if same:
            return fmean(same)
        elsewhere = [fmean(times) for (name, _), times in self.played_s.items() if name == workload.name]
        if elsewhere:
            return fmean(elsewhere)
        per_request = [fmean(times) / self.n_requests[name] for (name, _), times in self.played_s.items()]
        return fmean(per_request) * workload.n_requests if per_request else None

    def left_s(self, todo: Sequence[Session]) -> float | None:
        """Return the seconds that sessions will take which have not begun; None before the first trial."""
        if not self.played_s:
            return None
        start_s = fmean(self.starts_s) if self.starts_s else 0.0
        trials_s = sum(self.of(workload, session.server) or 0.0 for session in todo for workload in session.workloads)
        return start_s * len(todo) + trials_s


def about(seconds: float | None) -> str:
    """Return a duration as a person says it: "about 3 min left"; nothing when it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {seconds / 3600:.1f} h left"
