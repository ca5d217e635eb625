"""What a server does with its disk tier over a request's life: plan, read ahead, wait or go on, write what returns.

Drives the segment index, the prefetcher and the write-back, with the host tier between disk and device. The caller
carries out the orders and reports their ends. The order for one request:

    arrive     its blocks are remembered; those that were seen before have a reason to be written
    read for   its blocks on disk that are worth it start to move to host memory, as seen from its place in the queue
    waits      while it is read for, others run; once its turn has come it waits only while that is cheaper
    leave      it runs or is gone: what is still being read for it alone is cancelled
    admit      its new blocks are in host memory: those with a reason to return are queued for writing
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from elmas.cache.costs import CostModel
from elmas.cache.rows import BlockHash, Rows
from elmas.cache.seen import SeenBlocks
from elmas.cache.segments import SegmentIndex
from elmas.cache.sessions import NO_SESSION
from elmas.movement.host_tier import HostTier
from elmas.movement.prefetch import Prefetcher, ReadOrder
from elmas.movement.turns import Turns
from elmas.movement.write_back import WriteBack, WriterOrder

_PREFETCH_SHARE = 0.5
"""Share of the host tier that may hold what was read ahead and not yet used."""

_LOOK_AHEAD_S = 0.5
_LOOK_AHEAD_STEPS = 1.5
"""Reads are handed out for this long ahead, so that the disk does not wait for the engine."""

_LONGEST_STEP_S = 5.0
_STEP_DECAY = 0.8

_MIN_READS = 8

_READ_S = 0.05
_MOST_RUNS_PER_READ = 8
"""A read is ordered as a whole where the disk takes no longer than this for it: fewer orders cost less of the engine's
time, and a slow disk is not tied down for somebody who has gone on."""

_WRITE_SHARE, _WRITE_SHARE_OF_SLOW = 0.5, 0.1
"""Of the speed of a disk that is a help beside computing, and of one that is too slow for that."""

_RUNS_PER_WRITE = 2
"""Fewer, larger writes cost less of the engine's time."""

_TURNS_PER_STEP = 16

_SOON_S = 0.5
_PREFILL_TRIAL_S = 1.0
"""The next request goes on to measure the prefill when the one before has not within this time: it may be gone."""

_LONGEST_READING_S = 1.0
"""Where reading never ends, something is written this often all the same: else nothing new would ever come to disk."""

_PAUSE_AFTER_ERRORS = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True)
class DiskLimits:
    """What the disk tier may take; see CacheSettings for the meaning of the switches.

    `max_run_records` bounds one disk operation, `max_wait_s` how long a request whose turn has come waits for a read.
    """

    block_tokens: int
    row_bytes: int
    max_run_records: int
    max_wait_s: float
    judges_cost: bool = True
    writes: bool = True
    admits_all: bool = False
    write_rate_bytes_per_s: float | None = None
    write_bytes_per_day: int | None = None


@dataclass
class _Request:
    """A live request: which blocks of its prompt have a reason to be written, and whether those of its answer do."""

    admits_answer: bool
    admitted: NDArray[np.bool_]
    session: int


@dataclass(frozen=True)
class Found:
    """The host row and the disk row of each block of a request, NO_ROW where it has none."""

    host_rows: Rows
    disk_rows: Rows


@dataclass
class Orders:
    """What the I/O threads are to do, and which reads they may forget."""

    reads: list[ReadOrder] = field(default_factory=list)
    writes: list[WriterOrder] = field(default_factory=list)


