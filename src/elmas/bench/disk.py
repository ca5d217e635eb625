"""What the disk store gets out of a disk: its throughput against plain direct I/O on the same directory.

Each trial writes the same blocks in a new place and reads them back, once per arm, the arms in turn: through the store
with its threads and verified checksums; and plainly, with one block per operation and with the store's operation size.
The same host rows are the buffers of all arms.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import xxhash
from rich.table import Table

from elmas.bench.disk_arms import Arm, PlainArm, Rows, StoreArm
from elmas.bench.machine import Usage, UsageMeter, describe_machine, describe_versions
from elmas.errors import UserError
from elmas.tiers.host import ROW_ALIGNMENT_BYTES, HostRegion
from elmas.units import format_bytes

GOAL = 0.90
"""Share of the plain throughput, block by block at the same queue depth, that the store is to reach."""

STORE, PLAIN, PLAIN_MERGED = "store", "plain, block by block", "plain, merged"
"""The arms; the second merges as many blocks to one operation as the store does."""

ARMS = (PLAIN, STORE, PLAIN_MERGED)

_MARGIN_BYTES = 256 << 20
"""Left free beside the blocks: their headers, and what others write meanwhile."""


@dataclass(frozen=True)
class DiskPlan:
    """What is measured: `n_blocks` of `block_bytes` per arm and trial, `queue_depth` operations at once.

    `run_blocks` is how many blocks one operation of the store moves.
    """

    directory: Path
    block_bytes: int
    n_blocks: int
    run_blocks: int
    queue_depth: int
    n_trials: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks."""
        return self.n_blocks * self.block_bytes

    @property
    def n_runs(self) -> int:
        """How often blocks are written and read."""
        return self.n_trials * len(ARMS)

    def check(self) -> None:
        """Raise UserError when it cannot be measured in this directory."""
        if self.block_bytes % ROW_ALIGNMENT_BYTES:
            raise UserError(f"--block-bytes is {self.block_bytes}: give a multiple of {ROW_ALIGNMENT_BYTES}")
        if not self.directory.is_dir():
            raise UserError(f"--directory {self.directory} is no directory: make it first, on the disk to be measured")
        n_free = shutil.disk_usage(self.directory).free
        n_needed = self.n_bytes + self.n_blocks * ROW_ALIGNMENT_BYTES + _MARGIN_BYTES
        if n_free < n_needed:
            raise UserError(
                f"{self.directory} has {format_bytes(n_free)} free and {format_bytes(n_needed)} are needed: "
                f"pass a smaller --n-blocks"
            )


@dataclass(frozen=True)
class Throughput:
    """One direction of one arm in one trial: payload bytes per second of wall time, and per second of processor."""

    bytes_per_s: float
    cpu_s_per_gib: float


@dataclass(frozen=True)
class Trial:
    """One arm in one trial."""

    arm: str
    write: Throughput
    read: Throughput


@dataclass(frozen=True)
class DiskResult:
    """All trials of one run, arm by arm in the order they ran."""

    plan: DiskPlan
    trials: list[Trial]
    usage: Usage

    def median_of(self, arm: str, direction: str, figure: str) -> float:
        """Return the median over trials of a figure of Throughput; `direction` is write or read."""
        return float(median(getattr(getattr(trial, direction), figure) for trial in self._of(arm)))

    def ratio(self, direction: str, plain: str) -> float:
        """Return the median over trials of the store's throughput as a share of a plain arm's in the same trial."""
        pairs = zip(self._of(STORE), self._of(plain), strict=True)
        return float(median(getattr(a, direction).bytes_per_s / getattr(b, direction).bytes_per_s for a, b in pairs))

    @property
    def meets_goal(self) -> bool:
        """Whether the store reaches the goal in both directions against plain I/O of the same block size."""
        return all(self.ratio(way, PLAIN) >= GOAL for way in ("write", "read"))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        plan = {name: value for name, value in asdict(self.plan).items() if name != "directory"}
        ratios = {way: {plain: self.ratio(way, plain) for plain in (PLAIN, PLAIN_MERGED)} for way in ("write", "read")}
        return {
            "benchmark": "disk",
            "machine": describe_machine(),
            "versions": describe_versions(),
            "plan": plan,
            "trials": [asdict(trial) for trial in self.trials],
            "store_to_plain": ratios,
            "goal": GOAL,
            "other_cpu_s": self.usage.other_cpu_s,
            "wall_s": self.usage.wall_s,
        }

    def _of(self, arm: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.arm == arm]


def measure_disk(plan: DiskPlan, on_trial: Callable[[], None] = lambda: None) -> DiskResult:
    """Run all arms and trials; files are removed after each. `on_trial` is called after every arm of every trial.

    Raises UserError when the directory is not suited, OSError when an operation fails, ValueError when an arm reads
    back something else than it wrote.
    """
    plan.check()
    region = HostRegion.create(plan.n_blocks, plan.block_bytes)
    try:
        rows = region.rows
        # Incompressible, and no two blocks alike, should a file system look for that.
        source = np.random.default_rng(0)
        for row in rows:
            row[:] = np.frombuffer(source.bytes(plan.block_bytes), dtype=np.uint8)
        arms: dict[str, Callable[[Path], Arm]] = {
            PLAIN: lambda directory: PlainArm(directory, rows, 1, plan.queue_depth),
            STORE: lambda directory: StoreArm(directory, rows, plan.run_blocks, plan.queue_depth),
            PLAIN_MERGED: lambda directory: PlainArm(directory, rows, plan.run_blocks, plan.queue_depth),
        }
        meter = UsageMeter()
        trials = []
        for number in range(plan.n_trials):
            # Another arm begins each time, so that no arm always follows the same one.
            for name in [*arms, *arms][number % len(arms) :][: len(arms)]:
                trials.append(_run_trial(plan, name, arms[name], rows))
                on_trial()
        return DiskResult(plan, trials, meter.stop())
    finally:
        region.close()


def _run_trial(plan: DiskPlan, name: str, make: Callable[[Path], Arm], rows: Rows) -> Trial:
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="elmas-bench-", dir=plan.directory)))
        arm = make(directory)
        cleanup.callback(arm.close)
        before = xxhash.xxh3_128_digest(rows.data)
        write = _timed(arm.write, plan.n_bytes)
        rows[:] = 0
        read = _timed(arm.read, plan.n_bytes)
        if xxhash.xxh3_128_digest(rows.data) != before:
            raise ValueError(f"{name}: what was read back is not what was written")
    return Trial(name, write, read)


def _timed(work: Callable[[], None], n_bytes: int) -> Throughput:
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return Throughput(n_bytes / seconds, cpu_s / n_bytes * 2**30)


def disk_table(result: DiskResult) -> Table:
    """Return throughputs, processor time and ratios; every figure is the median over trials."""
    table = Table()
    table.add_column("", justify="left")
    for heading in ("write, MB/s", "read, MB/s", "write, CPU s/GiB", "read, CPU s/GiB", "store / this: write", "read"):
        table.add_column(heading, justify="right")
    for arm in (STORE, PLAIN, PLAIN_MERGED):
        speeds = [f"{result.median_of(arm, way, 'bytes_per_s') / 1e6:.0f}" for way in ("write", "read")]
        work = [f"{result.median_of(arm, way, 'cpu_s_per_gib'):.2f}" for way in ("write", "read")]
        ratios = ["", ""] if arm == STORE else [f"{result.ratio(way, arm):.2f}" for way in ("write", "read")]
        table.add_row(arm, *speeds, *work, *ratios)
    return table
