"""The process between elmas and vLLM that makes sure a server ends completely, whatever killed whom.

Run as `python -m elmas.serve.guard GRACE_S COMMAND...` in a session of its own, with a pipe from elmas as standard
input: the pipe's end of file says that elmas is gone, even after `kill -9`. vLLM's EngineCore and workers belong to the
same session; what is left of it when the vLLM front process has ended is terminated. This works where a parent-death
signal alone does not: that one follows the starting thread, and does not reach vLLM's own children.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

LEFTOVER_GRACE_S = 5.0
"""How long what outlives the vLLM front process may take to end after SIGTERM."""

_KILL_PATIENCE_S = 10.0
"""A killed process that does not end within this time waits for a device; waiting longer would not help."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def session_members(session: int) -> list[int]:
    """Return the ids of the running (not zombie) processes in `session`, this process excepted."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if pid != os.getpid() and os.getsid(pid) == session and psutil.Process(pid).status() != "zombie":
                members.append(pid)
    return members


def end_session(session: int, grace_s: float = LEFTOVER_GRACE_S) -> None:
    """End every process of `session` but this one: SIGTERM once, SIGKILL to what is still there `grace_s` later."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_PATIENCE_S)):
        deadline_s = time.monotonic() + patience_s
        told: set[int] = set()
        while members := session_members(session):
            for pid in set(members) - told:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            told.update(members)
            if time.monotonic() >= deadline_s:
                break
            time.sleep(0.05)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_with_guard() -> None:
    """In the child before exec: should the guard itself be killed, vLLM still gets a SIGTERM."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(child: subprocess.Popen[bytes], wake_fd: int, grace_s: float) -> None:
    """Return when the child has ended, or `grace_s` seconds after the first request to stop."""
    parent_fd = sys.stdin.fileno()
    watched = [parent_fd, wake_fd]
    deadline_s: float | None = None
    while child.poll() is None:
        timeout_s = None if deadline_s is None else deadline_s - time.monotonic()
        if timeout_s is not None and timeout_s <= 0:
            return
        ready, _, _ = select.select(watched, [], [], timeout_s)
        stop = False
        if parent_fd in ready and not os.read(parent_fd, 1):
            watched.remove(parent_fd)
            stop = True
        if wake_fd in ready:
            stop = stop or any(number != signal.SIGCHLD for number in os.read(wake_fd, 64))
        if stop and child.poll() is None:
            # SIGTERM also for Ctrl-C: while a model loads, vLLM acts on SIGTERM at once but on SIGINT only later.
            child.terminate()
            deadline_s = deadline_s or time.monotonic() + grace_s


def _reap_orphans() -> None:
    """Collect the ended processes that vLLM left to this one; in a container there may be no init that would."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code, 128 + n when signal n ended it."""
    grace_s, command = float(arguments[0]), list(arguments[1:])
    wake_fd, signal_fd = os.pipe()
    os.set_blocking(signal_fd, False)
    signal.set_wakeup_fd(signal_fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # This process has one thread, so running code between fork and exec is safe here.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_guard)
    _watch(child, wake_fd, grace_s)
    end_session(os.getsid(0), LEFTOVER_GRACE_S if child.poll() is not None else 0)
    code = child.wait(_KILL_PATIENCE_S)
    _reap_orphans()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
