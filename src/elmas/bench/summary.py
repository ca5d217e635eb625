"""Figures of a run from its request records. Pure functions: no clock, no server, no file."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elmas.agents.endpoint import RequestRecord

PERCENTILES = (90.0, 95.0, 99.0)
"""The percentages that are reported unless others are asked for."""


@dataclass(frozen=True)
class Spread:
    """Some durations, in seconds."""

    n: int
    mean_s: float
    median_s: float
    std_s: float
    """Standard deviation of these values."""
    percentiles_s: dict[str, float]
    """By percentage: {"90": 0.8, "99.9": 1.2}; between two values, linearly interpolated."""


@dataclass(frozen=True)
class Metrics:
    """What a run of requests came to. Latencies and tokens are over the answers that were complete; None: none was."""

    jct_s: float
    """Job completion time: first submission to last end, failed requests included."""
    n_requests: int
    n_failed: int
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float | None
    """Complete answers per second of the job; None for a job that took no time, as those below."""
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    """Prompt tokens, cached or not, and output tokens."""
    ttft: Spread | None
    """Time to first token."""
    tpot: Spread | None
    """Time per output token after the first, one value per request with at least two."""
    itl: Spread | None
    """Gaps between chunks, over all requests."""
    e2el: Spread | None
    """End-to-end latency."""


def spread(values: Iterable[float], percentiles: Sequence[float] = PERCENTILES) -> Spread | None:
    """Return the figures of `values` in seconds, with the percentiles (0 to 100) asked for; None for no values."""
    known = np.fromiter(values, dtype=np.float64)
    if not known.size:
        return None
    found = np.percentile(known, list(percentiles))
    return Spread(
        n=known.size,
        mean_s=float(known.mean()),
        median_s=float(np.median(known)),
        std_s=float(known.std()),
        percentiles_s={f"{percent:g}": float(value) for percent, value in zip(percentiles, found, strict=True)},
    )


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


def summarise(records: Sequence[RequestRecord], percentiles: Sequence[float] = PERCENTILES) -> Metrics:
    """Return the figures of `records`, in any order."""
    complete = [record for record in records if record.error is None]
    gaps = (later - earlier for record in complete for earlier, later in itertools.pairwise(record.chunk_times_s))
    jct_s = job_completion_time_s(records)
    prompt_tokens = sum(record.prompt_tokens for record in complete)
    output_tokens = sum(record.completion_tokens for record in complete)

    def per_s(amount: int) -> float | None:
        return amount / jct_s if jct_s > 0 else None

    return Metrics(
        jct_s=jct_s,
        n_requests=len(records),
        n_failed=len(records) - len(complete),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        requests_per_s=per_s(len(complete)),
        output_tokens_per_s=per_s(output_tokens),
        total_tokens_per_s=per_s(prompt_tokens + output_tokens),
        ttft=spread((value for record in complete if (value := record.ttft_s) is not None), percentiles),
        tpot=spread((value for record in complete if (value := tpot_s(record)) is not None), percentiles),
        itl=spread(gaps, percentiles),
        e2el=spread((record.e2el_s for record in complete), percentiles),
    )
