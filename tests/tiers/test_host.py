"""The host region: shared between processes, without a name, gone with its processes."""

import multiprocessing
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from elmas.tiers.host import HostRegion, RegionHandle, align_row, rows_in


def _write_from_another_process(handle: RegionHandle) -> None:
    region = HostRegion.attach(handle)
    region.rows[2, :3] = [1, 2, 3]


def test_another_process_sees_the_same_rows() -> None:
    region = HostRegion.create(4, 8192)
    process = multiprocessing.get_context("spawn").Process(target=_write_from_another_process, args=(region.handle,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert region.rows[2, :3].tolist() == [1, 2, 3]
    assert region.address % 4096 == 0
    region.close()


def test_nothing_is_left_after_kill_9() -> None:
    program = """
        import os, signal
        from elmas.tiers.host import HostRegion
        region = HostRegion.create(256, 1 << 20)
        region.rows[:] = 7
        os.kill(os.getpid(), signal.SIGKILL)
    """
    before_names = set(Path("/dev/shm").iterdir())
    before_kib = _shared_memory_kib()
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert process.returncode == -9
    assert set(Path("/dev/shm").iterdir()) == before_names
    assert _shared_memory_kib() - before_kib < 128 << 10, "the 256 MiB of the region were not given back"


def test_rows_are_whole_pages() -> None:
    assert align_row(1) == 4096
    assert align_row(8192) == 8192
    assert rows_in(10_000, 4096) == 2
    for n_rows, row_bytes in ((0, 4096), (1, 0), (1, 1000)):
        with pytest.raises(ValueError, match="multiples of 4096"):
            HostRegion.create(n_rows, row_bytes)


def test_a_region_that_is_gone_or_has_another_size_is_refused() -> None:
    region = HostRegion.create(4, 4096)
    handle = region.handle
    with pytest.raises(ValueError, match="not 5 rows"):
        HostRegion.attach(RegionHandle(handle.pid, handle.fd, 5, 4096))
    with pytest.raises(OSError, match=r"/proc/"):
        HostRegion.attach(RegionHandle(handle.pid, 9999, 4, 4096))
    region.close()


def _shared_memory_kib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1])
    raise AssertionError("no Shmem line")


def test_populating_backs_every_page_and_keeps_contents() -> None:
    region = HostRegion.create(64, 1 << 20)
    region.rows[3] = 9
    before_kib = _shared_memory_kib()
    errors: list[OSError] = []
    region.populate_in_background(errors.append).join()
    assert errors == []
    assert _shared_memory_kib() - before_kib > 60 << 10
    assert (region.rows[3] == 9).all()
    assert not region.rows[4:].any()


@pytest.mark.parametrize(("n_threads", "numa_node"), [(1, None), (4, 0), (3, 1023), (2, 4096)])
def test_all_pages_are_backed_and_keep_what_they_hold(n_threads: int, numa_node: int | None) -> None:
    region = HostRegion.create(37, 4 << 20)
    region.rows[5, :3] = [1, 2, 3]
    before_kib = _shared_memory_kib()
    region.populate_all(n_threads, numa_node)
    assert _shared_memory_kib() - before_kib > 100 << 10
    assert region.rows[5, :4].tolist() == [1, 2, 3, 0]
    region.close()
