"""`elmas disk` works on any directory, tells what is wrong with it, and removes only what is ours and unused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SEGMENT_BYTES, Blocks
from typer.testing import CliRunner, Result

from elmas.cli.disk import disk
from elmas.errors import UserError
from elmas.tiers.disk.directory import segment_name
from elmas.tiers.disk.files import aligned_pages
from elmas.tiers.disk.format import PAGE_BYTES, Namespace, SegmentShape
from elmas.tiers.disk.inspect import inspect_directory
from elmas.tiers.disk.store import DiskStore
from elmas.tiers.disk.verify import verify_directory

OTHER = Namespace({"model": "other", "dtype": "float16", "cache_dtype": ["fp8", None]})
SHAPE = SegmentShape(4, PAGE_BYTES)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(disk, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


@pytest.fixture
def closed(make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path) -> Path:
    """A directory that two servers of other models used in turn; the second one crashed. There is a file of others."""
    store = make_store()
    blocks.write_segment(store, 0, [1, 2, 3])
    blocks.write_segment(store, 1, [4, 5, 6, 7])
    store = make_store(namespace=OTHER, payload_bytes=2 * PAGE_BYTES)
    store.create(2)
    store.write(2, 0, blocks.keys([8]), [aligned_pages(2).reshape(-1)])
    store.close()
    (directory / "notes.txt").write_text("mine")
    return directory


def damage(directory: Path, segment: int, place: int) -> None:
    with (directory / segment_name(segment)).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_inspect_tells_namespaces_apart_and_names_other_files(closed: Path) -> None:
    report = json.loads(run("inspect", closed, "--json").stdout)
    first, second = report["namespaces"]
    assert first["facts"] == {"model": "tiny", "block_size": 16}
    assert (first["segments"], first["sealed_segments"], first["blocks"]) == (2, 2, 7)
    assert (first["bytes"], first["block_bytes"]) == (2 * SEGMENT_BYTES, PAGE_BYTES)
    assert (second["facts"]["model"], second["digest"]) == ("other", OTHER.digest.hex())
    assert (second["segments"], second["sealed_segments"], second["blocks"]) == (1, 0, 1)
    assert second["block_bytes"] == 2 * PAGE_BYTES
    assert first["oldest_created_s"] <= first["newest_created_s"] <= second["oldest_created_s"]
    assert (report["in_use"], report["server_process"]) == (False, None)
    assert report["unknown"] == [{"name": "notes.txt", "bytes": 4}]
    assert (report["damaged"], report["other_versions"]) == ([], [])
    table = run("inspect", closed).stdout
    for text in ("tiny", "dtype float16, cache_dtype fp8", OTHER.digest.hex()[:12], "notes.txt", "no server uses it"):
        assert text in table


def test_inspect_and_verify_work_beside_a_server(
    make_store: Callable[..., DiskStore], blocks: Blocks, directory: Path
) -> None:
    store = make_store()
    blocks.write_segment(store, 0, [1, 2])
    blocks.write_segment(store, 1, [3], sealed=False)
    assert f"in use by a server (process {os.getpid()})" in run("inspect", directory).stdout
    damage(directory, 1, SHAPE.offset_of(0) + PAGE_BYTES)  # as if it were being written
    result = run("verify", directory)
    assert (result.exit_code, result.stdout) == (0, "2 records good\n")
    blocks.write(store, 1, 1, [4])
    assert blocks.read(store, 1, 1, [4]) == ["GOOD"]


def test_verify_passes_what_is_intact(closed: Path) -> None:
    result = run("verify", closed)
    assert (result.exit_code, result.stdout) == (0, "8 records good\n")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (SHAPE.offset_of(1) + PAGE_BYTES + 5, "2 good, 1 corrupt"),
        (SHAPE.offset_of(1) + 5, "2 good, 1 corrupt"),
        (5, "no usable header"),
    ],
)
def test_verify_names_what_is_damaged(closed: Path, place: int, said: str) -> None:
    damage(closed, 0, place)
    result = run("verify", closed)
    assert result.exit_code == 1
    assert f"{segment_name(0)}: " in result.stdout
    assert said in result.stdout
    assert segment_name(1) not in result.stdout


def test_verify_notices_files_that_are_cut_short_or_misnamed(closed: Path) -> None:
    whole = (closed / segment_name(1)).read_bytes()
    (closed / segment_name(1)).write_bytes(whole[: SHAPE.offset_of(2) + 100])
    (closed / segment_name(9)).write_bytes(whole)
    result = verify_directory(closed)
    assert {verdict.value: n for verdict, n in result.bad_files[segment_name(1)].items()} == {"good": 2, "truncated": 2}
    assert result.damaged == [segment_name(9)]


@pytest.mark.parametrize("n_bytes", [0, 100, PAGE_BYTES, PAGE_BYTES + 1])
def test_files_of_any_length_can_be_looked_at(closed: Path, n_bytes: int) -> None:
    content = (closed / segment_name(0)).read_bytes()[:n_bytes]
    (closed / segment_name(0)).write_bytes(content)
    summary = inspect_directory(closed)
    assert len(summary.segments) + len(summary.damaged) == 3
    assert not verify_directory(closed).is_good


def test_verify_reports_its_progress(closed: Path) -> None:
    steps: list[tuple[int, int]] = []
    verify_directory(closed, lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1][0] == steps[-1][1] == sum(path.stat().st_size for path in closed.glob("*.kv"))


def test_clear_removes_all_segments_and_nothing_else(closed: Path) -> None:
    damage(closed, 0, 5)
    assert run("clear", closed, "--yes").exit_code == 0
    assert {path.name for path in closed.iterdir()} == {"lock", "notes.txt"}
    assert run("clear", closed).stdout == "nothing to remove\n"


def test_clear_removes_one_namespace(closed: Path) -> None:
    assert run("clear", closed, "--yes", "--namespace", OTHER.digest.hex()[:8].upper()).exit_code == 0
    assert {path.name for path in closed.glob("*.kv")} == {segment_name(0), segment_name(1)}


@pytest.mark.parametrize(("prefix", "n"), [("", 2), ("zz", 0)])
def test_clear_wants_exactly_one_namespace(closed: Path, prefix: str, n: int) -> None:
    with pytest.raises(UserError, match=f"stands for {n} namespaces"):
        run("clear", closed, "--yes", "--namespace", prefix)
    assert len(list(closed.glob("*.kv"))) == 3


def test_clear_asks_first(closed: Path) -> None:
    refused = CliRunner().invoke(disk, ["clear", str(closed)], input="n\n")
    assert refused.exit_code == 1
    assert len(list(closed.glob("*.kv"))) == 3
    agreed = CliRunner().invoke(disk, ["clear", str(closed)], input="y\n")
    assert agreed.exit_code == 0
    assert list(closed.glob("*.kv")) == []


def test_clear_refuses_while_a_server_runs(make_store: Callable[..., DiskStore], blocks: Blocks) -> None:
    store = make_store()
    blocks.write_segment(store, 0, [1])
    with pytest.raises(UserError, match="in use by another server"):
        run("clear", store.directory, "--yes")
    assert blocks.read(store, 0, 0, [1]) == ["GOOD"]


def test_a_directory_without_segments_is_left_as_it_is(tmp_path: Path) -> None:
    assert run("clear", tmp_path, "--yes").stdout == "nothing to remove\n"
    assert json.loads(run("inspect", tmp_path, "--json").stdout)["namespaces"] == []
    assert run("verify", tmp_path).stdout == "no records\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["inspect", "verify", "clear"])
def test_a_missing_directory_is_one_line(tmp_path: Path, command: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "from elmas.cli import main; main()", "disk", command, str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("elmas: error: cannot read ")
    assert process.stderr.count("\n") == 1
