"""Python for agents: code of a model runs in a process that the kernel confines.

The layers, each tried on this machine before the first call, put on by the process itself before it runs any code
(`sandbox_child`):

- seccomp: only named system calls (`sandbox_filter`): no sockets, processes, threads, signals to others, shared memory.
- landlock: files can be opened in Python's own folders (to read) and in the scratch folder, and nowhere else.
- namespaces: an own, empty network and a file system in which nothing else exists.

seccomp is required, and one of the two that confine files; without them `PythonSandbox` refuses to run. In all cases
the process has an empty environment, no inherited descriptors, no capabilities, its own session and limits. What stays
possible where namespaces are missing: to see that a path exists, with its size, mode and times.
"""

import asyncio
import base64
import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from elmas.agents.tools.sandbox_filter import filter_program
from elmas.errors import UserError

_LAYERS = ("namespaces", "landlock", "seccomp")
_CHILD = Path(__file__).with_name("sandbox_child.py")
_POLL_S = 0.05
_LONGEST_START_S = 20.0
"""For an interpreter on a busy machine; the time limit of the code counts from when it is confined."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one call may use at most."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 << 20
    """Of address space, interpreter included."""
    file_bytes: int = 8 << 20
    """Of one file."""
    scratch_bytes: int = 64 << 20
    """Of all files together, checked 20 times a second."""
    n_files: int = 256
    """In the scratch folder."""
    n_open_files: int = 32
    output_bytes: int = 64 << 10
    """Of standard output and standard error together."""

    def resource_limits(self) -> list[tuple[int, int, int]]:
        """Return kind, soft and hard value of the kernel's limits. No process can be started at all."""
        return [
            (resource.RLIMIT_AS, self.memory_bytes, self.memory_bytes),
            # At the soft limit a signal comes that code may ignore, at the hard one the end.
            (resource.RLIMIT_CPU, self.cpu_s, self.cpu_s + 1),
            (resource.RLIMIT_FSIZE, self.file_bytes, self.file_bytes),
            (resource.RLIMIT_NOFILE, self.n_open_files, self.n_open_files),
            *((kind, 0, 0) for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK)),
        ]


class Ending(StrEnum):
    """How a call ended."""

    DONE = "done"
    FAILED = "failed"
    """An exception, or an exit code other than 0."""
    KILLED = "killed by a signal"
    OUT_OF_TIME = "stopped: it took too long"
    OUT_OF_CPU = "stopped: it used too much processor time"
    TOO_MUCH_OUTPUT = "stopped: it printed too much"
    TOO_MUCH_DISK = "stopped: it wrote too much"


@dataclass(frozen=True)
class SandboxResult:
    """What came out of one call."""

    ending: Ending
    output: str
    """Standard output and standard error as they came, up to the limit."""
    wall_s: float


@dataclass(frozen=True)
class Confinement:
    """What the kernel of this machine can enforce."""

    layers: tuple[str, ...]
    missing: dict[str, str]
    """Reason by layer."""

    @property
    def suffices(self) -> bool:
        """Whether both the network and the files are out of reach."""
        return "seccomp" in self.layers and len(self.layers) > 1

    def __str__(self) -> str:
        missing = "".join(f"; not {layer} ({reason})" for layer, reason in self.missing.items())
        return f"{', '.join(self.layers) or 'nothing'}{missing}"


@dataclass
class _Run:
    """One process, from its start to its end."""

    process: asyncio.subprocess.Process
    limits: SandboxLimits
    scratch: Path
    n_bytes_before: int
    n_files_before: int
    output: bytearray = field(default_factory=bytearray)

    async def supervise(self) -> Ending:
        """Read the output until the process ends or exceeds a limit, and then kill it."""
        reading = asyncio.create_task(self._read())
        end_s = time.monotonic() + self.limits.wall_s
        try:
            while True:
                await asyncio.wait([reading], timeout=min(_POLL_S, max(0.0, end_s - time.monotonic())))
                if len(self.output) > self.limits.output_bytes:
                    return Ending.TOO_MUCH_OUTPUT
                if self._wrote_too_much():
                    return Ending.TOO_MUCH_DISK
                # A process may close its output and go on: only its end counts.
                if self.process.returncode is not None and reading.done():
                    return _ending(self.process.returncode)
                if time.monotonic() >= end_s:
                    return Ending.OUT_OF_TIME
                if reading.done():
                    await asyncio.sleep(_POLL_S)
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while len(self.output) <= self.limits.output_bytes:
            chunk = await self.process.stdout.read(1 << 14)
            if not chunk:
                await self.process.wait()
                return
            self.output += chunk

    def _wrote_too_much(self) -> bool:
        n_bytes, n_files = _usage(self.scratch)
        return (
            n_bytes - self.n_bytes_before > self.limits.scratch_bytes
            or n_files - self.n_files_before > self.limits.n_files
        )


