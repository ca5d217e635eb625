"""A stand-in for a started server: the stub server behind the interface of `ServerProcess`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from stub_server import StubServer

from elmas.serve.command import ServerCommand
from elmas.serve.process import Samples, parse_metrics


class StubProcess:
    def __init__(self, stub: StubServer) -> None:
        self.base_url = stub.base_url

    def metrics(self) -> Samples:
        return parse_metrics(httpx.get(self.base_url + "/metrics").text)

    def reset_caches(self) -> None:
        """There is nothing to empty."""


class StubArms:
    """Replaces `arm_command` and `running_server`: remembers which servers were started, in order."""

    def __init__(self, stub: StubServer) -> None:
        self.process = StubProcess(stub)
        self.started: list[str] = []

    def arm_command(self, arm: str, shape: Any) -> ServerCommand:
        return ServerCommand(("serve", arm), {}, "127.0.0.1", 1)

    @contextmanager
    def running_server(self, command: ServerCommand, log_path: Path) -> Iterator[tuple[StubProcess, float]]:
        self.started.append(command.argv[1])
        yield self.process, 0.5
