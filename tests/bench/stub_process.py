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
        self.n_resets = 0
        self.extra_hits = 0
        """Tokens that /metrics claims to have found on the device, more with every reading."""

    def metrics(self) -> Samples:
        samples = parse_metrics(httpx.get(self.base_url + "/metrics").text)
        self.extra_hits *= 2
        for labels in samples["vllm:prompt_tokens_by_source_total"]:
            if ("source", "local_cache_hit") in labels:
                samples["vllm:prompt_tokens_by_source_total"][labels] += self.extra_hits
        return samples

    def reset_caches(self) -> None:
        self.n_resets += 1


class StubArms:
    """Replaces `arm_command` and `running_server`: remembers which servers were started, in order."""

    def __init__(self, stub: StubServer) -> None:
        self.process = StubProcess(stub)
        self.started: list[str] = []
        self.disks: list[Path | None] = []
        """The disk directory of each command, in the order in which they were asked for."""

    def arm_command(self, arm: str, shape: Any) -> ServerCommand:
        self.disks.append(shape.disk)
        return ServerCommand(("serve", arm), {}, "127.0.0.1", 1)

    @contextmanager
    def running_server(self, command: ServerCommand, log_path: Path) -> Iterator[tuple[StubProcess, float]]:
        self.started.append(command.argv[1])
        yield self.process, 0.5
