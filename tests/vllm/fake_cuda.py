"""CUDA's streams and copies on the CPU, for the bookkeeping of the CUDA copy engine: work is queued and runs only when
a test lets it, in the order of its stream."""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
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
        self.work: deque[Callable[[], None] | Mark] = deque()
        """What to do, and marks of other streams to wait for."""

    def take(self, work: Callable[[], None]) -> None:
        """Do it after all that was given before."""
        self.work.append(work)
        if self.is_fast:
            self.synchronize()

    def wait_stream(self, other: "FakeStream") -> None:
        """Nothing is ever launched elsewhere."""

    def wait_event(self, event: "FakeEvent") -> None:
        if event.mark is not None:
            self.work.append(event.mark)

    @property
    def is_waiting(self) -> bool:
        """Whether it can do nothing now."""
        return not self.work or (isinstance(self.work[0], Mark) and not self.work[0].has_passed)

    def do_next(self) -> None:
        work = self.work.popleft()
        if not isinstance(work, Mark):
            work()

    def synchronize(self) -> None:
        while self.work:
            first = self.work[0]
            if isinstance(first, Mark) and not first.has_passed:
                first.stream.synchronize()
            else:
                self.do_next()


class Mark:
    """A moment of a stream, which passes when the stream comes to it."""

    n_passed = 0

    def __init__(self, stream: FakeStream) -> None:
        self.has_passed = False
        self.stream = stream
        stream.take(self._pass)

    def _pass(self) -> None:
        self.has_passed = True
        Mark.n_passed += 1


def advance(streams: Sequence[FakeStream]) -> None:
    """Run the streams beside each other until one comes to a mark, or all wait."""
    before = Mark.n_passed
    while Mark.n_passed == before:
        ready = [stream for stream in streams if not stream.is_waiting]
        if not ready:
            return
        ready[0].do_next()


class FakeEvent:
    """Stands for the moment at which it was recorded last. Who waits for it waits for what it stands for then."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.mark: Mark | None = None

    def record(self, stream: FakeStream) -> None:
        self.mark = Mark(stream)

    def query(self) -> bool:
        return self.mark is None or self.mark.has_passed

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1.0


class FakeCuda:
    """What the engine uses of torch.cuda, and every batched copy by the bytes of its pieces and its stream."""

    Stream, Event = FakeStream, FakeEvent

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.streams: list[FakeStream] = []
        self._current = FakeStream()

    def current_stream(self, device: torch.device) -> FakeStream:
        return self._current

    def set_stream(self, stream: FakeStream) -> None:
        self._current = stream

    def cudart(self) -> Any:
        return SimpleNamespace(cudaHostRegister=lambda *args: 0, cudaHostUnregister=lambda address: 0)

    def swap_blocks_batch(
        self, source: torch.Tensor, target: torch.Tensor, sizes: torch.Tensor, *, is_src_access_order_any: bool
    ) -> None:
        pieces = list(zip(target.tolist(), source.tolist(), sizes.tolist(), strict=True))
        self.calls.append(sizes.tolist())
        self.streams.append(self._current)
        self._current.take(lambda: [ctypes.memmove(*piece) for piece in pieces] and None)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Put it in the place of CUDA in `elmas.vllm.copy_cuda` until the test ends."""
    fake = FakeCuda()
    monkeypatch.setattr(copy_cuda, "torch", SimpleNamespace(cuda=fake, from_numpy=torch.from_numpy))
    monkeypatch.setattr(copy_cuda, "ops", SimpleNamespace(swap_blocks_batch=fake.swap_blocks_batch))
    monkeypatch.setattr(copy_cuda, "_numa_node", lambda device: None)
    return fake
