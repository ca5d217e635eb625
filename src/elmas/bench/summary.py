"""Figures of a run from its request records. Pure functions: no clock, no server, no file."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elmas.agents.endpoint import RequestRecord


@dataclass(frozen=True)
class Distribution:
    """Mean, median and 99th percentile of some seconds; all NaN when there were none."""

    mean_s: float
    median_s: float
    p99_s: float


@dataclass(frozen=True)
class LoadSummary:
    """What a run of requests came to. Latencies and token counts are over the answers that were complete."""

    n_requests: int
    n_failed: int
    jct_s: float
    """Job completion time: first submission to last end, failed requests included."""
    ttft: Distribution
    """Time to first token."""
    tpot: Distribution
    """Time per output token after the first, one value per request with at least two."""
    itl: Distribution
    """Gaps between chunks, over all requests."""
    e2el: Distribution
    """End-to-end latency."""
    prompt_tokens: int
    output_tokens: int

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens per second of the job."""
        return self.output_tokens / self.jct_s if self.jct_s > 0 else math.nan

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens, cached or not, per second of the job."""
        return self.prompt_tokens / self.jct_s if self.jct_s > 0 else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the `percent`-th percentile (0 to 100) with linear interpolation; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def distribution(values: Iterable[float]) -> Distribution:
    """Return mean, median and P99 of `values` in seconds."""
    known = list(values)
    mean = math.fsum(known) / len(known) if known else math.nan
    return Distribution(mean, percentile(known, 50), percentile(known, 99))


def tpot_s(record: RequestRecord) -> float | None:
    """Return seconds per output token after the first; None for fewer than two tokens."""
    if record.completion_tokens < 2 or not record.chunk_times_s:
        return None
    return (record.chunk_times_s[-1] - record.chunk_times_s[0]) / (record.completion_tokens - 1)


def job_completion_time_s(records: Sequence[RequestRecord]) -> float:
    """Return the seconds from the first submission to the last end; 0 for no records."""
    if not records:
        return 0.0
    return max(record.ended_s for record in records) - min(record.submitted_s for record in records)


def summarise(records: Sequence[RequestRecord]) -> LoadSummary:
    """Return the figures of `records`, in any order."""
    complete = [record for record in records if record.error is None]
    gaps = (later - earlier for record in complete for earlier, later in itertools.pairwise(record.chunk_times_s))
    return LoadSummary(
        n_requests=len(records),
        n_failed=len(records) - len(complete),
        jct_s=job_completion_time_s(records),
        ttft=distribution(value for record in complete if (value := record.ttft_s) is not None),
        tpot=distribution(value for record in complete if (value := tpot_s(record)) is not None),
        itl=distribution(gaps),
        e2el=distribution(record.e2el_s for record in complete),
        prompt_tokens=sum(record.prompt_tokens for record in complete),
        output_tokens=sum(record.completion_tokens for record in complete),
    )
