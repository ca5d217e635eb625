"""Geometry and the CPU copy engine: every byte of a block goes where it belongs, in every layout."""

import itertools
import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.rows import as_rows
from elmas.errors import UserError
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion, align_row
from elmas.vllm.copy_cpu import ThreadCopyEngine
from elmas.vllm.copy_engine import CopyEngine
from elmas.vllm.geometry import geometry_of

N_BLOCKS, N_LAYERS, HEADS, TOKENS, CHANNELS = 10, 3, 2, 4, 8


def kv_caches(layout: str) -> dict[str, torch.Tensor]:
    """Return tensors of logical shape (blocks, heads, tokens, channels) per layer, laid out as vLLM names it."""
    if layout == "LBHNC":
        storage = torch.randn(N_LAYERS, N_BLOCKS, HEADS, TOKENS, CHANNELS)
        views = list(storage)
    elif layout == "LBNHC":
        storage = torch.randn(N_LAYERS, N_BLOCKS, TOKENS, HEADS, CHANNELS)
        views = [layer.transpose(1, 2) for layer in storage]
    elif layout == "BLHNC":
        storage = torch.randn(N_BLOCKS, N_LAYERS, HEADS, TOKENS, CHANNELS)
        views = [storage[:, layer] for layer in range(N_LAYERS)]
    elif layout == "uneven":  # layers in allocations of their own
        spacing = [torch.randn(N_BLOCKS * (number + 1), HEADS, TOKENS, CHANNELS) for number in range(N_LAYERS)]
        views = [storage[:N_BLOCKS] for storage in spacing]
    else:
        storage = torch.randn(N_LAYERS, HEADS, N_BLOCKS, TOKENS, CHANNELS)
        views = [layer.transpose(0, 1) for layer in storage]
    return {f"layer.{number}": view for number, view in enumerate(views)}


def check_round_trip(caches: dict[str, torch.Tensor], make_engine: Callable[..., CopyEngine]) -> None:
    """Store three blocks, load two of them elsewhere; every byte of the caches is then what it should be."""
    geometry = geometry_of(caches, N_BLOCKS)
    region = HostRegion.create(6, align_row(2 * geometry.block_bytes))
    engine = make_engine(geometry, region, shard_offset=geometry.block_bytes)
    before = {name: cache.clone() for name, cache in caches.items()}

    engine.submit([], [Transfer(0, "a", as_rows([5, 0, 3]), [2, 7, 4])])
    engine.wait_for_all()
    assert engine.poll().stores == [0]
    assert not region.rows[:, : geometry.block_bytes].any(), "another rank's shard was written"

    engine.submit([Transfer(1, "b", as_rows([0, 3]), [1, 9])], [])
    engine.wait_for_any(timeout_s=10)
    engine.wait_for_all()
    assert engine.poll().loads == {"b"}
    engine.close()
    source = {1: 7, 9: 4}
    for name, cache in caches.items():
        for block in range(N_BLOCKS):
            assert torch.equal(cache[block], before[name][source.get(block, block)])


@pytest.mark.parametrize(("layout", "n_segments"), [("LBHNC", 3), ("LBNHC", 3), ("BLHNC", 1), ("uneven", 3)])
def test_a_block_comes_back_whole(layout: str, n_segments: int) -> None:
    caches = kv_caches(layout)
    geometry = geometry_of(caches, N_BLOCKS)
    assert len(geometry.segments) == n_segments
    assert geometry.block_bytes == N_LAYERS * HEADS * TOKENS * CHANNELS * 4
    check_round_trip(caches, ThreadCopyEngine)


def test_runs_of_blocks_and_rows_are_copied_whole() -> None:
    """Consecutive blocks to consecutive rows, cut where either jumps."""
    caches = kv_caches("LBHNC")
    geometry = geometry_of(caches, N_BLOCKS)
    region = HostRegion.create(20, align_row(geometry.block_bytes))
    engine = ThreadCopyEngine(geometry, region, 0)
    before = {name: cache.clone() for name, cache in caches.items()}
    blocks, rows = [0, 1, 2, 4, 5, 6, 7, 9], [3, 4, 5, 6, 7, 10, 11, 0]
    engine.submit([], [Transfer(0, "a", as_rows(rows), blocks)])
    engine.wait_for_all()
    for cache in caches.values():
        cache.zero_()
    engine.submit([Transfer(1, "b", as_rows(rows), blocks)], [])
    engine.wait_for_all()
    engine.close()
    for name, cache in caches.items():
        for block in range(N_BLOCKS):
            expected = before[name][block] if block in blocks else torch.zeros_like(before[name][block])
            assert torch.equal(cache[block], expected)


