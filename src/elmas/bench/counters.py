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
_REQUESTS = "vllm:request_success_total"
_OUTPUT_TOKENS = "vllm:generation_tokens_total"
_TTFT_SUM_S = "vllm:time_to_first_token_seconds_sum"
_OFFLOADED_BYTES = {
    "device_to_host": "vllm:kv_offload_store_bytes_total",
    "host_to_device": "vllm:kv_offload_load_bytes_total",
    "host_to_disk": "vllm:kv_offload_tiering_write_bytes_total",
    "disk_to_host": "vllm:kv_offload_tiering_read_bytes_total",
}
"""What vLLM's own offloading counts, by the direction of the move."""


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
    external = _total(samples, _BY_SOURCE, "external_kv_transfer")
    # The second counter takes a request that starts again after a preemption twice.
    disk = min(external, _total(samples, _CACHED_BY_SOURCE, "disk"))
    return PromptTokens(
        computed=_total(samples, _BY_SOURCE, "local_compute"),
        device=_total(samples, _BY_SOURCE, "local_cache_hit"),
        host=external - disk,
        preemptions=_total(samples, _PREEMPTIONS),
        disk=disk,
    )


@dataclass(frozen=True)
class Served:
    """What a server says it served, since it started or between two readings: the independent count of a run."""

    n_requests: int
    """That ended well."""
    prompt_tokens: int
    output_tokens: int
    ttft_sum_s: float
    """Time to first token, summed over requests, as the server sees it."""

    def __sub__(self, earlier: "Served") -> "Served":
        return Served(
            self.n_requests - earlier.n_requests,
            self.prompt_tokens - earlier.prompt_tokens,
            self.output_tokens - earlier.output_tokens,
            self.ttft_sum_s - earlier.ttft_sum_s,
        )


def read_served(samples: Samples) -> Served:
    """Return what a reading of /metrics says was served, summed over engines; a counter that is missing is 0."""
    return Served(
        n_requests=_total(samples, _REQUESTS),
        prompt_tokens=_total(samples, _BY_SOURCE),
        output_tokens=_total(samples, _OUTPUT_TOKENS),
        ttft_sum_s=sum(samples.get(_TTFT_SUM_S, {}).values()),
    )


def read_offloaded_bytes(samples: Samples) -> dict[str, int]:
    """Return the bytes that vLLM's own offloading has moved, by direction; empty for servers without it."""
    return {direction: _total(samples, name) for direction, name in _OFFLOADED_BYTES.items() if name in samples}


def read_block_size(samples: Samples) -> int | None:
    """Return the tokens per KV block of the server of a reading; None where it does not say."""
    for labels in samples.get("vllm:cache_config_info", {}):
        value = dict(labels).get("block_size", "")
        if value.isdecimal():
            return int(value)
    return None


def _total(samples: Samples, name: str, source: str | None = None) -> int:
    values = samples.get(name, {}).items()
    return int(sum(value for labels, value in values if source is None or ("source", source) in labels))
