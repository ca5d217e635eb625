"""Killing a server at any moment leaves nothing that the next one does not clean or reuse."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from elmas.bench.arms import ServerShape, arm_command, running_server
from tests.server.client import complete, complete_all, tokens

pytestmark = pytest.mark.server


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def load(url: str, stop: threading.Event) -> None:
    """Keep the server copying until it is gone."""
    rng = random.Random(0)
    while not stop.is_set():
        try:
            complete_all(url, [tokens(rng.randrange(12), 600) for _ in range(6)], 8)
        except Exception:
            return


def test_kill_9_of_the_worker_while_it_copies(shape: ServerShape, tmp_path: Path) -> None:
    before = shared_memory()
    command = arm_command("mt-apc", shape)
    stop = threading.Event()
    with running_server(command, tmp_path / "killed.log") as (server, _):
        family = server.processes()
        thread = threading.Thread(target=load, args=(server.base_url, stop))
        thread.start()
        time.sleep(5)
        workers = [process for process in family if "VLLM::Worker" in " ".join(process.cmdline())]
        assert workers, [process.cmdline() for process in family]
        for process in workers:
            os.kill(process.pid, signal.SIGKILL)
        thread.join(60)
        stop.set()
    end_s = time.monotonic() + 20
    while left := [process for process in family if process.is_running() and process.status() != "zombie"]:
        assert time.monotonic() < end_s, f"still running: {left}"
        time.sleep(0.2)
    assert shared_memory() - before == set()
    with running_server(command, tmp_path / "again.log") as (again, _):
        assert len(complete(again.base_url, tokens(1, 100), 4)[0].tokens) == 4
