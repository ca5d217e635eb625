"""The copy that vLLM's own offloading lacks on the CPU platform: blocks come back whole, and nothing else changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elmas.vllm.offloading_on_cpu import HostCopyWorker

N_BLOCKS, N_CHUNKS, N_BYTES = 8, 5, 64


def worker_of(tensors: list[torch.Tensor]) -> tuple[HostCopyWorker, list[torch.Tensor]]:
    caches = SimpleNamespace(tensors=[SimpleNamespace(tensor=each, page_size_bytes=N_BYTES) for each in tensors])
    chunks = [torch.zeros((N_CHUNKS, N_BYTES), dtype=torch.int8) for _ in tensors]
    return HostCopyWorker(caches, chunks, 1), chunks


def ids(*numbers: int) -> SimpleNamespace:
    return SimpleNamespace(block_ids=np.array(numbers, dtype=np.int64))


def test_stored_blocks_come_back_where_they_are_asked_for() -> None:
    tensors = [torch.randint(-128, 128, (N_BLOCKS, N_BYTES), dtype=torch.int8) for _ in range(3)]
    before = [tensor.clone() for tensor in tensors]
    worker, _ = worker_of(tensors)
    assert worker.submit_store(1, ids(2, 5), ids(4, 0))
    assert worker.submit_load(2, ids(0, 4), ids(7, 6))
    worker.wait({1, 2})
    finished = worker.get_finished()
    assert [(each.job_id, each.success, each.transfer_size) for each in finished] == [
        (1, True, 2 * N_BYTES * 3),
        (2, True, 2 * N_BYTES * 3),
    ]
    assert worker.get_finished() == []
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor[7], old[5])
        assert torch.equal(tensor[6], old[2])
        assert torch.equal(tensor[:6], old[:6])
    worker.shutdown()


def test_what_is_queued_is_copied_before_the_end() -> None:
    tensor = torch.ones((N_BLOCKS, N_BYTES), dtype=torch.int8)
    worker, chunks = worker_of([tensor])
    for job in range(N_CHUNKS):
        worker.submit_store(job, ids(job), ids(job))
    worker.shutdown()
    assert torch.equal(chunks[0], torch.ones_like(chunks[0]))


def test_chunks_of_several_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="one block per chunk"):
        HostCopyWorker(SimpleNamespace(tensors=[]), [], 2)
