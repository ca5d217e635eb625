"""What has been copied is known at once where both halves of the connector live in one process, as with one GPU.

Otherwise the scheduler hears of it with the output of the step in which a worker looked, a step or two later. Until
then a request whose blocks are there does not begin, and device blocks whose copies have ended stay taken.
"""

from weakref import WeakValueDictionary

from vllm.v1.outputs import KVConnectorOutput

from elmas.tiers.host import RegionHandle
from elmas.vllm.worker_half import WorkerHalf

_WORKERS: WeakValueDictionary[RegionHandle, WorkerHalf] = WeakValueDictionary()


def announce(worker: WorkerHalf, region: RegionHandle) -> None:
    """The worker is the only one of this region."""
    _WORKERS[region] = worker


def ended_copies(region: RegionHandle) -> KVConnectorOutput | None:
    """Return what the region's worker would report now, which it will not report again; None where it lives in another
    process, or has nothing to report."""
    worker = _WORKERS.get(region)
    if worker is None:
        return None
    loads = worker.ended_loads()
    confirmations = worker.confirmations()
    if not loads and confirmations is None:
        return None
    return KVConnectorOutput(finished_recving=loads or None, kv_connector_worker_meta=confirmations)
