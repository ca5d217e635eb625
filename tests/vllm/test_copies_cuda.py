"""The CUDA copy engine: every byte of a block goes where it belongs. Skipped where there is no GPU."""

import time
from functools import partial

import pytest
import torch

from elmas.cache.rows import as_rows
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion, align_row
from elmas.vllm.geometry import geometry_of
from elmas.vllm.tracing import LOADS, STORES, Trace
from tests.vllm.test_copies import check_round_trip, kv_caches

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("layout", ["LBHNC", "LBNHC", "BLHNC"])
def test_a_block_comes_back_whole(layout: str) -> None:
    from elmas.vllm.copy_cuda import StreamCopyEngine

    check_round_trip(on_gpu(kv_caches(layout)), partial(StreamCopyEngine, torch.device("cuda")))


def test_a_store_sees_what_was_launched_before_it() -> None:
    """The copy waits for the kernels that write its source, without the host waiting for either."""
    from elmas.vllm.copy_cuda import StreamCopyEngine

    caches = {"layer.0": torch.zeros(2, 1, 1, 1 << 20, device="cuda")}
    geometry = geometry_of(caches, 2)
    region = HostRegion.create(2, align_row(geometry.block_bytes))
    engine = StreamCopyEngine(torch.device("cuda"), geometry, region, 0)
    torch.cuda._sleep(200_000_000)
    caches["layer.0"][1].fill_(1.0)
    engine.submit([], [Transfer(0, "a", as_rows([0]), [1])])
    assert engine.poll().stores == [], "the copy did not wait for the kernel"
    engine.wait_for_all()
    assert engine.poll().stores == [0]
    assert (region.rows[0].view("float32")[: 1 << 20] == 1.0).all()
    engine.close()


@pytest.mark.parametrize("to_device", [True, False], ids=["loads", "stores"])
def test_the_models_own_copies_do_not_wait_for_all_of_ours(to_device: bool) -> None:
    """A step's inputs pass between two calls of a long load, its tokens between two of a long store."""
    from elmas.vllm.copy_cuda import StreamCopyEngine

    n_blocks = 512
    caches = {"layer.0": torch.zeros(n_blocks, 1, 1, 1 << 19, device="cuda")}
    geometry = geometry_of(caches, n_blocks)
    region = HostRegion.create(n_blocks, align_row(geometry.block_bytes))
    engine = StreamCopyEngine(torch.device("cuda"), geometry, region, 0)
    transfer = Transfer(0, "a", as_rows(range(n_blocks - 1, -1, -1)), list(range(n_blocks)))
    on_host, on_device = torch.zeros(1024, pin_memory=True), torch.zeros(1024, device="cuda")
    source, target = (on_host, on_device) if to_device else (on_device, on_host)
    for _ in range(3):
        torch.cuda.synchronize()
        engine.submit([transfer] if to_device else [], [] if to_device else [transfer])
        target.copy_(source, non_blocking=True)
        passed = torch.cuda.Event()
        passed.record()
        while not passed.query():
            pass
        finished = engine.poll()
        assert not finished.loads, "the model's copy came after the whole load"
        assert not finished.stores, "the model's copy came after the whole store"
        engine.wait_for_all()
        finished = engine.poll()
        assert (finished.loads, finished.stores) == (({"a"}, []) if to_device else (set(), [0]))
    engine.close()


def test_copies_are_recorded_with_the_times_of_the_device() -> None:
    from elmas.vllm.copy_cuda import StreamCopyEngine

    geometry = geometry_of({"layer.0": torch.zeros(2, 1, 1, 1 << 22, device="cuda")}, 2)
    region = HostRegion.create(2, align_row(geometry.block_bytes))
    trace = Trace()
    engine = StreamCopyEngine(torch.device("cuda"), geometry, region, 0, trace)
    begin_ns = time.time_ns()
    engine.submit([], [Transfer(0, "a", as_rows([0]), [1])])
    engine.wait_for_all()
    engine.submit([Transfer(1, "b", as_rows([0]), [0])], [])
    engine.wait_for_all()
    end_ns = time.time_ns()
    engine.poll()
    engine.close()
    stored, loaded = trace.take()
    assert (stored.track, loaded.track) == (STORES, LOADS)
    assert stored.arguments["bytes"] == loaded.arguments["bytes"] == geometry.block_bytes
    slack_ns = 10**6
    assert begin_ns - slack_ns <= stored.begin_ns < stored.end_ns <= loaded.begin_ns + slack_ns
    assert loaded.begin_ns < loaded.end_ns <= end_ns + slack_ns


def on_gpu(caches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move tensors that are views of one storage, keeping offsets and strides."""
    storage = next(iter(caches.values())).untyped_storage().cuda()
    return {
        name: torch.empty(0, dtype=cache.dtype, device="cuda").set_(
            storage, cache.storage_offset(), cache.shape, cache.stride()
        )
        for name, cache in caches.items()
    }
