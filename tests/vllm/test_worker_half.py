"""What the worker half tells with a step, and what a scheduler hears that asks."""

from types import SimpleNamespace
from typing import Any

import pytest

from elmas.settings import CacheSettings
from elmas.tiers.host import HostRegion
from elmas.vllm.copy_engine import Finished
from elmas.vllm.metadata import Confirmations, StepOrders
from elmas.vllm.same_process import announce, ended_copies
from elmas.vllm.worker_half import WorkerHalf


class FakeEngine:
    """Copies that have ended when a test says so."""

    def __init__(self) -> None:
        self.ended = Finished()
        self.n_waits = 0

    def submit(self, loads: Any, stores: Any) -> None:
        """Nothing is copied."""

    def poll(self) -> Finished:
        ended, self.ended = self.ended, Finished()
        return ended

    def wait_for_any(self, timeout_s: float) -> None:
        self.n_waits += 1


@pytest.fixture
def worker() -> WorkerHalf:
    config = SimpleNamespace(parallel_config=SimpleNamespace(tensor_parallel_size=1))
    half = WorkerHalf(config, 8, CacheSettings())
    half._engine = FakeEngine()  # type: ignore[assignment]
    return half


def end(worker: WorkerHalf, load: str, store: int) -> None:
    """A load and a store end."""
    engine: Any = worker._engine
    engine.ended = Finished({load}, [store])


def test_what_has_ended_is_told_once_with_the_step_or_when_asked(worker: WorkerHalf) -> None:
    region = HostRegion.create(1, 4096).handle
    announce(worker, region)
    worker.begin_step(StepOrders([], [], is_idle=False))
    end(worker, "a", 1)
    assert (worker.finished_loads(), worker.confirmations()) == ({"a"}, Confirmations({1: 1}, {}))
    assert ended_copies(region) is None
    end(worker, "b", 2)
    ended = ended_copies(region)
    assert ended is not None
    assert (ended.finished_recving, ended.kv_connector_worker_meta) == ({"b"}, Confirmations({2: 1}, {}))
    assert (worker.finished_loads(), worker.confirmations()) == (set(), None)
    assert ended_copies(region) is None


def test_a_step_in_which_nothing_runs_waits_and_tells_at_once(worker: WorkerHalf) -> None:
    region = HostRegion.create(1, 4096).handle
    announce(worker, region)
    worker.begin_step(StepOrders([], [], is_idle=True))
    end(worker, "a", 1)
    assert (worker.finished_loads(), worker.confirmations()) == ({"a"}, Confirmations({1: 1}, {}))
    engine: Any = worker._engine
    assert engine.n_waits == 1