class PythonSandbox:
    """Runs code, at most `max_running` at once. Nothing of one call is left for the next."""

    def __init__(self, limits: SandboxLimits | None = None, max_running: int = 2) -> None:
        self._limits = limits or SandboxLimits()
        self._slots = asyncio.Semaphore(max_running)
        self._detecting = asyncio.Lock()
        self._confinement: Confinement | None = None

    async def confinement(self) -> Confinement:
        """Return what this machine can enforce, found out by trying, once."""
        async with self._detecting:
            if self._confinement is None:
                self._confinement = await _detect(self._limits)
            return self._confinement

    async def run(self, code: str, inputs: Sequence[Path] = ()) -> SandboxResult:
        """Run code in a new, flat scratch folder that holds copies of `inputs`, and return what it printed.

        Raises UserError where the kernel cannot confine it; nothing has run then.
        """
        confinement = await self.confinement()
        if not confinement.suffices:
            raise UserError(
                "Python for agents needs seccomp, and Landlock or user namespaces; this machine allows "
                f"{confinement}: use a kernel from 5.13 on, or a container that permits them"
            )
        async with self._slots:
            failed, result = await _run(code, inputs, confinement.layers, self._limits)
        if failed is not None:
            raise UserError(f"the Python sandbox could not be set up ({': '.join(failed)}): run it again")
        return result


async def _detect(limits: SandboxLimits) -> Confinement:
    """Try all layers; leave out the one that fails and try again, until the rest can be put on together."""
    layers, missing = list(_LAYERS), {}
    if filter_program(platform.machine(), 0) is None:
        layers.remove("seccomp")
        missing["seccomp"] = f"no filter for {platform.machine()}"
    while layers:
        failed, _ = await _run("", (), tuple(layers), limits)
        if failed is None:
            break
        layer, reason = failed
        if layer not in layers:
            return Confinement((), dict.fromkeys(_LAYERS, reason))
        layers.remove(layer)
        missing[layer] = reason
    return Confinement(tuple(layers), missing)


async def _run(
    code: str, inputs: Sequence[Path], layers: tuple[str, ...], limits: SandboxLimits
) -> tuple[tuple[str, str] | None, SandboxResult]:
    """Return the layer that could not be put on with the reason, or None; and what came out."""
    with tempfile.TemporaryDirectory(prefix="elmas-python-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        scratch, root = work / "scratch", work / "root"
        scratch.mkdir(mode=0o700)
        root.mkdir(mode=0o700)
        for source in inputs:
            shutil.copyfile(source, scratch / source.name)
        status_read, status_write = os.pipe()
        try:
            process = await _start(scratch, status_write)
        except BaseException:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        run = _Run(process, limits, scratch, *_usage(scratch))
        try:
            program = filter_program(platform.machine(), process.pid) or b""
            given = {
                "layers": layers,
                "scratch": str(scratch),
                "root": str(root),
                "filter": base64.b64encode(program).decode(),
                "limits": limits.resource_limits(),
                "status": status_write,
                "code": code,
            }
            failed = await _hand_over(process, json.dumps(given).encode(), status_read)
            start_s = time.monotonic()
            ending = Ending.FAILED if failed is not None else await run.supervise()
            wall_s = time.monotonic() - start_s
        finally:
            # The process cannot leave its group, and cannot have children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await _reap(process)
        text = bytes(run.output[: limits.output_bytes]).decode(errors="replace")
        return failed, SandboxResult(ending, text, wall_s)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Return when a killed process is gone. What it had printed is read and dropped: with a full buffer asyncio would
    not see the end of the pipe, and wait for it for ever."""
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):
        pass
    await process.wait()


async def _start(scratch: Path, status: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", str(_CHILD)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={},
        cwd=scratch,
        start_new_session=True,
        pass_fds=(status,),
    )


async def _hand_over(process: asyncio.subprocess.Process, given: bytes, status: int) -> tuple[str, str] | None:
    """Give the process its work and return None once it is confined, else the layer and the reason."""
    assert process.stdin is not None
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(status, "rb"))
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(given)
            await process.stdin.drain()
            process.stdin.close()
        async with asyncio.timeout(_LONGEST_START_S):
            report = await reader.read()
        failed = json.loads(report)
    except TimeoutError:
        return "start", f"not ready within {_LONGEST_START_S:g} s"
    except ValueError:
        return "start", "the interpreter did not start"
    finally:
        transport.close()
    return None if failed is None else (failed["layer"], failed["reason"])


def _usage(scratch: Path) -> tuple[int, int]:
    """Return the bytes on the disk and the number of files; the folder is flat."""
    n_bytes = n_files = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            n_files += 1
            with suppress(FileNotFoundError):
                n_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
    return n_bytes, n_files


def _ending(status: int) -> Ending:
    if status == -signal.SIGXCPU:
        return Ending.OUT_OF_CPU
    if status < 0:
        return Ending.KILLED
    return Ending.DONE if status == 0 else Ending.FAILED
