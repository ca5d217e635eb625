"""A running vLLM server as an object: start it, wait for it, read its metrics, stop it with everything it started."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from elmas.errors import UserError
from elmas.serve.checks import check_port
from elmas.serve.command import ServerCommand
from elmas.serve.guard import LEFTOVER_GRACE_S, end_session

Labels = tuple[tuple[str, str], ...]
"""The labels of one sample as sorted (name, value) pairs."""

Samples = dict[str, dict[Labels, float]]
"""Prometheus samples by sample name (`vllm:prefix_cache_hits_total`) and labels."""

_POLL_S = 0.25
_TAIL_LINES = 15
_CAUSE = re.compile(r"\b\w*(Error|Exception): \S")


def _start_guarded(command: ServerCommand, output: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    guard = [sys.executable, "-m", "elmas.serve.guard", str(command.stop_grace_s)]
    return subprocess.Popen(
        [*guard, *command.argv],
        env=command.process_environment(),
        stdin=subprocess.PIPE,  # never written to: its end of file tells the guard that this process is gone
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def _finish(guard: "subprocess.Popen[bytes]", timeout_s: float | None = None) -> int:
    """Wait for the guard and return the server's exit code; end the session when the guard did not come that far."""
    try:
        code = guard.wait(timeout_s)
    except subprocess.TimeoutExpired:
        guard.kill()
        code = guard.wait()
    if code < 0:
        end_session(guard.pid)
    return 128 - code if code < 0 else code


def run_foreground(command: ServerCommand) -> int:
    """Run a server on this terminal until it ends and return its exit code; SIGINT, SIGTERM and SIGHUP stop it."""
    guard: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        if guard is None:
            raise SystemExit(128 + number)
        guard.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    guard = _start_guarded(command, None)
    return _finish(guard)


class ServerProcess:
    """A server started in the background, with its output in a log file; a context manager that starts and stops it."""

    def __init__(self, command: ServerCommand, log_path: Path) -> None:
        self.command = command
        self.log_path = log_path
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """The server's URL, without a trailing slash."""
        return self.command.base_url

    @property
    def running(self) -> bool:
        """Whether the server's process has been started and has not ended."""
        return self._guard is not None and self._guard.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the server that run now, its guard first; none when it was not started."""
        if self._guard is None:
            return []
        try:
            guard = psutil.Process(self._guard.pid)
            return [guard, *guard.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def start(self) -> None:
        """Start the server without waiting for it; raises UserError when its port is taken."""
        if self.running:
            raise RuntimeError("this server is running already")
        check_port(self.command.host, self.command.port)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._guard = _start_guarded(self.command, log)

    def wait_ready(self, timeout_s: float = 300, on_progress: Callable[[float], None] | None = None) -> float:
        """Return the seconds it took until GET /health answered; `on_progress` is told the seconds so far.

        Raises UserError with the end of the log when the server ended or `timeout_s` passed.
        """
        begin_s = time.monotonic()
        while True:
            # Health first, process second: a foreign server on the same port must not look like ours.
            healthy = self._healthy()
            elapsed_s = time.monotonic() - begin_s
            if not self.running:
                code = self._guard.poll() if self._guard is not None else None
                raise UserError(f"the server ended (exit code {code}) before it was ready{log_tail(self.log_path)}")
            if healthy:
                return elapsed_s
            if elapsed_s > timeout_s:
                raise UserError(f"the server was not ready after {timeout_s:.0f} s{log_tail(self.log_path)}")
            if on_progress is not None:
                on_progress(elapsed_s)
            time.sleep(_POLL_S)

    def stop(self) -> int | None:
        """Stop the server and everything it started; returns its exit code, None when it was never started.

        It may finish what vLLM's shutdown needs within the command's grace period and is killed after that.
        """
        guard, self._guard = self._guard, None
        if guard is None:
            return None
        if guard.poll() is None:
            guard.send_signal(signal.SIGINT)
        # The guard itself keeps to the grace period; the margin is for the case that it does not.
        code = _finish(guard, self.command.stop_grace_s + 2 * LEFTOVER_GRACE_S)
        if guard.stdin is not None:
            guard.stdin.close()
        return code

    def metrics(self) -> Samples:
        """Return all samples of the server's /metrics page; raises httpx.HTTPError when it does not answer."""
        response = httpx.get(f"{self.base_url}/metrics", timeout=10)
        response.raise_for_status()
        return parse_metrics(response.text)

    def reset_caches(self, timeout_s: float = 30, *, device_only: bool = False) -> None:
        """Empty vLLM's prefix cache and, unless `device_only`, the connector's tiers; needs a command built with
        `dev_mode`.

        vLLM refuses while blocks are held, so this tries again until `timeout_s`. Raises UserError when it stays so.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            response = httpx.post(
                f"{self.base_url}/reset_prefix_cache",
                params={} if device_only else {"reset_external": "true"},
                timeout=timeout_s,
            )
            if response.status_code == 404:
                raise UserError("the server has no route to reset its caches: build its command with dev_mode=True")
            response.raise_for_status()
            if response.json().get("success"):
                return
            if time.monotonic() > deadline_s:
                raise UserError(f"the server did not reset its caches within {timeout_s:.0f} s: is it still working?")
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.base_url}/health", timeout=2).status_code == 200
        return False


def log_tail(path: Path) -> str:
    """Return the end of a server's log for an error message, led by the first error in it: vLLM logs the cause far
    above."""
    lines = path.read_text(errors="replace").splitlines()
    tail = lines[-_TAIL_LINES:]
    if not tail:
        return f"; its log {path} is empty"
    cause = next((line for line in lines[:-_TAIL_LINES] if _CAUSE.search(line)), None)
    shown = tail if cause is None else [cause, "...", *tail]
    return "; the end of its log " + str(path) + ":\n" + "\n".join(f"  {line}" for line in shown)


def parse_metrics(text: str) -> Samples:
    """Return the samples in a page of Prometheus' text format."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples
