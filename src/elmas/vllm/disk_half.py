"""The disk part of the scheduler half: opens the store beside the engine's start, and carries orders to its threads.

Decisions are the disk tier's (movement); bytes are the I/O threads' (tiers/disk). Nothing here can stop the server:
what goes wrong leaves it without a disk.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from vllm.v1.core import kv_cache_utils

from elmas.cache.costs import CostModel
from elmas.cache.retention import POLICIES
from elmas.cache.seen import SeenBlocks
from elmas.cache.segments import SegmentIndex
from elmas.cache.sessions import Sessions
from elmas.errors import UserError
from elmas.movement.disk_tier import DiskLimits, DiskTier
from elmas.movement.host_tier import HostTier
from elmas.movement.write_back import OpenOrder, WriteOrder
from elmas.settings import CacheSettings
from elmas.tiers.disk.directory import prepare_directory
from elmas.tiers.disk.files import DirectFiles, Files, aligned_pages
from elmas.tiers.disk.format import Namespace, Verdict
from elmas.tiers.disk.io_pool import Done, IoPool
from elmas.tiers.disk.scan import FoundSegment
from elmas.tiers.disk.store import DiskStore
from elmas.tiers.disk.throttled import ThrottledFiles
from elmas.tiers.host import ROW_ALIGNMENT_BYTES, HostRegion
from elmas.units import format_bytes
from elmas.vllm.log import logger
from elmas.vllm.metadata import Handshake
from elmas.vllm.namespace import namespace_facts
from elmas.vllm.tracing import Trace, TracedStore

_RUN_BYTES = 8 << 20
"""One operation moves this much: enough for full speed, little enough that nothing waits long behind it."""

_N_READERS = 4
_LONGEST_WRITE_DELAY_S = 1.0
"""For the few writes that are ordered although reading does not end."""

_SEEN_BLOCKS = 1 << 20
_SEEN_TAILS = 1 << 16

_PROBE_S = 0.3
_NONE_HASH_WAIT_S = 600.0
_CLOSE_S = 2.0

_LEAST_WRITE_RATE = 8 << 20


@dataclass(frozen=True)
class Opened:
    """What the opening thread hands over."""

    tier: DiskTier
    pool: IoPool
    store: DiskStore


class Facts(Protocol):
    """The facts of a namespace, which may be known only after a while."""

    def wait(self) -> dict[str, Any]:
        """Return them; raises UserError when there are none to be had."""


class NamespaceSource:
    """The facts of the namespace; `wait` returns them once vLLM has chosen its first hash."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, layout: Mapping[str, Any]) -> None:
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._layout = layout

    def wait(self) -> dict[str, Any]:
        """Return the facts; raises UserError when the weights cannot be told."""
        deadline_s = time.monotonic() + _NONE_HASH_WAIT_S
        # vLLM sets it after it has made the connector, and before it serves.
        while not hasattr(kv_cache_utils, "NONE_HASH"):
            if time.monotonic() > deadline_s:
                raise UserError("vLLM has not chosen its first block hash: keep prefix caching enabled")
            time.sleep(0.01)
        none_hash = bytes(kv_cache_utils.NONE_HASH)
        return namespace_facts(self._vllm_config, self._kv_cache_config, self._layout, none_hash)


class DiskHalf:
    """One per engine. All methods but the opening thread's are called by the engine's thread.

    `facts` describe vLLM's part of the namespace once vLLM's first hash is known. `files` replace the directory's own.
    One operation moves at most `run_bytes`. Operations are recorded in `trace`.
    """

    def __init__(
        self,
        settings: CacheSettings,
        host: HostTier,
        region: HostRegion,
        costs: CostModel,
        sessions: Sessions,
        block_tokens: int,
        facts: Facts,
        files: Files | None = None,
        run_bytes: int = _RUN_BYTES,
        trace: Trace | None = None,
    ) -> None:
        assert settings.disk is not None
        assert settings.disk_capacity is not None
        self.tier: DiskTier | None = None
        self._settings = settings
        self._host = host
        self._region = region
        self._costs = costs
        self._sessions = sessions
        self._block_tokens = block_tokens
        self._facts = facts
        self._files = files
        self._run_bytes = run_bytes
        self._trace = trace
        self._pool: IoPool | None = None
        self._store: DiskStore | None = None
        self._opened: Opened | None = None
        self._limits_own_rate = settings.disk_write_rate is None
        self._has_logged_error = False
        self._was_reading = False
        self._opening = threading.Thread(target=self._open, name="elmas-disk-open", daemon=True)
        self._opening.start()

    def wait_until_open(self, timeout_s: float) -> bool:
        """Wait for the opening thread, and return whether there is a disk tier. For tests and benchmarks."""
        self._opening.join(timeout_s)
        self.pump(time.monotonic())
        return self.tier is not None

    def pump(self, now_s: float) -> None:
        """Take in what the threads have ended, and hand out what is to be done next."""
        tier = self.tier
        if tier is None:
            if self._opened is None:
                return
            tier = self.tier = self._opened.tier
            self._pool, self._store = self._opened.pool, self._opened.store
        pool = self._pool
        assert pool is not None
        for done in pool.poll():
            self._take(tier, done, now_s)
        self._learn(tier, pool, now_s)
        tier.look(now_s)
        cancelled = tier.take_cancelled()
        if cancelled:
            tier.prefetcher.dropped(pool.cancel(cancelled))
        orders = tier.take_orders(now_s)
        for order in orders.reads:
            pool.read(order.number, order.priority, order.run)
        for write in orders.writes:
            if isinstance(write, WriteOrder):
                pool.write(write.number, write.run)
            elif isinstance(write, OpenOrder):
                pool.open_segment(write.number, write.segment, write.removed)
            else:
                pool.seal(write.number, write.segment, write.keys, write.present)

    def wait_for_any(self, timeout_s: float) -> None:
        """Wait until an operation has ended: for steps that run nothing."""
        if self._pool is not None:
            self._pool.wait_for_any(timeout_s)

    @property
    def is_reading(self) -> bool:
        """Whether reads are under way."""
        return self.tier is not None and self.tier.prefetcher.n_reads > 0

    def clear(self, now_s: float) -> bool:
        """Remove everything from the directory; returns whether it is empty (not while operations are under way)."""
        if self.tier is None or self._store is None:
            return not self._opening.is_alive()
        self.pump(now_s)
        removed = self.tier.clear()
        if removed is None:
            return False
        for segment in removed:
            try:
                self._store.remove(segment)
            except OSError as error:
                self._report(error)
        return True

    def close(self) -> None:
        """Finish what is under way within a short time, and complete the open segment."""
        if self.tier is None or self._pool is None or self._store is None:
            return
        if self._pool.close(_CLOSE_S):
            for done in self._pool.poll():
                self._take(self.tier, done, time.monotonic())
            seal = self.tier.write_back.seal()
            if seal is not None:
                try:
                    self._store.seal(seal.segment, seal.keys, seal.present)
                except OSError as error:
                    self._report(error)
        self._store.close()
        self.tier = None

    def _take(self, tier: DiskTier, done: Done, now_s: float) -> None:
        if done.error is not None:
            self._report(done.error)
        if not done.is_read:
            tier.write_back.done(done.number, done.error is not None, now_s)
            return
        good = np.array([verdict is Verdict.GOOD for verdict in done.verdicts], dtype=np.bool_)
        for verdict in done.verdicts:
            if verdict is not None and verdict is not Verdict.GOOD:
                tier.counts[f"disk_bad_{verdict.name.lower()}"] += 1
        is_gone = isinstance(done.error, FileNotFoundError)
        if is_gone:
            tier.counts["disk_read_errors"] += 1  # no sign of a failing disk: other reads need not pause
        tier.read_done(done.number, good, done.error is not None and not is_gone, now_s)

    def _learn(self, tier: DiskTier, pool: IoPool, now_s: float) -> None:
        if tier.prefetcher.n_reads or self._was_reading:
            n_bytes, seconds = pool.take_read_rate()
            if seconds > 0:
                self._costs.observe_read(n_bytes, seconds)
        self._was_reading = tier.prefetcher.n_reads > 0
        n_bytes, seconds = pool.take_write_rate()
        if seconds > 0:
            self._costs.observe_write(n_bytes, seconds)
        write_rate = self._costs.write_rate()
        if write_rate is not None:
            if self._limits_own_rate:
                tier.write_back.limit_rate(max(_LEAST_WRITE_RATE, tier.write_share * write_rate), now_s)
            if self._costs.read_rate() is None:
                self._costs.set_read_rate(write_rate)  # until the first read shows better

    def _report(self, error: Exception) -> None:
        if not self._has_logged_error:
            self._has_logged_error = True
            logger.warning("elmas: the disk failed (%s); counted from now on, what it loses is recomputed", error)

    # The opening thread

    def _open(self) -> None:
        try:
            self._opened = self._open_store()
        except UserError as error:
            logger.error("elmas: no disk tier: %s", error)
        except Exception:
            logger.exception("elmas: no disk tier: the directory could not be opened")

    def _open_store(self) -> Opened:
        settings = self._settings
        assert settings.disk is not None
        assert settings.disk_capacity is not None
        begin_s = time.monotonic()
        namespace = Namespace(self._facts.wait())
        row_bytes = self._region.row_bytes
        directory, files = Path(settings.disk), self._files
        if settings.disk_throttle is not None:
            prepare_directory(directory)
            files = ThrottledFiles(files or DirectFiles(directory), settings.disk_throttle, latency_s=0.0)
        store = DiskStore(directory, namespace, row_bytes, settings.disk_capacity, files)
        found = store.scan()
        index = SegmentIndex(
            store.shape.n_slots,
            store.shape.segment_bytes,
            settings.disk_capacity,
            lambda n_rows: POLICIES[settings.policy](n_rows, self._sessions),
        )
        for segment, n_bytes in found.foreign:
            index.restore_foreign(segment, n_bytes)
        for blocks in found.segments:
            if not index.restore(blocks.segment, blocks.keys, blocks.present):
                store.remove(blocks.segment)
        if found.segments:
            self._probe(store, found.segments[-1])
        limits = DiskLimits(
            block_tokens=self._block_tokens,
            row_bytes=row_bytes,
            max_run_records=max(1, min(store.shape.n_slots, self._run_bytes // store.shape.record_bytes)),
            max_wait_s=settings.disk_max_wait_s,
            judges_cost=settings.cost_gate,
            writes=settings.disk_write,
            admits_all=settings.disk_admission == "all",
            write_rate_bytes_per_s=settings.disk_write_rate,
            write_bytes_per_day=settings.disk_write_per_day,
        )
        seen, tails = SeenBlocks(_SEEN_BLOCKS), SeenBlocks(_SEEN_TAILS)
        tier = DiskTier(index, self._host, self._costs, seen, tails, limits, time.monotonic())
        logger.info(
            "elmas: disk tier of %s in %s: %d blocks found in %d segments, %d segments of others, %.1f s",
            format_bytes(settings.disk_capacity),
            settings.disk,
            index.n_blocks,
            index.n_segments,
            len(found.foreign),
            time.monotonic() - begin_s,
        )
        pool = IoPool(
            store if self._trace is None else TracedStore(store, self._trace),
            self._region.rows,
            limits.max_run_records,
            n_readers=_N_READERS,
            max_write_delay_s=_LONGEST_WRITE_DELAY_S,
        )
        return Opened(tier, pool, store)

    def _probe(self, store: DiskStore, newest: FoundSegment) -> None:
        """Measure the read speed on the newest segment, for a moment."""
        row_bytes = self._region.row_bytes
        scratch = aligned_pages(row_bytes // ROW_ALIGNMENT_BYTES).reshape(-1)
        n_bytes, begin_s = 0, time.monotonic()
        for slot in np.flatnonzero(newest.present).tolist():
            try:
                store.read(newest.segment, slot, [newest.keys[slot].tobytes()], [scratch])
            except OSError as error:
                self._report(error)
                return
            n_bytes += row_bytes
            if time.monotonic() - begin_s > _PROBE_S:
                break
        if n_bytes:
            self._costs.set_read_rate(n_bytes / max(1e-6, time.monotonic() - begin_s))


def disk_maker(
    vllm_config: Any, kv_cache_config: Any, settings: CacheSettings, block_tokens: int, trace: Trace | None
) -> Callable[[HostTier, Mapping[int, Handshake], CostModel, Sessions], DiskHalf] | None:
    """Return what makes the disk half once the workers have mapped the host region; None without a disk."""
    if settings.disk is None:
        return None

    def make(host: HostTier, handshakes: Mapping[int, Handshake], costs: CostModel, sessions: Sessions) -> DiskHalf:
        region = HostRegion.attach(handshakes[0].region)
        layout = {
            "row_bytes": region.row_bytes,
            "segment_bytes": [list(handshakes[rank].segment_bytes) for rank in sorted(handshakes)],
            "row_layout": [handshakes[rank].layout for rank in sorted(handshakes)],
        }
        facts = NamespaceSource(vllm_config, kv_cache_config, layout)
        return DiskHalf(settings, host, region, costs, sessions, block_tokens, facts, trace=trace)

    return make
