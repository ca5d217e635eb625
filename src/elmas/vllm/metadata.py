"""What the two halves of the connector send each other."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from elmas.movement.transfers import Transfer
from elmas.tiers.host import RegionHandle
from elmas.vllm.tracing import Event


@dataclass
class StepOrders(KVConnectorMetadata):
    """Scheduler to worker, once per step: the copies to start. `is_idle` means the step runs no model.

    `trace` has what the scheduler half recorded since the last step; nothing without --profiling.
    """

    loads: list[Transfer] = field(default_factory=list)
    stores: list[Transfer] = field(default_factory=list)
    is_idle: bool = False
    trace: list[Event] = field(default_factory=list)


@dataclass
class Confirmations(KVConnectorWorkerMetadata):
    """Worker to scheduler: copies that have ended, each with how many ranks have ended it.

    `stores` by transfer number. `loads` by request, only where copies are synchronous: vLLM itself tracks the
    asynchronous ones. `load_s` is how long loading `loaded_bytes` took; ranks copy at the same time.
    """

    stores: dict[int, int]
    loads: dict[str, int]
    loaded_bytes: int = 0
    load_s: float = 0.0

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Confirmations":
        """Return the confirmations of both."""
        assert isinstance(other, Confirmations)
        for number, n_ranks in other.stores.items():
            self.stores[number] = self.stores.get(number, 0) + n_ranks
        for request, n_ranks in other.loads.items():
            self.loads[request] = self.loads.get(request, 0) + n_ranks
        self.loaded_bytes += other.loaded_bytes
        self.load_s = max(self.load_s, other.load_s)
        return self


@dataclass
class Handshake(KVConnectorHandshakeMetadata):
    """Worker to scheduler, once at start: where the host region is, and what lies where in this rank's part of a row.

    `layout` is a digest (namespace.row_layout), `segment_bytes` the sizes of the parts of a block in their order.
    """

    region: RegionHandle
    layout: str = ""
    segment_bytes: tuple[int, ...] = ()
