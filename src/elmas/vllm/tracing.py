"""What elmas does, on a time line: recorded while a server that was started with --profiling runs.

Events are kept in a bounded buffer at all times, and become part of the traces that torch's profiler writes between
POST /start_profile and /stop_profile (`trace_file`). Times are nanoseconds since the epoch, as in those traces.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elmas.tiers.disk.format import Verdict
from elmas.tiers.disk.io_pool import Store

MOST_EVENTS = 100_000
"""The oldest go first. A trace with more than that is of no use to anybody."""

Kind = Literal["slice", "mark", "count"]

LOADS = "loads, host to device"
STORES = "stores, device to host"
DISK_READS = "disk reads"
DISK_WRITES = "disk writes"
PREFETCHES = "prefetches: requests being read for"
ADMISSIONS = "admission"
ORDER = "order of requests"
STEPS = "steps"
TRACKS = (STEPS, ADMISSIONS, ORDER, PREFETCHES, LOADS, STORES, DISK_READS, DISK_WRITES)
"""The tracks, from the top."""


class Event(NamedTuple):
    """Something on a track that took a while ("slice") or did not ("mark"), or values at a moment ("count")."""

    kind: Kind
    track: str
    name: str
    begin_ns: int
    end_ns: int
    arguments: dict[str, Any]


class Trace:
    """The newest events of one process. Any thread may record."""

    def __init__(self, max_events: int = MOST_EVENTS) -> None:
        self._events: deque[Event] = deque(maxlen=max_events)
        self._lock = threading.Lock()

    def slice(self, track: str, name: str, begin_ns: int, end_ns: int | None = None, **arguments: Any) -> None:
        """Record what began at `begin_ns` and ended then, or now."""
        self._add(Event("slice", track, name, begin_ns, time.time_ns() if end_ns is None else end_ns, arguments))

    def mark(self, track: str, name: str, **arguments: Any) -> None:
        """Record what happens now."""
        now_ns = time.time_ns()
        self._add(Event("mark", track, name, now_ns, now_ns, arguments))

    def count(self, name: str, **values: float) -> None:
        """Record what some values are from now on."""
        now_ns = time.time_ns()
        self._add(Event("count", name, name, now_ns, now_ns, values))

    def extend(self, events: Iterable[Event]) -> None:
        """Take over events that another process, or another part of this one, has recorded."""
        with self._lock:
            self._events.extend(events)

    def take(self) -> list[Event]:
        """Return all events and forget them."""
        with self._lock:
            taken = list(self._events)
            self._events.clear()
        return taken

    def since(self, begin_ns: int) -> list[Event]:
        """Return the events that had not ended at that time."""
        with self._lock:
            return [event for event in self._events if event.end_ns >= begin_ns]

    def _add(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)


class TracedStore:
    """A store of disk segments whose operations are recorded, in the threads that carry them out. See Store."""

    def __init__(self, store: Store, trace: Trace) -> None:
        self._store = store
        self._trace = trace

    def create(self, segment: int) -> None:
        """Make an empty segment."""
        self._record(DISK_WRITES, "create", segment, 0, lambda: self._store.create(segment))

    def write(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Write adjacent records."""
        n_bytes = sum(payload.nbytes for payload in payloads)
        self._record(
            DISK_WRITES, "write", segment, n_bytes, lambda: self._store.write(segment, first_slot, keys, payloads)
        )

    def seal(self, segment: int, keys: NDArray[np.uint8], present: NDArray[np.bool_]) -> None:
        """Complete a segment."""
        self._record(DISK_WRITES, "seal", segment, 0, lambda: self._store.seal(segment, keys, present))

    def remove(self, segment: int) -> None:
        """Delete a segment."""
        self._record(DISK_WRITES, "remove", segment, 0, lambda: self._store.remove(segment))

    def read(
        self, segment: int, first_slot: int, keys: Sequence[bytes], payloads: Sequence[NDArray[np.uint8]]
    ) -> list[Verdict]:
        """Read and verify adjacent records."""
        n_bytes = sum(payload.nbytes for payload in payloads)
        verdicts: list[Verdict] = []
        self._record(
            DISK_READS,
            "read",
            segment,
            n_bytes,
            lambda: verdicts.extend(self._store.read(segment, first_slot, keys, payloads)),
        )
        return verdicts

    def _record(self, track: str, name: str, segment: int, n_bytes: int, call: Callable[[], None]) -> None:
        begin_ns = time.time_ns()
        failed = True
        try:
            call()
            failed = False
        finally:
            arguments = {"segment": segment, "bytes": n_bytes} | ({"failed": True} if failed else {})
            self._trace.slice(track, name, begin_ns, **arguments)
