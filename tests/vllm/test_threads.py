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


def test_an_engine_with_our_scheduler_shares_fairly(model_shape: str) -> None:
    Server(model_shape, {}, n_blocks=8, n_rows=8)
    assert sys.getswitchinterval() == pytest.approx(0.005), "vLLM's own scheduler leaves Python as it is"
    Server(model_shape, {}, n_blocks=8, n_rows=8, scheduler_class=make_scheduler)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
