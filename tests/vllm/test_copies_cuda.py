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
    engine.begin_step()
    engine.submit([], [Transfer(0, "a", as_rows([0]), [1])])
    assert engine.poll().stores == [], "the copy did not wait for the kernel"
    engine.wait_for_all()
    assert engine.poll().stores == [0]
    assert (region.rows[0].view("float32")[: 1 << 20] == 1.0).all()
    engine.close()


def test_a_copy_does_not_wait_for_what_is_launched_after_its_step_began() -> None:
    from elmas.vllm.copy_cuda import StreamCopyEngine

    geometry = geometry_of({"layer.0": torch.zeros(4, 1, 1, 1 << 20, device="cuda")}, 4)
    region = HostRegion.create(2, align_row(geometry.block_bytes))
    engine = StreamCopyEngine(torch.device("cuda"), geometry, region, 0)
    model_ended = torch.cuda.Event()
    for step in range(2):
        engine.begin_step()
        torch.cuda._sleep(2_000_000_000)
        model_ended.record()
        engine.submit([Transfer(1, "load", as_rows([0]), [2])], [Transfer(0, "store", as_rows([1]), [1])])
        end_s = time.monotonic() + 30
        loads, stores = set(), set()
        while not (loads and stores) and time.monotonic() < end_s:
            finished = engine.poll()
            loads |= finished.loads
            stores.update(finished.stores)
        assert (loads, stores) == ({"load"}, {0})
        assert not model_ended.query(), f"the copies of step {step} waited for the model's run"
        torch.cuda.synchronize()
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
