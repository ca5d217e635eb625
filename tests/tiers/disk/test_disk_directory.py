"""One server has a directory to itself, whatever became of the one before, and no other user looks into it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CAPACITY_BYTES, Blocks

from elmas.errors import UserError
from elmas.tiers.disk.directory import check_directory, lock_holder, segment_name, segment_of
from elmas.tiers.disk.format import Namespace
from elmas.tiers.disk.store import DiskStore

HOLD = """
import sys, time
from pathlib import Path
from elmas.tiers.disk.format import Namespace
from elmas.tiers.disk.store import DiskStore
store = DiskStore(Path(sys.argv[1]), Namespace({}), 4096, int(sys.argv[2]))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_server(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory open."""
    command = [sys.executable, "-c", HOLD, str(directory), str(CAPACITY_BYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_second_server_is_refused_and_told_about_the_first(
    other_server: subprocess.Popen[str], make_store: Callable[..., DiskStore], directory: Path
) -> None:
    message = (
        f"disk directory {directory} is in use by another server (process {other_server.pid}): "
        "give each server its own --disk directory"
    )
    with pytest.raises(UserError) as refused:
        make_store()
    assert str(refused.value) == message
    with pytest.raises(UserError) as refused:
        check_directory(directory, CAPACITY_BYTES)
    assert str(refused.value) == message
    assert lock_holder(directory) == other_server.pid


def test_the_lock_goes_with_the_process_that_has_it(
    other_server: subprocess.Popen[str], make_store: Callable[..., DiskStore], directory: Path
) -> None:
    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    assert lock_holder(directory) is None
    check_directory(directory, CAPACITY_BYTES)
    make_store()
    assert lock_holder(directory) == os.getpid()


def test_a_closed_store_leaves_the_directory_to_others(make_store: Callable[..., DiskStore], directory: Path) -> None:
    assert lock_holder(directory) is None
    store = make_store()
    assert lock_holder(directory) == os.getpid()
    store.close()
    assert lock_holder(directory) is None


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_directory_that_others_can_enter_is_refused_unless_it_is_empty(
    make_store: Callable[..., DiskStore], directory: Path, mode: int
) -> None:
    directory.mkdir()
    directory.chmod(mode)
    check_directory(directory, CAPACITY_BYTES)
    assert directory.stat().st_mode & 0o777 == mode
    make_store().close()
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(mode)
    for use in (make_store, lambda: check_directory(directory, CAPACITY_BYTES)):
        with pytest.raises(UserError, match="accessible to others"):
            use()


def test_a_directory_of_another_user_is_refused(
    make_store: Callable[..., DiskStore], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store().close()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for use in (make_store, lambda: check_directory(directory, CAPACITY_BYTES)):
        with pytest.raises(UserError, match="belongs to another user"):
            use()


def test_missing_parents_are_made_and_a_check_makes_nothing(
    make_store: Callable[..., DiskStore], tmp_path: Path
) -> None:
    deep = tmp_path / "a" / "b" / "c"
    check_directory(deep, CAPACITY_BYTES)
    assert list(tmp_path.iterdir()) == []
    make_store(directory=deep)
    assert deep.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_place_of_the_directory_is_named(
    make_store: Callable[..., DiskStore], tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for use in (lambda path: make_store(directory=path), lambda path: check_directory(path, CAPACITY_BYTES)):
        with pytest.raises(UserError, match="is not a directory"):
            use(tmp_path / below)


def test_a_capacity_that_the_disk_does_not_have_is_refused(
    make_store: Callable[..., DiskStore], directory: Path
) -> None:
    for use in (lambda: make_store(capacity_bytes=1 << 50), lambda: check_directory(directory, 1 << 50)):
        with pytest.raises(UserError, match=r"has room for .* lower --disk-capacity"):
            use()
    assert lock_holder(directory) is None


def test_segments_that_are_there_count_as_room(
    make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    make_store().close()
    with (directory / segment_name(0)).open("wb") as file:
        file.truncate(1 << 43)
    check_directory(directory, 1 << 43)
    make_store(capacity_bytes=1 << 43)


def test_a_capacity_below_two_segments_leaves_no_trace(make_store: Callable[..., DiskStore], directory: Path) -> None:
    with pytest.raises(UserError, match="raise --disk-capacity"):
        make_store(capacity_bytes=32767)
    assert not directory.exists()


def test_a_lock_file_that_is_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(mode=0o700)
    (tmp_path / "precious").write_text("mine")
    (directory / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="disk directory"):
        DiskStore(directory, Namespace({}), 4096, CAPACITY_BYTES)
    assert (tmp_path / "precious").read_text() == "mine"


def test_names_of_segments() -> None:
    assert segment_name(255) == "segment-00000000000000ff.kv"
    assert segment_of("segment-00000000000000ff.kv") == 255
    for name in ("segment-ff.kv", "segment-00000000000000FF.kv", "segment-00000000000000ff.kv2", "lock"):
        assert segment_of(name) is None