class DiskTier:
    """See the module. One thread owns it."""

    def __init__(
        self,
        index: SegmentIndex,
        host: HostTier,
        costs: CostModel,
        seen: SeenBlocks,
        tails: SeenBlocks,
        limits: DiskLimits,
        now_s: float,
    ) -> None:
        self.index = index
        self.counts: Counter[str] = host.counts
        self.prefetcher = Prefetcher(
            index, host, limits.max_run_records, max(1, int(host.index.n_rows * _PREFETCH_SHARE))
        )
        self.write_back = WriteBack(
            index,
            host,
            record_bytes=limits.row_bytes,
            max_run_records=_RUNS_PER_WRITE * limits.max_run_records,
            max_queued=host.index.n_rows,
            rate_bytes_per_s=limits.write_rate_bytes_per_s,
            bytes_per_day=limits.write_bytes_per_day,
            now_s=now_s,
        )
        self._host = host
        self._costs = costs
        self._seen = seen
        self._tails = tails
        self._requests: dict[str, _Request] = {}
        self._limits = limits
        self._first_missing_token: dict[str, int] = {}
        self.on_wait_over: Callable[[str], None] | None = None
        """Told of each request that is held back no more."""
        self._turns = Turns(limits.max_wait_s)
        self._looked_s = self._may_write_s = now_s
        self._step_s = 0.0
        self._tried_prefill_s = -math.inf
        self._to_cancel: list[int] = []
        self._n_read_errors = 0
        self._pause_s = 0.0
        self._reads_paused_until_s = now_s

    # Reading

    def arrive(self, request: str, hashes: Sequence[BlockHash], session: int = NO_SESSION) -> Found:
        """A request has arrived: remember its blocks, queue for writing what has a reason to return, say where all are.

        A block has one when it was asked for before, or when its session has come back: the prompt goes on where an
        earlier one ended, so all its blocks are likely to be asked for again.
        """
        seen = self._seen.observe(hashes)
        admits_all = self._limits.admits_all or bool(self._tails.seen(hashes).any())
        admitted = np.ones_like(seen) if admits_all else seen
        self._requests[request] = _Request(admits_all, admitted, session)
        self.note_tail(hashes)
        found = self.find(hashes)
        if self._limits.writes:
            places = np.flatnonzero(admitted & (found.host_rows >= 0) & (found.disk_rows < 0))
            self.write_back.admit([hashes[place] for place in places.tolist()], session)
        return found

    def find(self, hashes: Sequence[BlockHash]) -> Found:
        """Return where the blocks are."""
        return Found(self._host.index.lookup(hashes), self.index.lookup(hashes))

    def read_for(
        self,
        request: str,
        hashes: Sequence[BlockHash],
        found: Found,
        n_device: int,
        priority: float,
        n_ahead: int,
        queue_wait_s: float,
        now_s: float,
    ) -> int:
        """Read what is worth it for a request whose first `n_device` blocks are on the device.

        `hashes` are the blocks it could use, and `found` (which may be longer) says where they are; it runs after
        `n_ahead` others, in about `queue_wait_s`. What lies between the resident blocks and the first block that is
        nowhere is read, as far as that pays. Returns how many of its blocks need not be computed if all of that comes.
        """
        host_rows, disk_rows = found.host_rows[: len(hashes)], found.disk_rows[: len(hashes)]
        available = (host_rows >= 0) | (disk_rows >= 0)
        available[:n_device] = True
        nowhere = np.flatnonzero(~available)
        end = int(nowhere[0]) if nowhere.size else len(hashes)
        self._host.expect(request, host_rows[:end][host_rows[:end] >= 0], now_s)
        known = self._requests.get(request)
        session = NO_SESSION if known is None else known.session
        self.index.use(disk_rows[:end][disk_rows[:end] >= 0], now_s, session)
        missing = n_device + np.flatnonzero(host_rows[n_device:end] < 0)
        if missing.size == 0:
            return end
        if now_s < self._reads_paused_until_s:
            self.counts["disk_plan_paused"] += 1
            return int(missing[0])
        wanted = missing[: self._plan(missing, queue_wait_s)]
        if wanted.size:
            self.counts["disk_prefetches"] += 1
            self.prefetcher.start(
                request, [hashes[place] for place in wanted.tolist()], disk_rows[wanted], priority, session
            )
            self._first_missing_token[request] = int(wanted[0]) * self._limits.block_tokens
            self._turns.hold(request, n_ahead)
        return int(missing[wanted.size]) if wanted.size < missing.size else end

    def prefetch(self, name: str, hashes: Sequence[BlockHash], priority: float, now_s: float) -> None:
        """A session is about to return, without a request so far: its blocks are kept and read under this name, until
        `leave` and the host tier's `dismiss`. Nothing is held back for it."""
        found = self.find(hashes)
        nowhere = np.flatnonzero((found.host_rows < 0) & (found.disk_rows < 0))
        end = int(nowhere[0]) if nowhere.size else len(hashes)
        self._host.expect(name, found.host_rows[:end][found.host_rows[:end] >= 0], now_s)
        missing = np.flatnonzero(found.host_rows[:end] < 0)
        if missing.size and now_s >= self._reads_paused_until_s:
            self.counts["disk_prefetches"] += 1
            self.prefetcher.start(
                name, [hashes[place] for place in missing.tolist()], found.disk_rows[missing], priority
            )

    def is_waiting(self, request: str) -> bool:
        """Return whether the request should step aside because it is being read for."""
        return request in self._first_missing_token

    @property
    def write_share(self) -> float:
        """Share of the disk's speed that is written at most where no rate was given. What is written to a disk that is
        no help while the server runs is for its next start, and for sessions that return late."""
        return _WRITE_SHARE if self.is_worth_a_row else _WRITE_SHARE_OF_SLOW

    @property
    def is_worth_a_row(self) -> bool:
        """Whether what host memory would refuse should pass through it, to be written. That costs copies, and what has
        to go for it, so not for a disk that is much slower than computing, unless everything is to be written or costs
        are not to be judged. What host memory keeps is written anyway."""
        limits = self._limits
        if not limits.writes:
            return False
        return (
            limits.admits_all
            or not limits.judges_cost
            or self._costs.is_disk_a_help(limits.row_bytes, limits.block_tokens)
        )

    @property
    def n_waiting(self) -> int:
        """Requests that are being read for."""
        return len(self._first_missing_token)

    def look(self, now_s: float) -> None:
        """To be called in every step: let those go on that are past their deadline.

        A read needs one step to be handed out and another to be noticed, so long steps move deadlines.
        """
        step_s = min(_LONGEST_STEP_S, now_s - self._looked_s)
        self._looked_s, self._step_s = now_s, max(step_s, _STEP_DECAY * self._step_s)
        for request in self._turns.overdue(now_s, 2 * self._step_s):
            self._go_on(request, "disk_gone_deadline")

    def begun(self, now_s: float) -> None:
        """One more request of the queue has begun to run."""
        self._turns.begun(now_s)

    def take_turns(self, now_s: float) -> None:
        """The device has room for the next requests and nobody else wants it: let go those for whom waiting costs more
        than recomputing.

        Only the first few are asked: they run at once, and meanwhile the answer changes for the rest.
        """
        n_bytes_before = 0
        for request in list(islice(self._first_missing_token, _TURNS_PER_STEP)):
            self.take_turn(request, n_bytes_before, now_s)
            n_bytes_before += self.prefetcher.n_left(request) * self._limits.row_bytes  # none if it goes on

    def take_turn(self, request: str, n_bytes_before: int, now_s: float) -> None:
        """The device has room for this request: let it go on unless waiting is cheaper than recomputing.

        `n_bytes_before` are read for others before it. While nobody knows what computing costs, as after a start, one
        request that would wait long goes on to find out, and the others wait for it.
        """
        self._turns.come(request, now_s)
        if not self._limits.judges_cost:
            return
        first_token, n_left = self._first_missing_token[request], self.prefetcher.n_left(request)
        n_bytes, n_tokens = n_left * self._limits.row_bytes, n_left * self._limits.block_tokens
        if not self._costs.knows_prefill:
            is_soon = (self._costs.landing_s(n_bytes_before, n_bytes) or 0.0) <= _SOON_S
            if not is_soon and now_s - self._tried_prefill_s >= _PREFILL_TRIAL_S:
                self._tried_prefill_s = now_s
                self._go_on(request, "disk_gone_to_measure")
            return
        if not self._costs.should_wait(n_bytes_before, n_bytes, first_token, n_tokens):
            self._go_on(request, "disk_gone_cheaper")

    def leave(self, request: str) -> None:
        """The request runs or is gone: what is still being read for it alone is cancelled."""
        self._release(request)
        self._to_cancel += self.prefetcher.stop(request)

    # Writing

    def note_tail(self, hashes: Sequence[BlockHash]) -> None:
        """A prompt, or an answer, ends with the last of these blocks: who continues it has come back."""
        if hashes:
            self._tails.mark(hashes[-1:])

    def admitted(self, request: str, hashes: Sequence[BlockHash], places: Sequence[int]) -> list[BlockHash]:
        """Return those of the request's blocks `places` that are to be written once they are in host memory."""
        known = self._requests.get(request)
        if known is None or not self._limits.writes:
            return []
        n_known = known.admitted.size
        return [hashes[p] for p in places if (known.admitted[p] if p < n_known else known.admits_answer)]

    def admit(self, blocks: Sequence[BlockHash], session: int = NO_SESSION) -> None:
        """These blocks of a session, which `admitted` returned, are in host memory now."""
        self.write_back.admit(blocks, session)

    def forget(self, request: str) -> None:
        """The request is gone."""
        self.leave(request)
        self._requests.pop(request, None)

    # The I/O threads

    def take_orders(self, now_s: float) -> Orders:
        """Return what to start now. While anything is read, next to nothing is written."""
        orders = Orders()
        n_most = self._reads_ahead()
        self.prefetcher.max_run_records = self._records_per_read()
        while self.prefetcher.n_blocks_reading < n_most:
            order = self.prefetcher.next_order(now_s)
            if order is None:
                break
            orders.reads.append(order)
        self._note_landed()
        if self._limits.writes:
            self._take_writes(orders.writes, now_s)
        return orders

    def _take_writes(self, writes: list[WriterOrder], now_s: float) -> None:
        is_reading = self.prefetcher.n_reads > 0
        if is_reading and now_s - self._may_write_s < _LONGEST_READING_S:
            return
        self._may_write_s = now_s
        while (write := self.write_back.next_order(now_s)) is not None:
            writes.append(write)
            if is_reading:
                return

    def take_cancelled(self) -> list[int]:
        """Return the reads nobody waits for; `prefetcher.dropped` must be told of those that had not begun."""
        cancelled, self._to_cancel = self._to_cancel, []
        return [number for number in cancelled if self.prefetcher.is_idle(number)]

    def read_done(self, number: int, good: NDArray[np.bool_], failed: bool, now_s: float) -> None:
        """A read has ended; `failed` says that the operation itself failed, as opposed to its content."""
        if failed:
            self.counts["disk_read_errors"] += 1
            self._n_read_errors += 1
            # Reads that were under way when a pause began do not prolong it.
            if self._n_read_errors >= _PAUSE_AFTER_ERRORS and now_s >= self._reads_paused_until_s:
                self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
                self._reads_paused_until_s = now_s + self._pause_s
        else:
            self._n_read_errors, self._pause_s = 0, 0.0
        self.counts["disk_read_blocks"] += int(np.count_nonzero(good))
        self.prefetcher.done(number, good, now_s)
        self._note_landed()

    def has_work(self, now_s: float) -> bool:
        """Whether the engine should go on stepping though no request is left: writes are under way or could be."""
        if self.prefetcher.n_reads or self.write_back.is_busy:
            return True
        return self._limits.writes and self.write_back.n_queued > 0 and self.write_back.wait_s(now_s) < 1.0

    def clear(self) -> tuple[int, ...] | None:
        """Forget everything on disk; returns the segments to remove, None while operations are under way."""
        self.write_back.clear()
        for request in list(self._first_missing_token):
            self.leave(request)
        if self.prefetcher.n_reads or self.write_back.is_busy:
            return None
        return self.index.clear()

    def _reads_ahead(self) -> int:
        """How many blocks may be under way at once."""
        rate = self._costs.read_rate()
        look_ahead_s = max(_LOOK_AHEAD_S, _LOOK_AHEAD_STEPS * self._step_s)
        by_rate = 0 if rate is None else int(rate * look_ahead_s / self._limits.row_bytes)
        return max(by_rate, _MIN_READS * self._limits.max_run_records)

    def _records_per_read(self) -> int:
        n_records = self._limits.max_run_records
        n_in_time = (self._costs.read_rate() or 0.0) * _READ_S / self._limits.row_bytes
        return min(_MOST_RUNS_PER_READ * n_records, max(n_records, int(n_in_time)))

    def _outstanding_bytes(self) -> int:
        return self.prefetcher.n_blocks_left * self._limits.row_bytes

    def _plan(self, missing: NDArray[np.int64], queue_wait_s: float) -> int:
        if not self._limits.judges_cost:
            return int(missing.size)
        plan = self._costs.plan_prefetch(
            int(missing.size),
            self._limits.block_tokens,
            self._limits.row_bytes,
            int(missing[0]) * self._limits.block_tokens,
            queue_wait_s,
            self._outstanding_bytes(),
        )
        self.counts[f"disk_plan_{plan.reason}"] += 1
        return plan.n_blocks

    def _go_on(self, request: str, reason: str) -> None:
        self.counts[reason] += 1
        self._release(request)
        self._to_cancel += self.prefetcher.wait_no_more(request)

    def _note_landed(self) -> None:
        for request in self.prefetcher.take_ended():
            if self._release(request):
                self.counts["disk_landed"] += 1

    def _release(self, request: str) -> bool:
        """Hold the request back no more; returns whether it was."""
        self._turns.release(request)
        if self._first_missing_token.pop(request, None) is None:
            return False
        if self.on_wait_over is not None:
            self.on_wait_over(request)
        return True
