"""The engine's threads give the interpreter up early."""

import sys
from collections.abc import Iterator

import pytest

from elmas.vllm.scheduler import make_scheduler
from elmas.vllm.threads import SWITCH_INTERVAL_S, share_fairly
from tests.vllm.oracle import Server


@pytest.fixture(autouse=True)
def python_default() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before_s)


def test_the_interval_becomes_shorter_never_longer() -> None:
    share_fairly()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    sys.setswitchinterval(1e-6)
    share_fairly()
    assert sys.getswitchinterval() == pytest.approx(1e-6)


@pytest.mark.parametrize("same_process", [False, True])
def test_an_engine_that_launches_the_model_shares_fairly(model_shape: str, same_process: bool) -> None:
    server = Server(model_shape, {}, n_blocks=8, n_rows=8, scheduler_class=make_scheduler, same_process=same_process)
    server.add("one", [1, 2, 3], 1)
    server.run()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S if same_process else 0.005)
