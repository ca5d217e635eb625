"""vLLM's own offloading on its CPU platform, as a baseline for machines without a GPU.

Everything is vLLM's (OffloadingConnector, index, policies, secondary tiers) except the copy between a device block and
a host chunk: vLLM has one for GPUs only. Its copies here run in one thread, like those of elmas on this platform.
Only benchmarks use this, through `spec_name` and `spec_module_path` of `kv_connector_extra_config`.
"""

import queue
import threading
import time
from typing import Any

import torch
from typing_extensions import override
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

_LEAST_S = 1e-9
"""vLLM divides bytes by the time a transfer took."""


class HostCopySpec(CPUOffloadingSpec):
    """vLLM's host tier; host chunks are private memory of the worker."""

    _worker: OffloadingWorker | None

    @override
    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        """Return the worker, made on the first call."""
        if self._worker is None:
            chunks = [_private_chunks(self.num_chunks, cache.page_size_bytes) for cache in kv_caches.tensors]
            self._worker = HostCopyWorker(kv_caches, chunks, self.blocks_per_chunk)
        return self._worker


class HostCopyTieringSpec(TieringOffloadingSpec):
    """vLLM's host tier with secondary tiers; host chunks lie in the region that those read and write."""

    _worker: OffloadingWorker | None

    @override
    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        """Return the worker, made on the first call."""
        if self._worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            chunks = [region.create_next_worker_view(cache.page_size_bytes) for cache in kv_caches.tensors]
            self._worker = HostCopyWorker(kv_caches, chunks, self.blocks_per_chunk, region)
        return self._worker


class HostCopyWorker(OffloadingWorker):
    """Copies whole blocks, in the order of submission, in one thread.

    `chunks` are the host chunks of every KV cache tensor, of shape (chunks, bytes of a block). Raises ValueError when a
    chunk is not one block.
    """

    def __init__(
        self,
        kv_caches: Any,
        chunks: list[torch.Tensor],
        blocks_per_chunk: int,
        region: SharedOffloadRegion | None = None,
    ) -> None:
        if blocks_per_chunk != 1:
            raise ValueError(f"a chunk of {blocks_per_chunk} blocks: only one block per chunk can be copied here")
        self._pairs = [(_rows(cache), chunk) for cache, chunk in zip(kv_caches.tensors, chunks, strict=True)]
        self._region = region
        self._changed = threading.Condition()
        self._under_way: set[int] = set()
        self._finished: list[TransferResult] = []
        self._jobs: queue.SimpleQueue[tuple[int, Any, Any, bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="offloading-copy", daemon=True)
        self._thread.start()

    @override
    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Queue a copy of device blocks to host chunks."""
        return self._submit(job_id, src_spec, dst_spec, True)

    @override
    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Queue a copy of host chunks to device blocks."""
        return self._submit(job_id, dst_spec, src_spec, False)

    @override
    def get_finished(self) -> list[TransferResult]:
        """Return what has ended since the last call."""
        with self._changed:
            finished, self._finished = self._finished, []
            return finished

    @override
    def wait(self, job_ids: set[int]) -> None:
        """Return when none of the jobs is under way any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way & set(job_ids))

    @override
    def shutdown(self) -> None:
        """Copy what is queued, then release thread and memory."""
        self._jobs.put(None)
        self._thread.join()
        self._pairs.clear()
        if self._region is not None:
            self._region.cleanup()
            self._region = None

    def _submit(self, job_id: int, device: Any, host: Any, is_store: bool) -> bool:
        with self._changed:
            self._under_way.add(job_id)
        self._jobs.put((job_id, device, host, is_store))
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job_id, device, host, is_store = job
            begin_s = time.perf_counter()
            n_bytes = self._copy(torch.from_numpy(device.block_ids), torch.from_numpy(host.block_ids), is_store)
            seconds = max(time.perf_counter() - begin_s, _LEAST_S)
            with self._changed:
                self._under_way.discard(job_id)
                self._finished.append(TransferResult(job_id, True, n_bytes, seconds))
                self._changed.notify_all()

    def _copy(self, blocks: torch.Tensor, chunks: torch.Tensor, is_store: bool) -> int:
        blocks, chunks = blocks.long(), chunks.long()
        n_bytes = 0
        for device, host in self._pairs:
            if is_store:
                host[chunks] = device[blocks]
            else:
                device[blocks] = host[chunks]
            n_bytes += len(blocks) * host.shape[1]
        return n_bytes


def _private_chunks(n_chunks: int, n_bytes: int) -> torch.Tensor:
    return torch.zeros((n_chunks, n_bytes), dtype=torch.int8)


def _rows(cache: Any) -> torch.Tensor:
    """Return a KV cache tensor of vLLM's canonical form as rows of bytes, one per block, sharing its memory."""
    tensor = cache.tensor
    return tensor.view(torch.int8).view(-1, cache.page_size_bytes) if tensor.is_contiguous() else tensor
