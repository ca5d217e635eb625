"""The stub server for every test of this folder."""

from collections.abc import Iterator

import pytest
from stub_server import StubServer, running_stub


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server
