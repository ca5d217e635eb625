"""The process in which sandboxed Python runs: it confines itself, then runs the code. Started by `python_sandbox`.

It is a program of its own, in an interpreter without site-packages (-I -S), and imports nothing of elmas. On standard
input it gets a JSON object, see `main`; on the status descriptor it says in one line whether it is confined, and
nothing of the code runs before that.

Sources: landlock(7), seccomp(2), user_namespaces(7), mount_setattr(2), pivot_root(2) of the Linux man-pages.
"""

import ast
import base64
import ctypes
import json
import linecache
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# The same numbers on x86_64 and aarch64; pivot_root is older than the common table.
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NOBODY = 65534
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1 << 1, 1 << 2, 1 << 3
_FS_REMOVE_FILE, _FS_MAKE_REG, _FS_MAKE_SYM, _FS_REFER, _FS_TRUNCATE = 1 << 5, 1 << 8, 1 << 12, 1 << 13, 1 << 14
_FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights an ABI knows; later ones add none that matter here, and rights they do not know are an error."""
_NET_BIND_AND_CONNECT, _SCOPE_SOCKETS_AND_SIGNALS = 3, 3

_NOT_CONFINED = 70
_FILE = "<code>"


def main() -> None:
    """Confine the process as standard input says, report, run the code and end the process.

    Standard input: `layers` (names, in the order in which they are put on), `scratch` (the folder that may be written),
    `root` (an empty folder to build a file system in), `filter` (base64 of the seccomp program), `limits` (numbers of
    resource limits and their values), `status` (the descriptor to report on), `code`.
    """
    given = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    failed, layer = None, "privileges"
    try:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        os.chdir(given["scratch"])
        readable = _readable_folders()
        for layer in given["layers"]:
            if layer == "seccomp":
                # Last of all, after what it would forbid.
                _drop_capabilities()
                _set_limits(given["limits"])
            _LAYERS[layer](given, readable)
    except OSError as error:
        failed = {"layer": layer, "reason": os.strerror(error.errno or 0)}
    os.write(given["status"], json.dumps(failed).encode())
    os.close(given["status"])
    if failed is not None:
        os._exit(_NOT_CONFINED)
    _run(given["code"])


def _enter_namespaces(given: dict[str, Any], readable: list[str]) -> None:
    """Move to an own user, network (without even a loopback that is up), IPC and host name, and to a file system that
    holds nothing but the readable folders, read-only, and the scratch folder at its usual path.

    Not to an own PID namespace: that takes a second process, and no signal, trace or /proc leads out anyway.
    """
    user, group = os.geteuid(), os.getegid()
    kinds = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS
    _check(_LIBC.unshare(kinds))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1")
    root, scratch = given["root"], given["scratch"]
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m")
    for folder in readable:
        _bind(root, folder, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    _bind(root, scratch, _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
    os.chdir(root)
    _syscall(_PIVOT_ROOT[os.uname().machine], b".", b".")
    _check(_LIBC.umount2(b".", _MNT_DETACH))
    _set_mount_attributes("/", _ATTR_RDONLY, 0)
    os.chdir(scratch)


def _restrict_files(given: dict[str, Any], readable: list[str]) -> None:
    """Put on a Landlock domain: the readable folders can be read, the scratch folder read and written, nothing else
    opened. TCP, abstract sockets and signals to others are refused too where the kernel's Landlock knows them."""
    abi = _syscall(_LANDLOCK_CREATE, None, 0, 1)
    handled = (1 << _FS_RIGHTS_BY_ABI.get(abi, 16)) - 1
    fields = [handled, _NET_BIND_AND_CONNECT, _SCOPE_SOCKETS_AND_SIGNALS][: 1 + (abi >= 4) + (abi >= 6)]
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = _syscall(_LANDLOCK_CREATE, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    reading = _FS_READ_FILE | _FS_READ_DIR
    writing = _FS_WRITE_FILE | _FS_REMOVE_FILE | _FS_MAKE_REG | _FS_MAKE_SYM | _FS_REFER | _FS_TRUNCATE
    for folder, rights in [*((folder, reading) for folder in readable), (given["scratch"], reading | writing)]:
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = (rights & handled).to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        _syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(descriptor)
    _syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _filter_system_calls(given: dict[str, Any], readable: list[str]) -> None:
    """Let the kernel refuse all system calls but those that the filter names, from here to the end of the process."""
    program = base64.b64decode(given["filter"])

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    what = Program(len(program) // 8, program)
    _check(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(what), 0, 0))


_LAYERS: dict[str, Callable[[dict[str, Any], list[str]], None]] = {
    "namespaces": _enter_namespaces,
    "landlock": _restrict_files,
    "seccomp": _filter_system_calls,
}


def _drop_capabilities() -> None:
    """Give up all capabilities: those of root, where it runs as root, and those over its own namespaces."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_LIBC.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def _set_limits(limits: list[tuple[int, int, int]]) -> None:
    for kind, soft, hard in limits:
        resource.setrlimit(kind, (soft, hard))


def _readable_folders() -> list[str]:
    """Return Python's own folders, those of the shared libraries it has loaded, and the time zones."""
    libraries = [
        line.split(maxsplit=5)[5].strip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/" in line and ".so" in line
    ]
    wanted = {
        os.path.realpath(folder) for folder in [*sys.path, *map(os.path.dirname, libraries), "/usr/share/zoneinfo"]
    }
    found = sorted(folder for folder in wanted if Path(folder).is_dir() and folder != "/")
    return [folder for folder in found if not any(folder.startswith(f"{other}/") for other in found)]


def _bind(root: str, folder: str, attributes: int) -> None:
    """Show a folder at its own path below the new root."""
    target = root + folder
    Path(target).mkdir(parents=True, exist_ok=True)
    _mount(folder, target, None, _MS_BIND | _MS_REC)
    _set_mount_attributes(target, attributes, _AT_RECURSIVE)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    kind_bytes = None if kind is None else kind.encode()
    _check(_LIBC.mount(os.fsencode(source), os.fsencode(target), kind_bytes, ctypes.c_ulong(flags), options.encode()))


def _set_mount_attributes(path: str, attributes: int, flags: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    _syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, ctypes.byref(wanted), ctypes.sizeof(wanted))


def _syscall(number: int, *arguments: Any) -> int:
    """Return what a system call returns; raises OSError."""
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    return _check(_LIBC.syscall(ctypes.c_long(number), *wide))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _run(code: str) -> None:
    """Run the code as a main program and end the process. The value of an expression at its end is printed."""
    status = 1
    try:
        linecache.cache[_FILE] = (len(code), None, code.splitlines(keepends=True), _FILE)
        tree = ast.parse(code, _FILE)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(tree, _FILE, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), _FILE, "eval"), names)
            if value is not None:
                print(repr(value))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code)
    except BaseException as error:
        shown = error.__traceback__
        while shown is not None and shown.tb_frame.f_code.co_filename != _FILE:
            shown = shown.tb_next
        traceback.print_exception(type(error), error, shown)
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
