"""What moves bytes in virtual time: copies between device and host memory, and a disk.

Each direction does one operation after another at its full speed, which takes as long in all as sharing it would.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from elmas.cache.costs import CostModel
from elmas.movement.disk_tier import DiskTier
from elmas.movement.prefetch import ReadOrder
from elmas.movement.write_back import WriteOrder


class CopyChannel:
    """Copies of one direction, by number, in the order in which they were started."""

    def __init__(self, bytes_per_s: float) -> None:
        self.n_bytes = 0
        self.next_end_s = math.inf
        """When the next copy ends; infinite without one."""
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0
        self._under_way: deque[tuple[float, int]] = deque()

    def start(self, number: int, n_bytes: int, now_s: float) -> float:
        """Copy so many bytes; returns the seconds that takes once its turn has come."""
        seconds = n_bytes / self._bytes_per_s
        self._free_s = max(self._free_s, now_s) + seconds
        self._under_way.append((self._free_s, number))
        self.next_end_s = self._under_way[0][0]
        self.n_bytes += n_bytes
        return seconds

    def take_ended(self, now_s: float) -> list[int]:
        """Return the copies that have ended by now."""
        ended = []
        while self._under_way and self._under_way[0][0] <= now_s:
            ended.append(self._under_way.popleft()[1])
        self.next_end_s = self._under_way[0][0] if self._under_way else math.inf
        return ended


@dataclass(frozen=True)
class DiskSpeed:
    """How fast a disk is: bytes per second each way, and the latency of one operation."""

    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float


class VirtualDisk:
    """Carries out a disk tier's orders in virtual time, as the server's I/O threads do, without content."""

    def __init__(
        self, tier: DiskTier, costs: CostModel, speed: DiskSpeed, row_bytes: int, limits_own_rate: bool
    ) -> None:
        """`limits_own_rate`: the tier was not given a rate, and writes at most its share of the disk's speed."""
        self.tier = tier
        self.n_bytes_read = 0
        self.n_bytes_written = 0
        self._costs = costs
        self._speed = speed
        self._row_bytes = row_bytes
        self._reads: list[tuple[float, int, ReadOrder, float]] = []
        self._reads_free_s = 0.0
        self._read_done: deque[tuple[float, ReadOrder]] = deque()
        self._writes_free_s = 0.0
        self._write_done: deque[tuple[float, int]] = deque()
        costs.set_read_rate(speed.read_bytes_per_s)
        self._limits_own_rate = limits_own_rate
        if not limits_own_rate:
            tier.write_back.limit_rate(speed.write_bytes_per_s, 0.0)

    @property
    def is_reading(self) -> bool:
        """Whether reads are under way."""
        return self.tier.prefetcher.n_reads > 0

    @property
    def next_end_s(self) -> float:
        """When the next operation ends, infinite without one."""
        next_s = self._write_done[0][0] if self._write_done else math.inf
        if self._read_done:
            return min(next_s, self._read_done[0][0])
        return min(next_s, self._reads_free_s) if self._reads else next_s

    def pump(self, now_s: float) -> None:
        """Take in what has ended, and begin what the tier wants next."""
        tier = self.tier
        self._begin_reads(now_s)
        while self._read_done and self._read_done[0][0] <= now_s:
            read = self._read_done.popleft()[1]
            tier.read_done(read.number, np.ones(read.run.n_records, dtype=np.bool_), False, now_s)
        while self._write_done and self._write_done[0][0] <= now_s:
            tier.write_back.done(self._write_done.popleft()[1], False, now_s)
        if self._limits_own_rate:
            tier.write_back.limit_rate(tier.write_share * self._speed.write_bytes_per_s, now_s)
        tier.look(now_s)
        cancelled = set(tier.take_cancelled())
        if cancelled:
            dropped = [number for _, number, _, _ in self._reads if number in cancelled]
            self._reads = [entry for entry in self._reads if entry[1] not in cancelled]
            heapq.heapify(self._reads)
            tier.prefetcher.dropped(dropped)
        orders = tier.take_orders(now_s)
        for order in orders.reads:
            heapq.heappush(self._reads, (order.priority, order.number, order, now_s))
        for write in orders.writes:
            seconds = 0.0
            if isinstance(write, WriteOrder):
                n_bytes = write.run.n_records * self._row_bytes
                seconds = n_bytes / self._speed.write_bytes_per_s
                self.n_bytes_written += n_bytes
            self._writes_free_s = max(self._writes_free_s, now_s) + seconds
            self._write_done.append((self._writes_free_s, write.number))
        self._begin_reads(now_s)

    def _begin_reads(self, now_s: float) -> None:
        """Begin the reads whose turn has come by now, by priority."""
        while self._reads and self._reads_free_s <= now_s:
            _, _, order, ordered_s = heapq.heappop(self._reads)
            n_bytes = order.run.n_records * self._row_bytes
            seconds = n_bytes / self._speed.read_bytes_per_s
            self._reads_free_s = max(self._reads_free_s, ordered_s) + seconds
            self._read_done.append((self._reads_free_s + self._speed.latency_s, order))
            self.n_bytes_read += n_bytes
            self._costs.observe_read(n_bytes, seconds)
