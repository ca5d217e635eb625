"""The interface of copy engines: what moves bytes between the device's blocks and the host's rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion
from elmas.vllm.geometry import Geometry
from elmas.vllm.tracing import Trace


@dataclass
class Finished:
    """Transfers that ended since the last poll: requests whose load is there, numbers of stores.

    `load_s` is how long the copies of `loaded_bytes` took, from the first byte to the last of each batch.
    """

    loads: set[str] = field(default_factory=set)
    stores: list[int] = field(default_factory=list)
    loaded_bytes: int = 0
    load_s: float = 0.0


class CopyEngine(Protocol):
    """Copies blocks in the background. Called by one thread.

    The caller guarantees that, until a transfer is reported as finished, its device blocks and host rows are not given
    to anything else, and that the source of a store is no longer written to.
    """

    def submit(self, loads: Sequence[Transfer], stores: Sequence[Transfer]) -> None:
        """Start copies; loads go first. They wait for the device's work launched so far, and for none that is launched
        later."""

    def poll(self) -> Finished:
        """Return what has finished since the last call, without waiting."""

    def wait_for_any(self, timeout_s: float) -> None:
        """Return when something has finished that was not polled yet, when nothing is under way, or after the time."""

    def wait_for_all(self) -> None:
        """Return when everything submitted has finished."""

    def close(self) -> None:
        """Finish what is under way and release threads and registrations."""


def make_copy_engine(
    device: torch.device, geometry: Geometry, region: HostRegion, shard_offset: int, trace: Trace | None = None
) -> CopyEngine:
    """Return the engine for a device; `shard_offset` is where this rank's bytes start in a row. Copies are recorded in
    `trace`."""
    if device.type == "cpu":
        from elmas.vllm.copy_cpu import ThreadCopyEngine

        return ThreadCopyEngine(geometry, region, shard_offset, trace)
    from elmas.vllm.copy_cuda import StreamCopyEngine

    return StreamCopyEngine(device, geometry, region, shard_offset, trace)
