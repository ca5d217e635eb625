"""The CUDA copy engine's bookkeeping, without a GPU: addresses, batches, and what is reported when."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.rows import as_rows
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion, align_row
from elmas.vllm import copy_cuda
from elmas.vllm.copy_cuda import StreamCopyEngine, in_batches, turn_starts
from elmas.vllm.geometry import geometry_of
from tests.vllm.fake_cuda import CPU, FakeCuda, advance, install
from tests.vllm.test_copies import check_round_trip, kv_caches


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


BLOCK_BYTES = 4096


def engine_with_calls_of_two(cache: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> StreamCopyEngine:
    """The host region has as many blocks as the device's `cache`, which the test holds, and a call copies two."""
    n_blocks = cache.shape[0]
    monkeypatch.setattr(copy_cuda, "_TURN_BYTES", 2 * BLOCK_BYTES)
    region = HostRegion.create(n_blocks, align_row(BLOCK_BYTES))
    return StreamCopyEngine(CPU, geometry_of({"layer.0": cache}, n_blocks), region, 0)


@pytest.mark.parametrize("layout", ["LBHNC", "LBNHC", "BLHNC", "uneven"])
def test_a_block_comes_back_whole(layout: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.Stream, "is_fast", True)
    check_round_trip(kv_caches(layout), partial(StreamCopyEngine, CPU))


def test_a_request_is_reported_when_its_own_blocks_are_there(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = torch.zeros(8, 1, 1, BLOCK_BYTES // 4)
    engine = engine_with_calls_of_two(cache, monkeypatch)
    loads = [
        Transfer(number, name, as_rows(blocks), blocks)
        for number, (name, blocks) in enumerate([("a", [0, 1]), ("b", [2]), ("c", [3]), ("d", [4])])
    ]
    engine.submit(loads, [Transfer(9, "e", as_rows([5]), [5]), Transfer(10, "f", as_rows([6]), [6])])
    assert [sum(sizes) // BLOCK_BYTES for sizes in cuda.calls] == [2, 2, 1, 2]
    reported = []
    while not all(stream.is_waiting for stream in engine._loads.streams):
        advance(engine._loads.streams)
        reported.append(sorted(engine.poll().loads))
    assert [names for names in reported if names] == [["a"], ["b", "c"], ["d"]]
    assert engine.poll().stores == []
    engine.wait_for_all()
    assert engine.poll().stores == [9, 10]
    engine.close()


def test_calls_go_to_two_streams_in_turns_one_after_the_other(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = torch.zeros(16, 1, 1, BLOCK_BYTES // 4)
    engine = engine_with_calls_of_two(cache, monkeypatch)
    # Nothing is merged: rows go up and blocks down.
    engine.submit([Transfer(0, "a", as_rows(range(7)), list(range(7, 0, -1)))], [])
    engine.submit([Transfer(1, "b", as_rows(range(7, 12)), list(range(12, 7, -1)))], [])
    assert [len(sizes) for sizes in cuda.calls] == [2, 2, 2, 1, 2, 2, 1]
    streams = engine._loads.streams
    assert [streams.index(stream) for stream in cuda.streams] == [1, 0, 1, 0, 1, 0, 1]
    models_stream = cuda.current_stream(CPU)
    assert models_stream not in streams, "the model goes on where it was"
    while not all(stream.is_waiting for stream in streams):
        n_ready = sum(not stream.is_waiting for stream in streams)
        assert n_ready == 1, "a call begins when the one before has ended"
        advance(streams)
    assert engine.poll().loads == {"a", "b"}
    engine.close()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 40))
def test_a_call_has_so_many_bytes_or_up_to_a_piece_more(sizes: list[int], most: int) -> None:
    first = turn_starts(as_rows(sizes), most).tolist()
    assert first[0] == 0
    assert first == sorted(set(first))
    for begin, end in itertools.pairwise([*first, len(sizes)]):
        assert sum(sizes[begin : end - 1]) < most


def test_a_run_is_cut_into_pieces_within_registrations(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = {"layer.0": torch.zeros(12, 1, 1, 1024)}
    geometry = geometry_of(caches, 12)
    row_bytes = align_row(geometry.block_bytes)
    assert row_bytes == geometry.block_bytes, "rows can only be copied together where nothing is between them"
    monkeypatch.setattr(copy_cuda, "_MOST_PIECE_BYTES", 3 * row_bytes + 1)
    monkeypatch.setattr(copy_cuda, "_REGISTER_BYTES", 8 * row_bytes)
    registered: list[int] = []
    cudart = cuda.cudart()
    cudart.cudaHostRegister = lambda address, n_bytes, flags: registered.append(n_bytes // row_bytes) or 0
    monkeypatch.setattr(cuda, "cudart", lambda: cudart)
    engine = StreamCopyEngine(CPU, geometry, HostRegion.create(12, row_bytes), 0)
    assert registered == [6, 6]
    engine.submit([Transfer(0, "a", as_rows(range(1, 12)), list(range(11)))], [])
    assert [size // row_bytes for size in cuda.calls[0]] == [2, 3, 3, 3]
    engine.close()


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_batches_are_large_and_hold_every_transfer_once_in_order(sizes: list[int], n_least: int) -> None:
    transfers = [Transfer(number, "", as_rows(range(n)), list(range(n))) for number, n in enumerate(sizes)]
    batches = list(in_batches(transfers, n_least))
    assert [transfer for batch in batches for transfer in batch] == transfers
    totals = [sum(transfer.n_blocks for transfer in batch) for batch in batches]
    assert all(total >= n_least for total in totals[:-1])
    assert all(total - batch[-1].n_blocks < n_least for total, batch in zip(totals, batches, strict=True))
