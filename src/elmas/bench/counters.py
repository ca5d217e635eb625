"""What the server says it computed and what it took from which tier, between two readings of /metrics.

vLLM's `vllm:prompt_tokens_by_source` is the base, because it has one denominator: for every request, at its first
token, each prompt token is counted once, as computed, found on the device, or brought by the connector. A request that
was preempted and started again is not counted twice. The hit counters of the two caches (`vllm:prefix_cache_hits` and
`vllm:external_prefix_cache_hits`) are not used: their query counts differ, since the connector is asked only for what
the device did not have.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Samples = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]
"""Prometheus samples by name and sorted labels, as `ServerProcess.metrics` returns them."""

_BY_SOURCE = "vllm:prompt_tokens_by_source_total"
_CACHED_BY_SOURCE = "vllm:prompt_tokens_cached_by_source_total"
_PREEMPTIONS = "vllm:num_preemptions_total"


@dataclass(frozen=True)
class PromptTokens:
    """Prompt tokens by where their KV came from, since the server started or between two readings."""

    computed: int
    device: int
    host: int
    """Brought by the connector from host memory."""
    preemptions: int
    disk: int = 0
    """Brought by the connector from disk."""

    def __sub__(self, earlier: "PromptTokens") -> "PromptTokens":
        return PromptTokens(
            self.computed - earlier.computed,
            self.device - earlier.device,
            self.host - earlier.host,
            self.preemptions - earlier.preemptions,
            self.disk - earlier.disk,
        )

    @property
    def total(self) -> int:
        """All prompt tokens."""
        return self.computed + self.device + self.host + self.disk

    @property
    def rates(self) -> "HitRates":
        """The shares of all prompt tokens; NaN when there were none."""
        total = self.total or math.nan
        return HitRates(self.device / total, self.host / total, self.computed / total, self.disk / total)


@dataclass(frozen=True)
class HitRates:
    """Shares of all prompt tokens, from 0 to 1; together they are 1."""

    device: float
    host: float
    recomputed: float
    disk: float = 0.0


CacheEvents = dict[str, float]
"""Counters of elmas by metric, without the prefix."""


def read_events(samples: Samples) -> CacheEvents:
    """Return the counters of elmas in a reading of /metrics that are not 0, summed over engines."""
    prefix, suffix = "elmas:", "_total"
    totals = {name: sum(values.values()) for name, values in samples.items() if name.startswith(prefix)}
    return {
        name.removeprefix(prefix).removesuffix(suffix): value
        for name, value in totals.items()
        if name.endswith(suffix) and value
    }


def read_counters(samples: Samples) -> PromptTokens:
    """Return the counters in a reading of /metrics, summed over engines; a counter that is missing is 0."""

    def total(name: str, source: str | None = None) -> int:
        values = samples.get(name, {}).items()
        return int(sum(value for labels, value in values if source is None or ("source", source) in labels))

    disk = total(_CACHED_BY_SOURCE, "disk")
    return PromptTokens(
        computed=total(_BY_SOURCE, "local_compute"),
        device=total(_BY_SOURCE, "local_cache_hit"),
        host=total(_BY_SOURCE, "external_kv_transfer") - disk,
        preemptions=total(_PREEMPTIONS),
        disk=disk,
    )
