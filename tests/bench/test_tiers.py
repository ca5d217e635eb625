"""The benchmark of the tiers without a server: its plan, restarts, and a directory of its own for every server."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stub_process import StubArms

from elmas.bench.arms import ServerShape, arm_command
from elmas.bench.comparison import ComparisonPlan, reloaded, restarted, run_comparison
from elmas.bench.progress import RunProgress
from elmas.bench.tables import comparison_title
from elmas.bench.tiers import WORKLOADS, TierSizes, plan_tiers
from elmas.errors import UserError


def plan_with(**changes: Any) -> ComparisonPlan:
    options: dict[str, Any] = {"arms": ("noop", "mt-apc"), "sizes": TierSizes(512, "64MiB"), "n_agents": 3}
    return plan_tiers(Path("model"), ["small"], **{**options, "n_rounds": 2, **changes})


def test_the_named_workloads_have_the_sizes_they_are_named_for() -> None:
    bytes_per_token = 128 << 10
    sizes = {name: WORKLOADS[name].working_set_tokens * bytes_per_token / 1e9 for name in "ABC"}
    assert sizes == {"A": pytest.approx(35, abs=1), "B": pytest.approx(70, abs=1), "C": pytest.approx(85, abs=1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": 0}, "--trials"),
        ({"n_agents": -1}, "--agents"),
        ({"arms": ["noop", "noop"]}, "--arms"),
        ({"sizes": TierSizes(512, "64MiB", Path("disk"))}, "--disk-capacity"),
        ({"sizes": TierSizes(16, "64MiB")}, "--num-gpu-blocks"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan_with(**changes)
    assert "\n" not in str(caught.value)


def test_an_unknown_workload_is_refused_with_the_known_names() -> None:
    with pytest.raises(UserError, match="small, A, B, C"):
        plan_tiers(Path("model"), ["D"], arms=["noop"], sizes=TierSizes(512, "64MiB"))


def test_every_server_has_an_empty_disk_directory_of_its_own_that_is_removed(arms: StubArms, tmp_path: Path) -> None:
    plan = plan_with(sizes=TierSizes(512, "64MiB", tmp_path / "disk", "1GiB"), restarts=True)
    so_far: list[int] = []
    with RunProgress(Console(quiet=True)) as progress:
        result = run_comparison(plan, tmp_path, progress, lambda part: so_far.append(len(part.to_json()["runs"])))
    assert so_far == [1, 2, 3, 4, 5, 6]
    assert arms.started == ["noop", "noop", "mt-apc", "mt-apc"]
    used = set(arms.disks[2:])  # the first two are tried before anything starts
    assert len(used) == 2
    assert all(disk is not None and disk.parent == tmp_path / "disk" for disk in used)
    assert not any(disk.exists() for disk in used if disk is not None)
    assert result.workload_names == ["small", reloaded("small"), restarted("small")]
    assert result.violations == []
    assert len(result.of(restarted("small"), "mt-apc")[0].outputs) == 1
    assert len(result.ratios(restarted("small"), "mt-apc")) == 1
    assert comparison_title(result, restarted("small")) == "small, last round after a restart"
    saved = json.loads(json.dumps(result.to_json()))
    assert saved["server"]["disk_capacity"] == "1GiB"
    assert saved["runs"][0]["cache_events"] == {}


def extra_config(arm: str, shape: ServerShape) -> dict[str, Any]:
    argv = arm_command(arm, shape).argv
    config = json.loads(argv[argv.index("--kv-transfer-config") + 1])
    return dict(config.get("kv_connector_extra_config", {}))


@pytest.fixture
def shape(tmp_path: Path) -> ServerShape:
    from elmas.bench.arms import ensure_tiny_model

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
