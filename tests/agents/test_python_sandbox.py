"""Sandboxed Python: every way out is tried, under every set of layers that this machine can enforce."""

import asyncio
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from elmas.agents.tools.python_sandbox import (
    Confinement,
    Ending,
    PythonSandbox,
    SandboxLimits,
    SandboxResult,
    _detect,
)
from elmas.agents.tools.sandbox_filter import filter_program
from elmas.errors import UserError

LIMITS = SandboxLimits(wall_s=30.0, cpu_s=5, memory_bytes=256 << 20, output_bytes=10_000)
LAYERS = asyncio.run(_detect(LIMITS)).layers
ENFORCING = [
    layers
    for layers in (("namespaces", "landlock", "seccomp"), ("landlock", "seccomp"), ("namespaces", "seccomp"))
    if set(layers) <= set(LAYERS)
]

if not ENFORCING:
    pytest.skip("this machine confines nothing", allow_module_level=True)


class Layered(PythonSandbox):
    """A sandbox on a machine that allows certain layers only."""

    def __init__(self, layers: tuple[str, ...], limits: SandboxLimits = LIMITS) -> None:
        super().__init__(limits)
        self._confinement = Confinement(layers, {})


def run(
    code: str, layers: tuple[str, ...] = ENFORCING[0], limits: SandboxLimits = LIMITS, inputs: Sequence[Path] = ()
) -> SandboxResult:
    return asyncio.run(Layered(layers, limits).run(code, inputs))


@pytest.fixture(params=ENFORCING, ids="+".join)
def layers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


