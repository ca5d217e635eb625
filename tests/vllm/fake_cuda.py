"""CUDA's streams and copies on the CPU, for the bookkeeping of the CUDA copy engine: work is queued and runs only when
a test lets it, in the order of its stream."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elmas.vllm import copy_cuda

CPU = torch.device("cpu")


class FakeStream:
    """Work in the order in which it was given; done at once if it `is_fast`."""

    is_fast = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.work: deque[Callable[[], None]] = deque()

    def take(self, work: Callable[[], None]) -> None:
        """Do it after all that was given before."""
        self.work.append(work)
        if self.is_fast:
            self.synchronize()

    def wait_stream(self, other: "FakeStream") -> None:
        """Nothing is ever launched elsewhere."""

    def advance(self) -> None:
        """Run what was given up to and with the next event."""
        while self.work:
            before = FakeEvent.n_passed
            self.work.popleft()()
            if FakeEvent.n_passed > before:
                return

    def synchronize(self) -> None:
        while self.work:
            self.work.popleft()()


class FakeEvent:
    """Passes when its stream comes to it."""

    n_passed = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.has_passed = False

    def record(self, stream: FakeStream) -> None:
        stream.take(self._pass)

    def query(self) -> bool:
        return self.has_passed

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1.0

    def _pass(self) -> None:
        self.has_passed = True
        FakeEvent.n_passed += 1


class FakeCuda:
    """What the engine uses of torch.cuda, and every batched copy by the bytes of its pieces."""

    Stream, Event = FakeStream, FakeEvent

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self._current = FakeStream()

    def current_stream(self, device: torch.device) -> FakeStream:
        return FakeStream()

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        outer, self._current = self._current, stream
        yield
        self._current = outer

    def cudart(self) -> Any:
        return SimpleNamespace(cudaHostRegister=lambda *args: 0, cudaHostUnregister=lambda address: 0)

    def swap_blocks_batch(
        self, source: torch.Tensor, target: torch.Tensor, sizes: torch.Tensor, *, is_src_access_order_any: bool
    ) -> None:
        pieces = list(zip(target.tolist(), source.tolist(), sizes.tolist(), strict=True))
        self.calls.append(sizes.tolist())
        self._current.take(lambda: [ctypes.memmove(*piece) for piece in pieces] and None)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Put it in the place of CUDA in `elmas.vllm.copy_cuda` until the test ends."""
    fake = FakeCuda()
    monkeypatch.setattr(copy_cuda, "torch", SimpleNamespace(cuda=fake, from_numpy=torch.from_numpy))
    monkeypatch.setattr(copy_cuda, "ops", SimpleNamespace(swap_blocks_batch=fake.swap_blocks_batch))
    monkeypatch.setattr(copy_cuda, "_numa_node", lambda device: None)
    return fake
