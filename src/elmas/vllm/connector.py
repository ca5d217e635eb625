"""ElmasConnector: MT-APC as a KV connector of stock vLLM.

vLLM makes one instance in the engine process and one in each worker; each holds one half and passes vLLM's calls on.
An internal error of the scheduler half turns the cache off and leaves a server that recomputes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.platforms import current_platform
from vllm.v1.metrics.stats import CacheHitSource

from elmas.settings import CacheSettings
from elmas.vllm.disk_half import disk_maker
from elmas.vllm.log import logger
from elmas.vllm.metadata import Confirmations, Handshake, StepOrders
from elmas.vllm.metrics import CacheStats, PrometheusMetrics, StatsSource
from elmas.vllm.same_process import announce
from elmas.vllm.scheduler_half import SchedulerHalf
from elmas.vllm.support import check_supported
from elmas.vllm.traced_half import TracedSchedulerHalf
from elmas.vllm.tracing import Trace
from elmas.vllm.worker_half import WorkerHalf

_Result = TypeVar("_Result")


class ElmasConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module. Settings come from `kv_connector_extra_config`; see elmas.settings.CacheSettings."""

    _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.settings = CacheSettings.parse(vllm_config.kv_transfer_config.kv_connector_extra_config)
        check_supported(vllm_config, kv_cache_config)
        self._stats = StatsSource()
        if role == KVConnectorRole.SCHEDULER:
            n_ranks = vllm_config.parallel_config.tensor_parallel_size
            block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
            trace = Trace() if self.settings.trace else None
            make_disk = disk_maker(vllm_config, kv_cache_config, self.settings, block_size, trace)
            if trace is None:
                self.scheduler_half = SchedulerHalf(block_size, n_ranks, self.settings, make_disk)
            else:
                self.scheduler_half = TracedSchedulerHalf(block_size, n_ranks, self.settings, make_disk, trace)
        else:
            self.worker_half = WorkerHalf(vllm_config, kv_cache_config.num_blocks, self.settings)

    @property
    def requires_kv_delivery(self) -> bool:
        """A dropped store is a later miss: nothing has to be delivered."""
        return False

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """All layers of a block together, so that a block is one piece to copy; the CPU backend has one layout only."""
        return None if current_platform.is_cpu() else "BLHNC"

    # Worker half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """vLLM's blocks exist."""
        self.worker_half.register(kv_caches)
        handshake = self.worker_half.handshake()
        if handshake is not None and self.worker_half.n_ranks == 1:
            announce(self.worker_half, handshake.region)

    def get_handshake_metadata(self) -> Handshake | None:
        """Sent to the scheduler half once, after `register_kv_caches`."""
        return self.worker_half.handshake()

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        """A step begins with these orders."""
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, StepOrders)
        self.worker_half.begin_step(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Once per step; before the model runs when the step needs a synchronous load, else after its launch."""
        self.worker_half.start_loads()

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are whole blocks, complete before the request runs."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Stores are whole blocks, after the step that completed them."""

    def wait_for_save(self) -> None:
        """Once per step, after the model's launch."""
        self.worker_half.start_stores()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Return (None, requests whose load has ended)."""
        return None, self.worker_half.finished_loads() or None

    def build_connector_worker_meta(self) -> Confirmations | None:
        """Return what the scheduler half has to learn from this step."""
        return self.worker_half.confirmations()

    def shutdown(self) -> None:
        """The process ends."""
        if self.role == KVConnectorRole.WORKER:
            self.worker_half.shutdown()
        else:
            self.scheduler_half.close()

    # Scheduler half

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """vLLM's block manager exists."""
        super().bind_kv_cache_manager(kv_cache_manager)
        self.scheduler_half.bind(kv_cache_manager)

    def set_xfer_handshake_metadata(self, metadata: dict[int, Any]) -> None:
        """All workers have mapped the host region."""
        self.scheduler_half.connect(metadata)

    def on_new_request(self, request: Any) -> None:
        """A request has arrived."""
        self._contain(lambda: self.scheduler_half.add(request), None)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Return how many tokens the host tier has beyond the device's, and whether they are loaded between steps.

        (None, False): ask again, the request waits for the disk.
        """
        n_tokens = self._contain(lambda: self.scheduler_half.offer(request, num_computed_tokens), None)
        if n_tokens is None and self.scheduler_half.is_off:
            n_tokens = 0
        return n_tokens, bool(n_tokens) and self.settings.async_copies

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[CacheHitSource, int]:
        """Return the tier that the loaded tokens came from for this request."""
        n_disk = self._contain(lambda: self.scheduler_half.take_tokens_from_disk(request), 0)
        sources = {CacheHitSource.DISK: n_disk, CacheHitSource.HOST: num_external_tokens - n_disk}
        return {source: n_tokens for source, n_tokens in sources.items() if n_tokens}

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Device blocks were allocated. A load that vLLM counts on must be ordered: an error there is not contained."""
        if num_external_tokens:
            self.scheduler_half.accept(request, blocks.get_block_ids()[0], num_external_tokens)
        else:
            self._contain(lambda: self.scheduler_half.accept(request, (), 0), None)

    def build_connector_meta(self, scheduler_output: Any) -> StepOrders:
        """Return this step's copies."""
        self._contain(lambda: self.scheduler_half.plan_step(scheduler_output.num_scheduled_tokens), None)
        return self.scheduler_half.take_orders(is_idle=scheduler_output.total_num_scheduled_tokens == 0)

    def update_connector_output(self, connector_output: Any) -> None:
        """The workers have done a step."""
        self._contain(lambda: self.scheduler_half.loaded(connector_output.finished_recving or ()), None)
        confirmations = connector_output.kv_connector_worker_meta
        if confirmations is not None:
            self._contain(lambda: self.scheduler_half.confirmed(confirmations), None)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """The request has ended; blocks that still have to be stored are held by the block pool."""
        self._contain(lambda: self.scheduler_half.finish(request), None)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See request_finished."""
        return self.request_finished(request, block_ids[0])

    def has_pending_push_work(self) -> bool:
        """Keep stepping until the last stores are confirmed, and the disk has nothing to do."""
        return self.scheduler_half.has_work

    def reset_cache(self) -> bool:
        """Empty the tier, as far as no request is using it."""
        return self.scheduler_half.clear()

    # Metrics

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """Return what changed since the last call, None when nothing did."""
        if self.role != KVConnectorRole.SCHEDULER:
            return None
        self._contain(self.scheduler_half.step_done, None)
        half = self.scheduler_half
        tier, disk = half.tier, half.disk.tier if half.disk is not None else None
        index = disk.index if disk is not None else None
        return self._contain(lambda: self._stats.changes(tier, index, half.costs), None) if tier is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        """Return the stats object for data that came from the engine process."""
        return CacheStats(data=data) if data is not None else CacheStats()

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> PrometheusMetrics:
        """Return the exporter of the elmas: metrics."""
        return PrometheusMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def _contain(self, call: Callable[[], _Result], otherwise: _Result) -> _Result:
        """Return what `call` returns; after an error turn the cache off and return `otherwise`."""
        try:
            return call()
        except Exception:
            if not self.scheduler_half.is_off:
                logger.exception("elmas: internal error; the cache is off from now on and the server recomputes")
            self.scheduler_half.turn_off()
            return otherwise
