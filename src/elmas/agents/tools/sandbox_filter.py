"""The system calls that sandboxed Python may make, as a seccomp filter in classic BPF.

An allowlist: what is not named here fails with EPERM, also calls that a later kernel adds. Missing on purpose: sockets
of any kind, new processes and threads, execve, ptrace, mounts, io_uring, bpf, shared memory outside the address space
(memfd, SysV), keys, and what Landlock does not check: modes, owners, times and extended attributes of files. There is
no mkdir either: the scratch folder stays flat, so that measuring and removing it is simple.

Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
"""

import struct
from dataclasses import dataclass

_X86_64 = {
    "memory": (9, 10, 11, 12, 25, 28),  # mmap mprotect munmap brk mremap madvise
    # read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 lseek ftruncate fsync fdatasync flock
    # fadvise64 copy_file_range sendfile; not fallocate, which can take room beyond the limit of a file's size
    "contents": (0, 1, 17, 18, 19, 20, 295, 296, 327, 328, 8, 77, 74, 75, 73, 221, 326, 40),
    # open openat close close_range dup dup2 dup3 pipe pipe2
    "descriptors": (2, 257, 3, 436, 32, 33, 292, 22, 293),
    # fstat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir getdents
    # getdents64
    "looking": (5, 4, 6, 262, 332, 21, 269, 439, 89, 267, 79, 80, 81, 78, 217),
    # rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat umask
    "names": (84, 87, 263, 82, 264, 316, 86, 265, 88, 266, 95),
    # poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 futex
    "waiting": (7, 271, 23, 270, 291, 233, 232, 281, 290, 202),
    # rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack
    "signals": (13, 14, 15, 127, 130, 128, 131),
    # set_robust_list rseq getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp
    # getpgid getsid sysinfo uname getcpu sched_yield sched_getaffinity getrlimit getrusage getpriority getrandom
    "self": (
        *(273, 334, 39, 110, 186, 102, 107, 104, 108, 118, 120, 115, 111, 121, 124, 99, 63, 309, 24, 204, 97, 98, 140),
        318,
    ),
    # clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times setitimer getitimer alarm pause
    "time": (228, 229, 230, 35, 96, 201, 100, 38, 36, 37, 34),
    "end": (60, 231, 219),  # exit exit_group restart_syscall
}

_AARCH64 = {
    "memory": (222, 226, 215, 214, 216, 233),
    "contents": (63, 64, 67, 68, 65, 66, 69, 70, 286, 287, 62, 46, 82, 83, 32, 223, 285, 71),
    "descriptors": (56, 57, 436, 23, 24, 59),
    "looking": (80, 79, 291, 48, 439, 78, 17, 49, 50, 61),
    "names": (35, 38, 276, 37, 36, 166),
    "waiting": (73, 72, 20, 21, 22, 19, 98),
    "signals": (134, 135, 139, 136, 133, 137, 132),
    "self": (
        *(99, 293, 172, 173, 178, 174, 175, 176, 177, 148, 150, 158, 155, 156, 179, 160, 168, 124, 123, 163, 165, 141),
        278,
    ),
    "time": (113, 114, 115, 101, 169, 153, 103, 102),
    "end": (93, 94, 128),
}

_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
"""Duplicates, flags and locks. Not F_SETOWN and F_SETSIG, which make the kernel send signals to others."""

_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX: what Python asks of files and pipes."""


@dataclass(frozen=True)
class _Machine:
    audit_arch: int
    allowed: tuple[int, ...]
    fcntl: int
    ioctl: int
    prlimit64: int
    kill: int
    tgkill: int


def _flat(groups: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(number for group in groups.values() for number in group)


_MACHINES = {
    "x86_64": _Machine(0xC000003E, _flat(_X86_64), fcntl=72, ioctl=16, prlimit64=302, kill=62, tgkill=234),
    "aarch64": _Machine(0xC00000B7, _flat(_AARCH64), fcntl=25, ioctl=29, prlimit64=261, kill=129, tgkill=131),
}

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_KILL_PROCESS, _EPERM, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000


def filter_program(machine: str, pid: int) -> bytes | None:
    """Return the filter for process `pid` as an array of `struct sock_filter`; None for a machine it is not known for.

    Signals go to the process itself only, and limits of others cannot be changed. System calls of another architecture
    (32-bit ones on x86) kill the process.
    """
    known = _MACHINES.get(machine)
    if known is None:
        return None
    program = [
        _instruction(_LOAD, _ARCH_OFFSET),
        _instruction(_JUMP_IF_EQUAL, known.audit_arch, if_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    for number in known.allowed:
        program += [_instruction(_JUMP_IF_EQUAL, number, if_false=1), _instruction(_RETURN, _ALLOW)]
    program += _only_with(known.fcntl, 1, _FCNTL_COMMANDS)
    program += _only_with(known.ioctl, 1, _IOCTL_REQUESTS)
    program += _only_with(known.prlimit64, 0, (0,))
    program += _only_with(known.kill, 0, (pid,))
    program += _only_with(known.tgkill, 0, (pid,))
    program.append(_instruction(_RETURN, _EPERM))
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _only_with(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow a call with certain values of one argument. All of these are 32 bits wide in the kernel: the lower half
    decides."""
    body = [_instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * argument)]
    for value in values:
        body += [_instruction(_JUMP_IF_EQUAL, value, if_false=1), _instruction(_RETURN, _ALLOW)]
    body.append(_instruction(_RETURN, _EPERM))
    return [_instruction(_JUMP_IF_EQUAL, number, if_false=len(body)), *body]
