"""The worker half: owns this rank's view of the host region and carries out the copies the scheduler orders."""

from typing import Any

import torch
from vllm.distributed.parallel_state import get_tp_group

from elmas.errors import UserError
from elmas.settings import CacheSettings
from elmas.tiers.host import HostRegion, align_row, rows_in
from elmas.units import format_bytes
from elmas.vllm.copy_engine import CopyEngine, Finished, make_copy_engine
from elmas.vllm.geometry import Geometry, geometry_of
from elmas.vllm.log import logger
from elmas.vllm.metadata import Confirmations, Handshake, StepOrders
from elmas.vllm.namespace import row_layout
from elmas.vllm.trace_file import add_to_torch_traces
from elmas.vllm.tracing import Trace

IDLE_WAIT_S = 0.005
"""How long a step without a model run waits for a load: longer than a load takes, shorter than anyone notices."""


class WorkerHalf:
    """One per worker process. Its methods are called by one thread, in the order of vLLM's step.

    `ended_loads` and `confirmations` may be called between steps too.
    """

    def __init__(self, vllm_config: Any, n_blocks: int, settings: CacheSettings) -> None:
        self._settings = settings
        self._n_blocks = n_blocks
        self.n_ranks: int = vllm_config.parallel_config.tensor_parallel_size
        self._engine: CopyEngine | None = None
        self._handshake: Handshake | None = None
        self._region: HostRegion | None = None
        self._finished = Finished()
        self._orders = StepOrders()
        self._trace = Trace() if settings.trace else None

    def register(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Learn where the blocks lie, map the host region and start the copy engine.

        Raises UserError when the layout cannot be copied or the memory does not suffice.
        """
        geometry = geometry_of(kv_caches, self._n_blocks)
        device = next(iter(kv_caches.values())).device
        rank = get_tp_group().rank_in_group if self.n_ranks > 1 else 0
        region = self._map_region(geometry, rank)
        self._engine = make_copy_engine(device, geometry, region, rank * geometry.block_bytes, self._trace)
        if self._trace is not None:
            add_to_torch_traces(self._trace, rank)
        self._region = region
        sizes = tuple(segment.n_bytes for segment in geometry.segments)
        self._handshake = Handshake(region.handle, row_layout(kv_caches, geometry), sizes)
        if rank == 0:
            logger.info(
                "elmas: host tier of %s: %d blocks of %s in rows of %s, %d segments per block",
                format_bytes(region.n_rows * region.row_bytes),
                region.n_rows,
                format_bytes(geometry.block_bytes),
                format_bytes(region.row_bytes),
                len(geometry.segments),
            )

    def handshake(self) -> Handshake | None:
        """Return what the scheduler half needs to know of the region."""
        return self._handshake

    def begin_step(self, orders: StepOrders) -> None:
        """Take the step's orders and start its copies, before the model is launched.

        vLLM's own moments come after that. But its blocks have nothing to do with the model's run in this step, which
        may take 30 ms to launch and 200 ms to end; starting copies of 2 MiB each takes two milliseconds per GiB.
        """
        self._orders = orders
        if self._trace is not None:
            self._trace.extend(orders.trace)
        self._running_engine().submit(orders.loads, orders.stores)

    def start_loads(self) -> None:
        """vLLM's moment for loads. With synchronous copies it comes before the model runs, and waits."""
        if not self._settings.async_copies and self._orders.loads:
            self._running_engine().wait_for_all()

    def start_stores(self) -> None:
        """vLLM's moment for stores, after the model was launched. Synchronous copies are waited for."""
        if not self._settings.async_copies and self._orders.stores:
            self._running_engine().wait_for_all()

    def finished_loads(self) -> set[str]:
        """Return the requests whose asynchronous load has ended since the last call, at the end of a step."""
        if self._orders.is_idle:
            # Nothing runs: wait for the copies here instead of spinning through empty steps.
            self._running_engine().wait_for_any(IDLE_WAIT_S)
        return self.ended_loads()

    def ended_loads(self) -> set[str]:
        """Return the requests whose asynchronous load has ended since the last call, without waiting."""
        finished = self._running_engine().poll()
        self._finished.stores += finished.stores
        self._finished.loaded_bytes += finished.loaded_bytes
        self._finished.load_s += finished.load_s
        if self._settings.async_copies:
            return finished.loads
        # The requests run already: vLLM does not wait for these.
        self._finished.loads |= finished.loads
        return set()

    def confirmations(self) -> Confirmations | None:
        """Return the other copies that have ended since the last call."""
        finished, self._finished = self._finished, Finished()
        if not finished.stores and not finished.loads and not finished.loaded_bytes:
            return None
        stores, loads = dict.fromkeys(finished.stores, 1), dict.fromkeys(finished.loads, 1)
        return Confirmations(stores, loads, finished.loaded_bytes, finished.load_s)

    def shutdown(self) -> None:
        """Finish the copies under way; the region goes with the process."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _running_engine(self) -> CopyEngine:
        assert self._engine is not None, "vLLM registers the KV caches before the first step"
        return self._engine

    def _map_region(self, geometry: Geometry, rank: int) -> HostRegion:
        row_bytes = align_row(geometry.block_bytes * self.n_ranks)
        if self.n_ranks == 1:
            return self._create_region(row_bytes)
        # Rank 0 makes the region. An error is sent along, or the other ranks would wait for it for ever.
        outcome: Any = None
        region: HostRegion | None = None
        if rank == 0:
            try:
                region = self._create_region(row_bytes)
                outcome = region.handle
            except (UserError, OSError) as error:
                outcome = error
        outcome = get_tp_group().broadcast_object(outcome, src=0)
        if isinstance(outcome, Exception):
            raise outcome
        return region or HostRegion.attach(outcome)

    def _create_region(self, row_bytes: int) -> HostRegion:
        capacity_bytes = self._settings.host_memory_bytes()
        n_rows = rows_in(capacity_bytes, row_bytes)
        if n_rows < 1:
            raise UserError(
                f"host memory of {format_bytes(capacity_bytes)} holds no block of {format_bytes(row_bytes)}: "
                f"raise --host-memory to at least {format_bytes(row_bytes)}"
            )
        return HostRegion.create(n_rows, row_bytes)