# Each line is an attempt that must end in an OSError (or a RuntimeError for threads). OUTSIDE is a file of the parent.
REFUSED = {
    "inet socket": "import socket; socket.socket()",
    "inet6 socket": "import socket; socket.socket(socket.AF_INET6)",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "socket pair": "import socket; socket.socketpair()",
    "raw socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink socket": "import socket; socket.socket(16, socket.SOCK_RAW, 0)",
    "packet socket": "import socket; socket.socket(17, socket.SOCK_RAW, 3)",
    "socket by number": "call(41 if x86 else 198, 2, 1, 0)",
    "name look-up": "import socket; socket.getaddrinfo('example.org', 80)",
    "write outside": "open(OUTSIDE, 'w')",
    "append outside": "open(OUTSIDE, 'a')",
    "create outside": "open(OUTSIDE + '.new', 'x')",
    "write above": "open('../new', 'w')",
    "read outside": "open(OUTSIDE).read()",
    "read a system file": "open('/etc/passwd').read()",
    "write through a symlink": "os.symlink(OUTSIDE, 'link'); open('link', 'w')",
    "read through a symlink": "os.symlink(OUTSIDE, 'link'); open('link').read()",
    "folder through a symlink": "os.symlink(os.path.dirname(OUTSIDE), 'up'); open('up/new', 'w')",
    "hard link from outside": "os.link(OUTSIDE, 'mine')",
    "hard link to outside": "open('mine', 'w').close(); os.link('mine', OUTSIDE + '.link')",
    "rename from outside": "os.rename(OUTSIDE, 'mine')",
    "rename to outside": "open('mine', 'w').close(); os.rename('mine', OUTSIDE)",
    "remove outside": "os.unlink(OUTSIDE)",
    "truncate outside": "os.truncate(OUTSIDE, 0)",
    "mode outside": "os.chmod(OUTSIDE, 0)",
    "owner outside": "os.chown(OUTSIDE, 1, 1)",
    "times outside": "os.utime(OUTSIDE, (0, 0))",
    "attributes outside": "os.setxattr(OUTSIDE, 'user.a', b'b')",
    "folders inside": "os.mkdir('folder')",
    "fifo": "os.mkfifo('fifo')",
    "device": "os.mknod('device', 0o20600, os.makedev(1, 1))",
    "shared memory": "open('/dev/shm/x', 'w')",
    "temporary files": "open('/tmp/x', 'w')",
    "python's own folder": "open(os.__file__, 'a')",
    "descriptor of the parent": "open(f'/proc/{os.getppid()}/fd/1', 'w')",
    "outside by the root link": "open('/proc/self/root' + OUTSIDE)",
    "outside by the parent's root": "open(f'/proc/{os.getppid()}/root' + OUTSIDE)",
    "outside by the folder link": "open('/proc/self/cwd/../../new', 'w')",
    "own memory": "open('/proc/self/mem', 'r+b')",
    "parent's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "own environment": "open('/proc/self/environ', 'rb').read()",
    "memory file": "os.memfd_create('x')",
    "system v shared memory": "call(29 if x86 else 194, 0, 1 << 20, 0o1600)",
    "room beyond the limit": "call(285 if x86 else 47, os.open('x', os.O_CREAT | os.O_RDWR), 1, 0, 1 << 30)",
    "fork": "os.fork()",
    "fork by number": "call(57 if x86 else 220, 17, 0, 0, 0, 0)",
    "clone3": "call(435, 0, 0)",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "shell": "assert os.waitstatus_to_exitcode(os.system('true')) == 0",
    "exec": "os.execv('/bin/true', ['true'])",
    "exec of python": "import sys; os.execv(sys.executable, ['python', '-c', 'print(1)'])",
    "thread": "import threading; threading.Thread(target=print).start()",
    "signal to the parent": "os.kill(os.getppid(), 9)",
    "signal to all": "os.kill(-1, 9)",
    "signal to the group": "os.killpg(0, 9)",
    "signal by descriptor": "call(434, os.getppid(), 0)",
    "signals of a pipe's owner": "import fcntl; fcntl.fcntl(1, 8, os.getppid())",
    "ptrace the parent": "call(101 if x86 else 117, 16, os.getppid(), 0, 0)",
    "memory of the parent": "call(310 if x86 else 270, os.getppid(), 0, 0, 0, 0, 0)",
    "limits of the parent": "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "priority": "os.nice(1)",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(120))",
    "bpf": "call(321 if x86 else 280, 0, 0, 0)",
    "mount": "call(165 if x86 else 40, b'none', b'.', b'tmpfs', 0, 0)",
    "namespace": "call(272 if x86 else 97, 0x10000000)",
    "change of root": "os.chroot('.')",
    "change of user": "os.setuid(0)",
    "new session": "os.setsid()",
    "keys": "call(250 if x86 else 219, 0, -3, 0, 0, 0)",
    "performance events": "call(298 if x86 else 241, 0, 0, -1, -1, 0)",
    "fault handler": "call(323 if x86 else 282, 0)",
    "handle of a file": "call(303 if x86 else 264, -100, b'.', ctypes.create_string_buffer(200), 0, 0)",
}

PRELUDE = """\
import ctypes, os
x86 = os.uname().machine == "x86_64"
OUTSIDE = {outside!r}
def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if libc.syscall(ctypes.c_long(number), *wide) < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""

ALL_ATTEMPTS = """\
for name, code in {attempts!r}.items():
    for left in os.listdir():
        os.unlink(left)
    try:
        exec(code, dict(globals()))
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        continue
    print("SUCCEEDED:", name)
