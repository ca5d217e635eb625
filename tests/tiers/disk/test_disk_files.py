"""Transfers are complete or fail, with and without direct I/O; a throttled disk is as slow as it says."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elmas.tiers.disk.faulty import Fault, FaultyFiles
from elmas.tiers.disk.files import DirectFiles, aligned_pages
from elmas.tiers.disk.throttled import ThrottledFiles

PAGE = 4096


@pytest.fixture
def files(tmp_path: Path) -> DirectFiles:
    return DirectFiles(tmp_path)


def filled(n_pages: int) -> Any:
    pages = aligned_pages(n_pages)
    pages[:] = np.random.default_rng(0).integers(0, 256, pages.shape, dtype=np.uint8)
    return pages


def write_and_read(files: DirectFiles, n_pages: int) -> None:
    source, target = filled(n_pages), aligned_pages(n_pages)
    fd = files.create("file", (n_pages + 1) * PAGE)
    files.pwritev(fd, list(source), PAGE)
    files.fdatasync(fd)
    files.close(fd)
    fd = files.open("file", writable=False)
    assert files.preadv(fd, list(target), PAGE) == n_pages * PAGE
    files.close(fd)
    assert np.array_equal(source, target)


def test_more_buffers_than_one_call_takes(files: DirectFiles) -> None:
    write_and_read(files, 2500)


def test_a_new_file_has_its_space_and_is_private(files: DirectFiles, tmp_path: Path) -> None:
    files.close(files.create("file", 10 * PAGE))
    status = (tmp_path / "file").stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == 10 * PAGE
    assert status.st_blocks * 512 >= 10 * PAGE
    assert files.list_files() == [("file", 10 * PAGE)]
    with pytest.raises(FileExistsError):
        files.create("file", PAGE)
    assert files.list_files() == [("file", 10 * PAGE)]


def test_a_file_that_does_not_fit_the_disk_is_not_left_behind(files: DirectFiles) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        files.create("file", 1 << 52)
    assert files.list_files() == []


def test_only_regular_files_are_listed(files: DirectFiles, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    assert files.list_files() == []


@pytest.mark.parametrize("n_most", [1, 100, PAGE, 3 * PAGE + 512, 7 * PAGE])
def test_short_transfers_are_completed(files: DirectFiles, monkeypatch: pytest.MonkeyPatch, n_most: int) -> None:
    monkeypatch.setattr(files, "_is_direct", n_most % PAGE == 0 and files.is_direct)

    def shortened(operation: Callable[..., int]) -> Callable[..., int]:
        def call(fd: int, buffers: list[Any], offset: int) -> int:
            n_left, some = n_most, []
            for buffer in buffers:
                if n_left > 0:
                    some.append(memoryview(buffer)[:n_left])
                n_left -= len(buffer)
            return operation(fd, some, offset)

        return call

    monkeypatch.setattr(os, "preadv", shortened(os.preadv))
    monkeypatch.setattr(os, "pwritev", shortened(os.pwritev))
    write_and_read(files, 3 if n_most < PAGE else 20)


def test_a_write_that_makes_no_progress_fails(files: DirectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = files.create("file", PAGE)
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match="only a part"):
        files.pwritev(fd, list(aligned_pages(1)), 0)
    files.close(fd)


@pytest.mark.parametrize("n_bytes", [0, 1, 511, 512, PAGE, PAGE + 1, 2 * PAGE + 512, 3 * PAGE])
def test_a_read_ends_with_the_file(files: DirectFiles, tmp_path: Path, n_bytes: int) -> None:
    (tmp_path / "file").write_bytes(b"\7" * n_bytes)
    target = aligned_pages(3)
    fd = files.open("file", writable=False)
    assert files.preadv(fd, list(target), 0) == n_bytes
    files.close(fd)
    assert (target.reshape(-1)[:n_bytes] == 7).all()


def refuse_direct_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *more: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)


def refuse_direct_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(operation: Callable[..., int]) -> Callable[..., int]:
        def call(fd: int, buffers: list[Any], offset: int) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no direct I/O")
            return operation(fd, buffers, offset)

        return call

    monkeypatch.setattr(os, "preadv", refusing(os.preadv))
    monkeypatch.setattr(os, "pwritev", refusing(os.pwritev))


@pytest.mark.parametrize("refuse", [refuse_direct_opens, refuse_direct_transfers])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_without_direct_io_files_are_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., None], from_the_start: bool
) -> None:
    if from_the_start:
        refuse(monkeypatch)
        files = DirectFiles(tmp_path)
        assert not files.is_direct
    else:
        files = DirectFiles(tmp_path)
        refuse(monkeypatch)
    write_and_read(files, 5)
    assert not files.is_direct


def test_misuse_does_not_switch_direct_io_off(files: DirectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    was_direct = files.is_direct
    fd = files.create("file", PAGE)
    monkeypatch.setattr(os, "preadv", refuse)
    for buffer, offset in ((aligned_pages(1)[0], 1), (aligned_pages(2).reshape(-1)[1 : PAGE + 1], 0)):
        with pytest.raises(OSError, match="Invalid"):
            files.preadv(fd, [buffer], offset)
    files.close(fd)
    assert files.is_direct == was_direct


def test_throttled_callers_share_the_bandwidth(tmp_path: Path) -> None:
    files = ThrottledFiles(DirectFiles(tmp_path), bytes_per_s=32e6, latency_s=0.0)
    fd = files.create("file", 64 * PAGE)

    def move() -> None:
        for _ in range(5):
            files.pwritev(fd, list(aligned_pages(64)), 0)
            files.preadv(fd, list(aligned_pages(64)), 0)

    begin_s = time.monotonic()
    threads = [threading.Thread(target=move) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = 40 * 64 * PAGE / (time.monotonic() - begin_s)
    files.close(fd)
    assert rate < 1.2 * 32e6


def test_latencies_of_parallel_callers_overlap(tmp_path: Path) -> None:
    files = ThrottledFiles(DirectFiles(tmp_path), bytes_per_s=1e12, latency_s=0.5)
    fd = files.create("file", PAGE)
    begin_s = time.monotonic()
    threads = [threading.Thread(target=files.preadv, args=(fd, list(aligned_pages(1)), 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.5 <= time.monotonic() - begin_s < 4 * 0.5
    files.close(fd)


def test_faults_happen_to_the_calls_they_are_planned_for(tmp_path: Path) -> None:
    plan = [
        Fault("pwritev", nth=2, error_number=errno.EIO),
        Fault("pwritev", nth=3, n_most=PAGE),
        Fault("preadv", nth=2, n_most=PAGE),
        Fault("preadv", nth=3, flip_at=PAGE + 1),
        Fault("fdatasync", latency_s=0.05),
        Fault("close", error_number=errno.EIO),
    ]
    files = FaultyFiles(DirectFiles(tmp_path), plan)
    source, target = filled(2), aligned_pages(2)
    fd = files.create("file", 2 * PAGE)
    files.pwritev(fd, list(source), 0)
    with pytest.raises(OSError, match="Input/output"):
        files.pwritev(fd, list(source), 0)
    assert files.preadv(fd, list(target), 0) == 2 * PAGE
    assert np.array_equal(source, target)
    assert files.preadv(fd, list(target), 0) == PAGE
    files.pwritev(fd, list(target[::-1]), 0)
    files.preadv(fd, list(target), 0)
    source[0] = source[1]
    assert np.flatnonzero((source != target).reshape(-1)).tolist() == [PAGE + 1]
    begin_s = time.monotonic()
    files.fdatasync(fd)
    assert time.monotonic() - begin_s >= 0.05
    with pytest.raises(OSError, match="Input/output"):
        files.close(fd)
    assert files.calls == {"create": 1, "pwritev": 3, "preadv": 3, "fdatasync": 1, "close": 1}
