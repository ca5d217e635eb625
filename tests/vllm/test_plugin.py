"""The plugin inside vLLM: connectors are known by name, and mistakes end in one line before anything is loaded."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

from elmas.errors import UserError
from elmas.tiers.disk.directory import DirectoryLock, prepare_directory
from elmas.vllm.plugin import check_command_line, register


def command(model: str, extra: dict[str, Any], *options: str) -> list[str]:
    transfer = {"kv_connector": "ElmasConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
    return ["server", "--model", model, "--kv-transfer-config", json.dumps(transfer), *options]


def test_vllm_finds_the_plugin_and_the_connectors() -> None:
    assert "elmas" in {entry.name for entry in entry_points(group="vllm.general_plugins")}
    register()
    register()  # vLLM may call it more than once
    for name in ("ElmasConnector", "ElmasNoopConnector"):
        assert KVConnectorFactory.get_connector_class_by_name(name).__name__ == name


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"policy": "best"}, "unknown policy 'best'"),
        ({"host_memory": "9000TiB"}, "that are free"),
        ({"host_memory": "64KiB"}, "holds no block of 512 KiB"),
        ({"hostmemory": "1GiB"}, "unknown setting 'hostmemory'"),
    ],
)
def test_settings_that_cannot_work(model_shape: str, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_command_line(command(model_shape, extra, "--block-size=16"))


@pytest.mark.parametrize(
    ("capacity", "options", "message"),
    [
        ("900TiB", [], "lower --disk-capacity"),
        ("1MiB", ["--block-size=16"], "holds no two segments of a block of 512 KiB: raise --disk-capacity"),
        ("1GiB", ["-dp", "2"], "give each engine its own server and directory"),
        ("1GiB", ["--prefix-caching-hash-algo", "xxhash"], "drop --prefix-caching-hash-algo, or choose sha256"),
        ("1GiB", ["--data_parallel_size=2"], "give each engine its own server and directory"),
    ],
)
def test_a_disk_that_cannot_work(
    model_shape: str, tmp_path: Path, capacity: str, options: list[str], message: str
) -> None:
    extra = {"host_memory": "64MiB", "disk": str(tmp_path / "kv"), "disk_capacity": capacity}
    with pytest.raises(UserError, match=message):
        check_command_line(command(model_shape, extra, *options))


def test_a_disk_that_works_is_left_as_it_is(model_shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    extra = {"host_memory": "64MiB", "disk": "kv", "disk_capacity": "1GiB"}
    check_command_line(command(model_shape, extra))
    assert not (tmp_path / "kv").exists()
    prepare_directory(tmp_path / "kv")
    check_command_line(command(model_shape, extra))
    lock = DirectoryLock(tmp_path / "kv")
    with pytest.raises(UserError, match="in use by another server"):
        check_command_line(command(model_shape, extra))
    lock.release()


def test_what_is_not_ours_is_left_to_vllm(model_shape: str) -> None:
    check_command_line(["server", "--model", model_shape])
    check_command_line(["server", "--kv-transfer-config", "{broken"])
    check_command_line(["server", "--kv-transfer-config", '{"kv_connector": "Other", "kv_connector_extra_config": {}}'])
    check_command_line(command(model_shape, {"host_memory": "64MiB"}))
    check_command_line(command("organisation/name", {"host_memory": "64KiB"}))


def test_plain_vllm_ends_with_one_line(model_shape: str) -> None:
    arguments = command(model_shape, {"policy": "best"}, "--load-format", "dummy")[1:]
    process = subprocess.run(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert (
        process.stderr.strip().splitlines()[-1]
        == "elmas: error: unknown policy 'best': choose one of arc, lru, next-use, s3fifo"
    )
