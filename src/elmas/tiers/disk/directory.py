"""The directory of a disk tier: which files in it are ours, who may use it, and the lock of the server that does."""

import errno
import fcntl
import os
import re
import shutil
import stat
import time
from pathlib import Path

from elmas.errors import UserError
from elmas.units import format_bytes

LOCK_NAME = "lock"

_LOOKING_S = 0.2
"""Whoever only looks whether the lock is held has it for a moment; a server that starts just then tries for longer."""

_SEGMENT_NAME = re.compile(r"segment-([0-9a-f]{16})\.kv")


def segment_name(segment: int) -> str:
    """Return the name of a segment's file."""
    return f"segment-{segment:016x}.kv"


def segment_of(name: str) -> int | None:
    """Return the segment whose file has this name, None for any other name."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match.group(1), 16) if match else None


def check_directory(directory: Path, capacity_bytes: int) -> None:
    """Raise UserError when a server could not use this directory for `capacity_bytes`. Leaves everything as it is."""
    try:
        existing = _nearest_existing(directory)
        if existing == directory:
            if not _is_private(directory) and any(directory.iterdir()):
                raise _not_private(directory)
            check_not_in_use(directory)
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            raise UserError(f"disk directory {directory} cannot be written to: choose another one with --disk")
        check_space(directory, capacity_bytes)
    except OSError as error:
        raise _unusable(directory, error) from None


def check_space(directory: Path, capacity_bytes: int) -> None:
    """Raise UserError when the file system has less than `capacity_bytes` free, segments that are there counted as
    free; OSError when that cannot be found out."""
    existing = _nearest_existing(directory)
    n_used = 0
    if existing == directory:
        with os.scandir(directory) as entries:
            n_used = sum(e.stat(follow_symlinks=False).st_size for e in entries if segment_of(e.name) is not None)
    n_free = shutil.disk_usage(existing).free + n_used
    if n_free < capacity_bytes:
        raise UserError(
            f"disk directory {directory} has room for {format_bytes(n_free)}, not for {format_bytes(capacity_bytes)}: "
            "lower --disk-capacity, or choose another directory with --disk"
        )


def prepare_directory(directory: Path) -> None:
    """Make the directory, or take one that is ours alone, or an empty one, which then becomes ours alone (0700).

    Raises UserError when it cannot be made or belongs to others.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        if _is_private(directory):
            return
        if any(directory.iterdir()):
            raise _not_private(directory)
        if directory.stat().st_uid != os.geteuid():
            os.chown(directory, os.geteuid(), -1)  # else it would be refused at the next start, when it has files
        directory.chmod(0o700)
    except OSError as error:
        raise _unusable(directory, error) from None


class DirectoryLock:
    """Held by the one server that uses a directory. The kernel drops it with the process, however that ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises UserError when another process has it, or it cannot be taken."""
        try:
            self._fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._take(directory)
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise _unusable(directory, error) from None

    def _take(self, directory: Path) -> None:
        deadline_s = time.monotonic() + _LOOKING_S
        while not _try_lock(self._fd):
            if time.monotonic() > deadline_s:
                raise _in_use(directory, _pid_in(self._fd))
            time.sleep(_LOOKING_S / 10)

    def release(self) -> None:
        """Let others use the directory. Does nothing the second time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_holder(directory: Path) -> int | None:
    """Return the process that has the directory locked, 0 when it is not known which, None when there is none.

    Raises OSError when the lock cannot be looked at.
    """
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(fd) else _pid_in(fd)
    finally:
        os.close(fd)


def check_not_in_use(directory: Path) -> None:
    """Raise UserError when a server has the directory, OSError when that cannot be found out."""
    holder = lock_holder(directory)
    if holder is not None:
        raise _in_use(directory, holder)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _in_use(directory: Path, pid: int) -> UserError:
    return UserError(
        f"disk directory {directory} is in use by another server (process {pid or 'unknown'}): "
        "give each server its own --disk directory"
    )


def _is_private(directory: Path) -> bool:
    status = directory.stat()
    return status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0


def _nearest_existing(directory: Path) -> Path:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory


def _not_private(directory: Path) -> UserError:
    return UserError(
        f"disk directory {directory} has files and belongs to another user or is accessible to others: "
        f"name an empty one with --disk, or make it yours alone (chmod 700)"
    )


def _unusable(directory: Path, error: OSError) -> UserError:
    reason = "is not a directory" if error.errno in (errno.ENOTDIR, errno.EEXIST) else f"fails ({error.strerror})"
    return UserError(f"disk directory {directory} {reason}: choose another one with --disk")
