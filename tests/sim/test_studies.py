"""Time over the number of agents, and what is drawn of results."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli import app
from elmas.errors import UserError
from elmas.sim.plots import plot_retention


def sweep(tmp_path: Path, agents: str) -> list[dict]:
    result = CliRunner().invoke(
        app, ["simulate", "load", "--agents", agents, "--host-memory", "2GiB", "--result-dir", str(tmp_path)]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads((tmp_path / "load.json").read_text())["points"]


def test_more_host_memory_never_takes_longer_and_the_result_can_be_drawn(tmp_path: Path) -> None:
    points = sweep(tmp_path, "10,30")
    for n_agents in (10, 30):
        jct_s = {point["arm"]: point["jct_s"] for point in points if point["n_agents"] == n_agents}
        assert jct_s["endless host memory"] <= 1.01 * min(jct_s.values())
        assert jct_s["prefix caching only"] >= jct_s["next-use, ordered"]
    out = tmp_path / "plots" / "load.svg"
    result = CliRunner().invoke(app, ["simulate", "plot", str(tmp_path / "load.json"), "--out", str(out)])
    assert result.exit_code == 0
    assert out.read_text().startswith("<?xml")


@pytest.mark.parametrize("agents", ["", "ten", "0", "4,-1"])
def test_agents_that_are_no_numbers_are_refused(tmp_path: Path, agents: str) -> None:
    with pytest.raises(UserError, match="--agents"):
        sweep(tmp_path, agents)


def test_each_family_gets_a_panel(tmp_path: Path) -> None:
    cells = [
        {"family": family, "capacity": capacity, "hit_percent": {"lru": 10 * capacity, "optimal": 50.0}}
        for family in ("cyclic", "chats")
        for capacity in (0.25, 0.5)
    ]
    plot_retention({"cells": cells}, tmp_path / "retention.svg")
    drawn = (tmp_path / "retention.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count("axes_") >= 2


def test_a_file_with_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    result = CliRunner().invoke(app, ["simulate", "plot", str(tmp_path / "x.json"), "--out", str(tmp_path / "x.svg")])
    assert isinstance(result.exception, UserError)
