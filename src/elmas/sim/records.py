"""What a simulation counts, and the summary that is made of it."""

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Distribution:
    """Of some durations, in seconds."""

    mean_s: float
    median_s: float
    p90_s: float
    p99_s: float


@dataclass
class Counts:
    """Sums over all requests. Prompt tokens are counted by where their KV came from when the request first ran."""

    n_requests: int = 0
    n_prompt_tokens: int = 0
    n_answer_tokens: int = 0
    n_device_tokens: int = 0
    n_host_tokens: int = 0
    n_disk_tokens: int = 0
    n_computed_tokens: int = 0
    n_preemptions: int = 0
    n_computed_again_tokens: int = 0
    """Tokens that were computed once more after a preemption."""
    n_steps: int = 0
    busy_s: float = 0.0


@dataclass
class Records:
    """The counts, and two durations per request: until the first token, and until the last."""

    counts: Counts = field(default_factory=Counts)
    ttft_s: "array[float]" = field(default_factory=lambda: array("d"))
    latency_s: "array[float]" = field(default_factory=lambda: array("d"))
    first_arrival_s: float | None = None
    last_end_s: float = 0.0

    @property
    def jct_s(self) -> float:
        """From the first arrival to the last token of all."""
        return self.last_end_s - (self.first_arrival_s or 0.0)


def distribution(values: "array[float]") -> Distribution | None:
    """Return mean and quantiles; None of nothing."""
    if not values:
        return None
    seconds: NDArray[np.float64] = np.frombuffer(values, dtype=np.float64)
    median, p90, p99 = np.quantile(seconds, (0.5, 0.9, 0.99)).tolist()
    return Distribution(float(seconds.mean()), median, p90, p99)
