"""A server as an object, against a stand-in for vLLM: ready, metrics, reset, and no process left whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from elmas.errors import UserError
from elmas.serve.command import ServerCommand
from elmas.serve.guard import session_members
from elmas.serve.process import ServerProcess, parse_metrics

STUB = Path(__file__).with_name("stub_server.py")
LABELS = (("engine", "0"), ("model_name", "m"))


def command(port: int, *mode: str, grace_s: float = 5, dev_mode: bool = True) -> ServerCommand:
    environment = {"VLLM_SERVER_DEV_MODE": "1"} if dev_mode else {}
    argv = (sys.executable, str(STUB), str(port), *mode)
    return ServerCommand(argv, environment, "127.0.0.1", port, stop_grace_s=grace_s)


def processes_on(port: int) -> list[psutil.Process]:
    """The guard and the stand-in's front process: the running processes with the stub and this port as arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if str(STUB) in words and str(port) in words:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def wait_until_empty(session: int, timeout_s: float = 15) -> list[int]:
    deadline_s = time.monotonic() + timeout_s
    while (members := session_members(session)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return members


def test_start_ready_metrics_reset_stop(tmp_path: Path, free_port: int) -> None:
    progress: list[float] = []
    with ServerProcess(command(free_port), tmp_path / "logs" / "server.log") as server:
        assert server.wait_ready(30, progress.append) > 0
        assert progress
        samples = server.metrics()
        assert samples["vllm:prefix_cache_hits_total"] == {LABELS: 32.0}
        server.reset_caches()  # the stand-in refuses once, as vLLM does while blocks are held
        session = processes_on(free_port)[0].pid
        assert len(session_members(session)) == 3
        assert server.stop() == 0
        assert not server.running
    assert wait_until_empty(session, 0) == []
    assert "worker" in server.log_path.read_text()


def test_reset_says_that_the_development_routes_are_missing(tmp_path: Path, free_port: int) -> None:
    with ServerProcess(command(free_port, dev_mode=False), tmp_path / "log") as server:
        server.wait_ready(30)
        with pytest.raises(UserError, match="dev_mode"):
            server.reset_caches()


def test_an_early_death_shows_the_cause_and_the_end_of_the_log(tmp_path: Path, free_port: int) -> None:
    server = ServerProcess(command(free_port, "dies"), tmp_path / "log")
    with server, pytest.raises(UserError, match="exit code 3") as raised:
        server.wait_ready(30)
    assert "ValueError: the real cause" in str(raised.value)
    assert str(raised.value).endswith("the last line")


def test_not_ready_in_time(tmp_path: Path, free_port: int) -> None:
    sleeper = ServerCommand((sys.executable, "-c", "import time; time.sleep(60)"), {}, "127.0.0.1", free_port)
    with ServerProcess(sleeper, tmp_path / "log") as server, pytest.raises(UserError, match="not ready after"):
        server.wait_ready(0.5)


def test_a_taken_port_is_told_before_the_start(tmp_path: Path, free_port: int) -> None:
    with ServerProcess(command(free_port), tmp_path / "a.log") as server:
        server.wait_ready(30)
        with pytest.raises(UserError, match="in use"):
            ServerProcess(command(free_port), tmp_path / "b.log").start()


def test_a_server_that_ignores_signals_is_killed_with_its_workers(tmp_path: Path, free_port: int) -> None:
    with ServerProcess(command(free_port, "stubborn", grace_s=0.5), tmp_path / "log") as server:
        server.wait_ready(30)
        session = processes_on(free_port)[0].pid
        assert server.stop() == 128 + signal.SIGKILL
    assert wait_until_empty(session, 0) == []


@pytest.mark.parametrize("which", [0, 1], ids=["guard", "front"])
def test_killing_one_process_leaves_no_other(tmp_path: Path, free_port: int, which: int) -> None:
    with ServerProcess(command(free_port), tmp_path / "log") as server:
        server.wait_ready(30)
        guard, front = processes_on(free_port)
        os.kill((guard, front)[which].pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 10
        while server.running and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert server.stop() == 128 + signal.SIGKILL
        assert wait_until_empty(guard.pid) == []


_FOREGROUND = """
import sys
from elmas.serve.command import ServerCommand
from elmas.serve.process import run_foreground
sys.exit(run_foreground(ServerCommand((sys.executable, *sys.argv[1:]), {}, "127.0.0.1", int(sys.argv[2]), 1.0)))
"""


def start_foreground(port: int, *mode: str) -> "tuple[subprocess.Popen[str], int]":
    """Start the stand-in the way `elmas serve` does; returns the process and, once it serves, its guard's id."""
    arguments = [sys.executable, "-c", _FOREGROUND, str(STUB), str(port), *mode]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("worker")
    guard = next(child.pid for child in psutil.Process(parent.pid).children())
    return parent, guard


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_a_foreground_server_cleanly(free_port: int, number: signal.Signals) -> None:
    parent, session = start_foreground(free_port)
    parent.send_signal(number)
    assert parent.wait(15) == 0
    assert wait_until_empty(session, 0) == []


@pytest.mark.parametrize("mode", ["serves", "stubborn"])
def test_kill_9_of_elmas_leaves_nothing(free_port: int, mode: str) -> None:
    parent, session = start_foreground(free_port, mode)
    assert len(session_members(session)) == 3
    parent.kill()
    parent.wait()
    assert wait_until_empty(session) == []


def test_the_exit_code_is_the_servers(free_port: int) -> None:
    arguments = [sys.executable, "-c", _FOREGROUND, str(STUB), str(free_port), "dies"]
    assert subprocess.run(arguments, stdout=subprocess.DEVNULL, timeout=30).returncode == 3


def test_metrics_are_parsed_by_name_and_labels() -> None:
    text = '# TYPE a counter\na_total{y="2",x="1"} 3\na_total{x="2",y="2"} 4\n# TYPE b gauge\nb 5\n'
    assert parse_metrics(text) == {
        "a_total": {(("x", "1"), ("y", "2")): 3.0, (("x", "2"), ("y", "2")): 4.0},
        "b": {(): 5.0},
    }
