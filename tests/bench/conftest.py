"""The stub server for every test of this folder."""

from collections.abc import Iterator

import pytest
from stub_process import StubArms
from stub_server import StubServer, running_stub

import elmas.bench.comparison as comparison_module


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server


@pytest.fixture
def arms(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> StubArms:
    """The stub in the place of the servers of a comparison."""
    arms = StubArms(stub)
    monkeypatch.setattr(comparison_module, "arm_command", arms.arm_command)
    monkeypatch.setattr(comparison_module, "running_server", arms.running_server)
    return arms
