"""`elmas bench client` and `elmas bench workloads`: what they measure and print, at a size for a busy machine."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.bench.client_benchmark import ClientLoad
from elmas.cli import app
from elmas.errors import UserError

SMALL = ["bench", "client", "--streams", "40", "--tokens", "5", "--gap-s", "0.05", "--ramp-s", "0.1"]


@pytest.mark.parametrize("running", ["0", "8"])
def test_all_streams_are_measured_to_their_end(tmp_path: Path, running: str) -> None:
    path = tmp_path / "client.json"
    done = CliRunner().invoke(app, [*SMALL, "--running", running, "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "40 streams at once" in done.output or int(running)
    result = json.loads(path.read_text())
    assert result["n_failed"] == 0
    assert result["load"]["n_streams"] == 40
    assert round(result["chunks_per_s"] * result["wall_s"]) == 200
    assert 0 < result["chunk_delay"]["p50_s"] <= result["chunk_delay"]["p99_s"] <= result["chunk_delay"]["max_s"]
    assert 0 <= result["lag"]["p50_s"] <= result["lag"]["p99_s"] <= result["lag"]["max_s"]
    assert result["machine"]["cores"] >= 1


def test_loads_that_are_none_are_one_clear_line(tmp_path: Path) -> None:
    for changes in ({"n_streams": 0}, {"n_tokens": 0}, {"gap_s": 0.0}, {"ramp_s": -1.0}, {"n_running": -1}):
        with pytest.raises(UserError, match="must be"):
            ClientLoad(**changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="raise ulimit -n"):
        ClientLoad(n_streams=1 << 40)


def test_workloads_are_listed_with_their_sizes() -> None:
    done = CliRunner().invoke(app, ["bench", "workloads", "--scale", "0.05"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith(" guessing_game ")]
    assert line.split()[1] == "40"
    assert "app_town" in done.output
    assert isinstance(CliRunner().invoke(app, ["bench", "workloads", "--scale", "0"]).exception, UserError)