print("all tried")
"""


def test_no_way_out_is_open(layers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMAS_TEST_SECRET", "s3cret")
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    before = outside.stat()
    code = PRELUDE.format(outside=str(outside)) + ALL_ATTEMPTS.format(attempts=REFUSED)
    result = run(code, layers)
    assert result.output == "all tried\n"
    assert result.ending is Ending.DONE
    after = outside.stat()
    assert outside.read_text() == "untouched"
    assert (before.st_mode, before.st_mtime_ns, before.st_uid) == (after.st_mode, after.st_mtime_ns, after.st_uid)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_the_attempts_would_succeed_without_the_sandbox(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    harmless = ("inet socket", "write outside", "hard link from outside", "mode outside", "memory file", "thread")
    outside = tmp_path / "outside"
    outside.write_text("x")
    for name in harmless:
        code = PRELUDE.format(outside=str(outside)) + f"os.chdir({str(tmp_path)!r})\n" + REFUSED[name]
        here = Path.cwd()
        try:
            exec(code, {})
        finally:
            os.chdir(here)


def test_nothing_of_the_parent_is_inherited(layers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        result = run(
            "import os\n"
            "found = []\n"
            "for number in range(3, 32):\n"
            "    try:\n"
            "        os.fstat(number)\n"
            "        found.append(number)\n"
            "    except OSError:\n"
            "        pass\n"
            "[{name for name in os.environ if name != 'LC_CTYPE'}, found, os.read(0, 10)]",
            layers,
        )
    finally:
        os.close(secret)
    assert result.output == "[set(), [], b'']\n"


def test_no_privilege_is_left(layers: tuple[str, ...]) -> None:
    async def status() -> dict[str, str]:
        running = asyncio.create_task(Layered(layers).run("import time\ntime.sleep(5)"))
        while True:
            await asyncio.sleep(0.02)
            for process in psutil.Process().children():
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                found = {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}
                if found["Seccomp"] == "2":
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    assert not psutil.pid_exists(process.pid)
                    return found

    found = asyncio.run(status())
    assert {int(found[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (found["NoNewPrivs"], found["Threads"]) == ("1", "1")


def test_time_is_limited_for_a_process_that_sleeps() -> None:
    result = run("print('begun')\nimport time\ntime.sleep(1000)", limits=SandboxLimits(wall_s=0.5))
    assert (result.ending, result.output) == (Ending.OUT_OF_TIME, "begun\n")


def test_time_is_limited_for_a_process_that_closes_its_output() -> None:
    code = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(1000)"
    assert run(code, limits=SandboxLimits(wall_s=0.5)).ending is Ending.OUT_OF_TIME


def test_processor_time_is_limited(layers: tuple[str, ...]) -> None:
    limits = SandboxLimits(wall_s=60, cpu_s=1)
    assert run("while True: pass", layers, limits).ending is Ending.OUT_OF_CPU


def test_processor_time_is_limited_for_code_that_ignores_the_signal() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(code, limits=SandboxLimits(wall_s=60, cpu_s=1)).ending is Ending.KILLED


@pytest.mark.parametrize(
    "code", ["x = bytearray(1 << 30)", "import mmap; mmap.mmap(-1, 1 << 30)", "x = 'a' * (1 << 30)"]
)
def test_memory_is_limited(code: str, layers: tuple[str, ...]) -> None:
    result = run(code, layers)
    assert result.ending is Ending.FAILED
    assert "MemoryError" in result.output or "Cannot allocate memory" in result.output


def test_memory_that_grows_slowly_is_limited() -> None:
    result = run("x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert result.ending is Ending.FAILED
    assert "MemoryError" in result.output


def test_output_is_limited(layers: tuple[str, ...]) -> None:
    for _ in range(5):  # how much is still in the pipe when the process is killed differs
        result = run("while True: print('x' * 1000)", layers)
        assert result.ending is Ending.TOO_MUCH_OUTPUT
        assert len(result.output) == LIMITS.output_bytes


def test_a_file_cannot_grow_beyond_its_limit(layers: tuple[str, ...]) -> None:
    result = run("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", layers)
    assert "File too large" in result.output
    assert "File too large" in run("open('big', 'wb').truncate(1 << 40)", layers).output


def test_many_files_cannot_grow_beyond_the_limit_of_the_folder() -> None:
    code = "import time\nfor i in range(1000):\n    open(str(i), 'wb').write(bytes(1 << 20))\n    time.sleep(0.05)"
    limits = SandboxLimits(wall_s=60, scratch_bytes=3 << 20)
    assert run(code, limits=limits).ending is Ending.TOO_MUCH_DISK


def test_the_number_of_files_is_limited() -> None:
    code = "import time\nfor i in range(1000):\n    open(str(i), 'w').close()\n    time.sleep(0.01)"
    assert run(code, limits=SandboxLimits(wall_s=60, n_files=20)).ending is Ending.TOO_MUCH_DISK


def test_open_files_are_limited() -> None:
    assert "Too many open files" in run("x = [open(str(i), 'w') for i in range(100)]").output


def test_nothing_is_left_for_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox = Layered(ENFORCING[0])

    async def both() -> list[SandboxResult]:
        first = await sandbox.run("import builtins\nbuiltins.left = 1\nopen('left', 'w').write('x')")
        return [first, await sandbox.run("import builtins, os\n[hasattr(builtins, 'left'), os.listdir()]")]

    first, second = asyncio.run(both())
    assert first.output == "1\n"
    assert second.output == "[False, []]\n"
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_copies(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    source.write_text("a,b\n1,2\n")
    result = run("print(open('table.csv').read())\nopen('table.csv', 'w').write('')", inputs=[source])
    assert result.output == "a,b\n1,2\n\n0\n"
    assert source.read_text() == "a,b\n1,2\n"


def test_the_last_value_is_printed_and_errors_show_the_code() -> None:
    assert run("import math\nx = 6\nmath.factorial(x)").output == "720\n"
    assert run("None").output == ""
    failed = run("def f():\n    return 1 / 0\nf()")
    assert failed.ending is Ending.FAILED
    assert "return 1 / 0" in failed.output
    assert "sandbox_child" not in failed.output
    assert run("f(").output.startswith("  File") or "SyntaxError" in run("f(").output
    assert run("import sys\nsys.exit(3)").ending is Ending.FAILED


def test_usual_modules_work(layers: tuple[str, ...]) -> None:
    code = (
        "import csv, datetime, decimal, fractions, hashlib, json, lzma, math, random, re, sqlite3, statistics\n"
        "with sqlite3.connect('t.db') as db:\n"
        "    db.execute('create table t (x)')\n"
        "    db.execute('insert into t values (41)')\n"
        "    print(db.execute('select x + 1 from t').fetchone()[0])\n"
    )
    assert run(code, layers).output == "42\n"


def test_many_calls_at_once_do_not_disturb_each_other() -> None:
    sandbox = Layered(ENFORCING[0])

    async def together() -> list[SandboxResult]:
        return await asyncio.gather(*(sandbox.run(f"open('x', 'w').write('{i}')\nopen('x').read()") for i in range(8)))

    assert [result.output for result in asyncio.run(together())] == [f"'{i}'\n" for i in range(8)]


@pytest.mark.parametrize("layers", [(), ("seccomp",), ("landlock", "namespaces")])
def test_without_both_confinements_nothing_runs(layers: tuple[str, ...], tmp_path: Path) -> None:
    sandbox = Layered(layers)
    with pytest.raises(UserError, match="seccomp"):
        asyncio.run(sandbox.run(f"open({str(tmp_path / 'x')!r}, 'w')"))
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_cannot_be_put_on_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elmas.agents.tools.python_sandbox.filter_program", lambda machine, pid: b"\0" * 8)
    found = asyncio.run(_detect(LIMITS))
    assert "seccomp" not in found.layers
    assert found.missing["seccomp"] == "Invalid argument"
    assert not found.suffices


def test_a_run_in_which_a_layer_fails_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elmas.agents.tools.python_sandbox.filter_program", lambda machine, pid: b"\0" * 8)
    with pytest.raises(UserError, match="seccomp: Invalid argument"):
        run("print('ran')")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_no_call_twice_and_jumps_inside(machine: str) -> None:
    program = filter_program(machine, 7)
    assert program is not None
    instructions = list(struct.iter_unpack("=HBBI", program))
    assert len(instructions) < 4096
    for place, (code, if_true, if_false, _) in enumerate(instructions):
        if code == 0x15:
            assert place + 1 + max(if_true, if_false) < len(instructions)
    numbers = [value for code, _, if_false, value in instructions[4:] if code == 0x15 and if_false == 1]
    assert len(numbers) > 80
    assert filter_program("riscv64", 7) is None


def test_a_call_of_another_architecture_kills_the_process() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("32-bit calls exist on x86 only")
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n"
        "print('went on')"
    )
    result = run(code)
    assert (result.ending, result.output) == (Ending.KILLED, "")
