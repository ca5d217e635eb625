"""The command of an arm: the settings of the cache that may follow its name."""

import json
from pathlib import Path
from typing import Any

import pytest

from elmas.bench.arms import ServerShape, arm_command, ensure_tiny_model
from elmas.errors import UserError


def extra_config(arm: str, shape: ServerShape) -> dict[str, Any]:
    argv = arm_command(arm, shape).argv
    config = json.loads(argv[argv.index("--kv-transfer-config") + 1])
    return dict(config.get("kv_connector_extra_config", {}))


@pytest.fixture
def shape(tmp_path: Path) -> ServerShape:
    ensure_tiny_model(tmp_path / "tiny")
    disk = tmp_path / "disk"
    return ServerShape(tmp_path / "tiny", 128, 2048, "64MiB", max_running=4, disk=disk, disk_capacity="64MiB")


def test_an_arm_may_change_settings_of_the_cache(shape: ServerShape) -> None:
    plain, changed = extra_config("mt-apc", shape), extra_config("mt-apc:cost_gate=false:disk_throttle=1MiB", shape)
    assert plain["disk"] == str(shape.disk)
    assert changed == {**plain, "cost_gate": False, "disk_throttle": 1 << 20}
    assert extra_config("mt-apc:reorder=false", shape)["reorder"] is False
    assert "disk" not in extra_config("mt-apc-no-disk", shape)


@pytest.mark.parametrize("arm", ["mt-apc:cost_gate", "mt-apc:magic=1", "mt-apc:policy=magic"])
def test_settings_that_do_not_exist_are_refused(shape: ServerShape, arm: str) -> None:
    with pytest.raises(UserError):
        arm_command(arm, shape)
