"""Counters and gauges of the cache, exported by vLLM's /metrics under `elmas:`."""

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from elmas.cache.costs import CostModel
from elmas.cache.segments import SegmentIndex
from elmas.movement.host_tier import HostTier

_PREFILL_TOKENS = 1024
"""The gauge of prefill speed is for a prompt of this length."""

_COUNTERS = {
    "load_blocks": "Blocks ordered from host memory to the device",
    "store_blocks": "Blocks copied from the device to host memory",
    "store_blocks_dropped": "Blocks not stored because no row could be freed for them",
    "evicted_blocks": "Blocks evicted from host memory",
    "overdue_loads": "Loads seen past their deadline, once per second each",
    "errors": "Internal errors; after the first one the cache is off",
    "order_errors": "Internal errors in the order of requests; after the first one it is first come first served",
    "hints": "Requests with hints about their session",
    "hints_bad": "Hints that made no sense, or named a session that is not known",
    "disk_prefetches": "Requests for which reads were started",
    "disk_landed": "Requests whose reads had all ended before they ran",
    "disk_gone_deadline": "Requests that stopped waiting for reads at their deadline",
    "disk_gone_cheaper": "Requests that stopped waiting for reads because recomputing became cheaper",
    "disk_gone_to_measure": "Requests that stopped waiting for reads to find out what recomputing costs",
    "disk_plan_in_time": "Decisions to read: it lands before the request's turn",
    "disk_plan_cheaper": "Decisions to read: waiting is cheaper than recomputing",
    "disk_plan_partial": "Decisions to read the beginning only",
    "disk_plan_slow": "Decisions not to read: recomputing is cheaper",
    "disk_plan_probe": "Small reads to measure a disk that was found slow",
    "disk_plan_unmeasured": "Decisions to read before speeds were known",
    "disk_plan_paused": "Requests not read for because reads had failed",
    "disk_read_blocks": "Blocks read from disk and verified",
    "disk_read_errors": "Reads that failed",
    "disk_bad_truncated": "Records found cut short",
    "disk_bad_corrupt": "Records whose header or checksum is wrong",
    "disk_bad_foreign": "Records of another namespace",
    "disk_bad_misplaced": "Records of another segment or slot",
    "disk_bad_wrong_key": "Records of another block",
    "disk_write_blocks": "Blocks written to disk",
    "disk_write_errors": "Operations of the writer that failed",
    "disk_writes_missed": "Blocks evicted from host memory before they were written",
    "disk_writes_overflowed": "Blocks not written because too many waited",
    "disk_segments_removed": "Segments given up for new ones",
}
_GAUGES = {
    "host_blocks_capacity": "Rows of the host tier",
    "host_blocks_resident": "Blocks that can be loaded",
    "host_blocks_pinned": "Blocks kept for requests or being copied",
    "disk_blocks_resident": "Blocks that can be read from disk",
    "disk_bytes_used": "Bytes of all segments",
    "disk_bytes_capacity": "Bytes that segments may take",
    "disk_read_bytes_per_s": "Measured speed of reads",
    "disk_write_bytes_per_s": "Measured speed of writes",
    "prefill_tokens_per_s": "Measured speed of computing a prompt's first tokens",
}


@dataclass
class CacheStats(KVConnectorStats):
    """One interval: `counters` are increments, `gauges` the newest values. Plain data, sent between processes."""

    def __post_init__(self) -> None:
        if not self.data:
            self.reset()

    def reset(self) -> None:
        """Empty the interval."""
        self.data: dict[str, Any] = {"counters": {}, "gauges": {}}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Add another interval to this one."""
        counters = self.data["counters"]
        for name, value in other.data["counters"].items():
            counters[name] = counters.get(name, 0) + value
        self.data["gauges"].update(other.data["gauges"])
        return self

    def reduce(self) -> dict[str, int | float]:
        """Return the interval as vLLM's log line prints it."""
        return {**self.data["counters"], **self.data["gauges"]}

    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not self.data["counters"]


class StatsSource:
    """Turns the tiers' monotonic counts into intervals."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def changes(self, tier: HostTier, disk: SegmentIndex | None, costs: CostModel) -> CacheStats | None:
        """Return what happened in the tiers since the last call, None if nothing did."""
        counts = {**tier.counts, "evicted_blocks": tier.index.n_evicted}
        increments = {name: n - self._seen.get(name, 0) for name, n in counts.items() if n != self._seen.get(name, 0)}
        if not increments:
            return None
        self._seen = counts
        now = tier.index.occupancy()
        gauges = {
            "host_blocks_capacity": tier.index.n_rows,
            "host_blocks_resident": now.n_resident,
            "host_blocks_pinned": now.n_pinned,
        }
        if disk is not None:
            prefill_s = costs.prefill_s(0, _PREFILL_TOKENS)
            gauges |= {
                "disk_blocks_resident": disk.n_blocks,
                "disk_bytes_used": disk.n_bytes_used,
                "disk_bytes_capacity": disk.capacity_bytes,
                "disk_read_bytes_per_s": int(costs.read_rate() or 0),
                "disk_write_bytes_per_s": int(costs.write_rate() or 0),
                "prefill_tokens_per_s": int(_PREFILL_TOKENS / prefill_s) if prefill_s else 0,
            }
        return CacheStats(data={"counters": increments, "gauges": gauges})


class PrometheusMetrics(KVConnectorPromMetrics):
    """Registers the metrics and fills them from CacheStats data."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {name: self._make(self._counter_cls, name, text) for name, text in _COUNTERS.items()}
        # With several API servers each has heard something else: what was heard last counts, as for vLLM's own.
        newest = {"multiprocess_mode": "mostrecent"}
        self._gauges = {name: self._make(self._gauge_cls, name, text, **newest) for name, text in _GAUGES.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Record one interval of an engine."""
        for name, value in transfer_stats_data["counters"].items():
            self._counters[name][engine_idx].inc(value)
        for name, value in transfer_stats_data["gauges"].items():
            self._gauges[name][engine_idx].set(value)

    def _make(self, metric_class: Any, name: str, text: str, **options: str) -> dict[int, Any]:
        metric = metric_class(name=f"elmas:{name}", documentation=text, labelnames=self._labelnames, **options)
        return {engine: metric.labels(*values) for engine, values in self.per_engine_labelvalues.items()}
