"""How fast blocks move between the device and host memory, without a model: the copy engine beside plain copies.

The blocks of a batch are scattered, rows and device blocks alike, as they are in a cache that has been in use for a
while; a second measurement takes runs of neighbours, as a fresh cache has them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from elmas.cache.rows import as_rows
from elmas.errors import UserError
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion
from elmas.vllm.copy_engine import CopyEngine, make_copy_engine
from elmas.vllm.geometry import geometry_of

_DEVICE_BATCHES, _HOST_BATCHES = 2, 4
"""How many batches device and host region hold, so that a batch is a small part of them."""

_SMALL_BYTES = 4096


@dataclass(frozen=True)
class CopyRate:
    """One kind of copy. Rates are the median over the trials, in bytes per second; in `both` it is the sum of the two
    directions, which run at once. `launch_s` is how long the calling thread was busy with a batch in each direction.

    `behind_load_s` is how long a copy of 4 KiB to the device takes that is launched just after a batch in the same
    direction, as the inputs of a step of the model are, and `behind_store_s` the same to the host; None on CPU.
    """

    name: str
    piece_bytes: int
    to_device: float
    to_host: float
    both: float
    launch_s: float
    behind_load_s: float | None
    behind_store_s: float | None


def plain_rate(batch_bytes: int, n_trials: int) -> CopyRate:
    """Return the rates of one copy of `batch_bytes` at a time with PyTorch, from and to pinned memory: the limit."""
    device = _device()
    on_device = torch.zeros(2, batch_bytes, dtype=torch.int8, device=device)
    on_host = torch.zeros(2, batch_bytes, dtype=torch.int8, pin_memory=device.type == "cuda")
    streams = [torch.cuda.Stream(device) for _ in range(2)] if device.type == "cuda" else []

    def launch(to_device: bool, to_host: bool) -> None:
        pairs = [(on_device[0], on_host[0])] * to_device + [(on_host[1], on_device[1])] * to_host
        if not streams:
            for target, source in pairs:
                target.copy_(source)
        for stream, (target, source) in zip(streams, pairs, strict=False):
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)

    def copy(to_device: bool, to_host: bool) -> None:
        launch(to_device, to_host)
        for stream in streams:
            stream.synchronize()

    ways = [(True, False), (False, True), (True, True)]
    times_s = [_median_s(partial(copy, *way), n_trials) for way in ways]
    rates = [batch_bytes * sum(way) / time_s for way, time_s in zip(ways, times_s, strict=True)]
    load_s, store_s = (_behind_s(partial(launch, *way), way[0], n_trials) for way in ways[:2])
    return CopyRate("plain", batch_bytes, rates[0], rates[1], rates[2], 0.0, load_s, store_s)


def engine_rates(block_bytes: int, batch_bytes: int, n_trials: int, seed: int = 0) -> list[CopyRate]:
    """Return the rates of the copy engine for batches of `batch_bytes` of blocks of `block_bytes`, scattered and in
    runs. Raises UserError for blocks that are no whole pages, or larger than a batch."""
    n_blocks = batch_bytes // block_bytes
    if n_blocks < 1 or block_bytes % 4096:
        raise UserError(f"blocks of {block_bytes} bytes: choose a multiple of 4096 of at most {batch_bytes}")
    device = _device()
    cache = torch.zeros(n_blocks * _DEVICE_BATCHES, block_bytes, dtype=torch.int8, device=device)
    region = HostRegion.create(n_blocks * _HOST_BATCHES, block_bytes)
    region.populate(0, region.n_rows)
    engine = make_copy_engine(device, geometry_of({"blocks": cache}, cache.shape[0]), region, 0)
    random = np.random.default_rng(seed)
    try:
        return [
            _engine_rate("scattered", engine, block_bytes, n_trials, _scattered(random, region, cache, n_blocks)),
            _engine_rate("in runs", engine, block_bytes, n_trials, _in_runs(n_blocks)),
        ]
    finally:
        engine.close()
        region.close()


Places = tuple[Sequence[int], Sequence[int]]
"""Rows of the region and blocks of the device."""


def _scattered(random: np.random.Generator, region: HostRegion, cache: torch.Tensor, n_blocks: int) -> list[Places]:
    """Places for loads and for stores, which have nothing in common."""
    rows = random.permutation(region.n_rows)[: 2 * n_blocks].tolist()
    blocks = random.permutation(cache.shape[0])[: 2 * n_blocks].tolist()
    return [(rows[:n_blocks], blocks[:n_blocks]), (rows[n_blocks:], blocks[n_blocks:])]


def _in_runs(n_blocks: int) -> list[Places]:
    return [(range(n_blocks), range(n_blocks)), (range(n_blocks, 2 * n_blocks), range(n_blocks, 2 * n_blocks))]


def _engine_rate(name: str, engine: CopyEngine, block_bytes: int, n_trials: int, places: list[Places]) -> CopyRate:
    (load_rows, load_blocks), (store_rows, store_blocks) = places
    loads = [Transfer(0, "load", as_rows(load_rows), load_blocks)]
    stores = [Transfer(1, "store", as_rows(store_rows), store_blocks)]
    launches_s: list[float] = []

    def copy(loads: Sequence[Transfer], stores: Sequence[Transfer]) -> None:
        begin_s = time.perf_counter()
        engine.submit(loads, stores)
        launches_s.append(time.perf_counter() - begin_s)
        engine.wait_for_all()
        engine.poll()

    ways: list[tuple[Sequence[Transfer], Sequence[Transfer]]] = [(loads, ()), ((), stores), (loads, stores)]
    times_s = [_median_s(partial(copy, *way), n_trials) for way in ways]
    n_bytes = len(load_rows) * block_bytes
    launch_s = float(np.median(launches_s[-n_trials:]))
    load_s, store_s = (_behind_s(partial(engine.submit, *way), bool(way[0]), n_trials) for way in ways[:2])
    engine.wait_for_all()
    engine.poll()
    rates = [n_bytes / times_s[0], n_bytes / times_s[1], 2 * n_bytes / times_s[2]]
    return CopyRate(name, block_bytes, rates[0], rates[1], rates[2], launch_s, load_s, store_s)


def _behind_s(launch: Callable[[], None], to_device: bool, n_trials: int) -> float | None:
    """Return how long a small copy takes that the current stream gets just after `launch`; None on CPU, where a thread
    copies."""
    if not torch.cuda.is_available():
        return None
    on_host = torch.zeros(_SMALL_BYTES, dtype=torch.int8, pin_memory=True)
    on_device = torch.zeros(_SMALL_BYTES, dtype=torch.int8, device="cuda")
    target, source = (on_device, on_host) if to_device else (on_host, on_device)
    times_s = []
    for _ in range(n_trials + 1):
        torch.cuda.synchronize()
        launch()
        begin_s = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        times_s.append(time.perf_counter() - begin_s)
    torch.cuda.synchronize()
    return float(np.median(times_s[1:]))


def _median_s(call: Callable[[], None], n_trials: int) -> float:
    call()  # the first one takes what is allocated or touched once
    times_s = []
    for _ in range(n_trials):
        begin_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - begin_s)
    return float(np.median(times_s))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