def test_kernel_blocks_are_joined_to_the_schedulers_blocks() -> None:
    caches = kv_caches("LBHNC")
    geometry = geometry_of(caches, N_BLOCKS // 2)
    segment = geometry.segments[0]
    assert segment.n_bytes == segment.stride_bytes == 2 * HEADS * TOKENS * CHANNELS * 4


def test_layers_that_share_memory_are_copied_once() -> None:
    caches = kv_caches("LBHNC")
    caches["layer.3"] = caches["layer.0"]
    assert len(geometry_of(caches, N_BLOCKS).segments) == N_LAYERS


def test_blocks_in_pieces_are_refused() -> None:
    with pytest.raises(UserError, match="keeps its blocks in pieces"):
        geometry_of(kv_caches("LHBNC"), N_BLOCKS)
    with pytest.raises(UserError, match="not a multiple"):
        geometry_of(kv_caches("LBHNC"), N_BLOCKS - 1)


def test_a_load_overtakes_a_long_store() -> None:
    caches = {"layer.0": torch.zeros(64, 1, 1, 1 << 18)}
    geometry = geometry_of(caches, 64)
    region = HostRegion.create(65, align_row(geometry.block_bytes))
    engine = ThreadCopyEngine(geometry, region, 0)
    engine.submit([], [Transfer(0, "store", as_rows(range(64)), list(range(64)))])
    engine.submit([Transfer(1, "load", as_rows([64]), [0])], [])
    engine.wait_for_any(timeout_s=10)
    finished = engine.poll()
    assert finished.loads == {"load"}
    assert finished.stores == []
    engine.close()
    assert engine.poll().stores == [0], "closing finishes what is queued"


def test_waiting_ends_with_the_first_copy_or_the_time() -> None:
    caches = kv_caches("LBHNC")
    geometry = geometry_of(caches, N_BLOCKS)
    region = HostRegion.create(4, align_row(geometry.block_bytes))
    engine = ThreadCopyEngine(geometry, region, 0)
    begin_s = time.monotonic()
    engine.wait_for_any(timeout_s=5)
    assert time.monotonic() - begin_s < 1, "nothing is under way: there is nothing to wait for"
    engine.close()


def test_an_error_in_the_thread_is_raised_not_swallowed() -> None:
    caches = kv_caches("LBHNC")
    geometry = geometry_of(caches, N_BLOCKS)
    region = HostRegion.create(4, align_row(geometry.block_bytes))
    engine = ThreadCopyEngine(geometry, region, 0)
    engine.submit([Transfer(0, "a", as_rows([99]), [0])], [])
    engine.wait_for_all()
    with pytest.raises(RuntimeError, match="copy thread died"):
        engine.poll()


def test_copies_under_load_from_many_turns() -> None:
    """Random stores and loads with polling between them keep every block's content."""
    rng = random.Random(0)
    caches = kv_caches("LBHNC")
    geometry = geometry_of(caches, N_BLOCKS)
    region = HostRegion.create(50, align_row(geometry.block_bytes))
    engine = ThreadCopyEngine(geometry, region, 0)
    flat = [cache.reshape(N_BLOCKS, -1) for cache in caches.values()]
    expected: dict[int, list[torch.Tensor]] = {}
    for number in range(50):
        block = rng.randrange(5)
        for layer in flat:
            layer[block] = torch.randn(layer.shape[1])
        expected[number] = [layer[block].clone() for layer in flat]
        engine.submit([], [Transfer(number, "s", as_rows([number]), [block])])
        engine.wait_for_all()
    for number in rng.sample(range(50), 50):
        engine.submit([Transfer(number, f"l{number}", as_rows([number]), [9])], [])
        engine.wait_for_all()
        assert all(torch.equal(layer[9], content) for layer, content in zip(flat, expected[number], strict=True))
    assert len(engine.poll().stores) == 50
    engine.close()
    assert not any(thread.name == "elmas-copy" for thread in threading.enumerate())
    assert np.count_nonzero(region.rows) > 0


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), unique_by=(lambda p: p[0], lambda p: p[1])))
def test_runs_hold_every_block_once_and_stay_within_a_piece(places: list[tuple[int, int]]) -> None:
    from elmas.vllm.copy_cuda import run_starts

    rows, blocks = as_rows([row for row, _ in places]), as_rows([block for _, block in places])
    first = run_starts(rows, blocks, rows_per_piece=4)
    copied = []
    for begin, end in itertools.pairwise([*first.tolist(), len(places)]):
        run = [(int(rows[begin]) + i, int(blocks[begin]) + i) for i in range(end - begin)]
        assert run[0][0] // 4 == run[-1][0] // 4
        copied += run
    assert copied == places
