"""`elmas simulate TRACE` and its commands, through the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli import app
from elmas.errors import UserError


def run(*arguments: str | Path) -> str:
    """Return what `elmas simulate` prints; raises what it raises."""
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of thirty agents in rounds."""
    path = tmp_path / "trace.jsonl"
    run("generate", "cyclic", "--sessions", "30", "--block-size", "64", "--out", path)
    return path


def test_json_is_one_object_with_hits_and_bounds(trace: Path) -> None:
    options = ("--cache-only", "--host-blocks", "0.5w", "--block-size", "64")
    result = json.loads(run(trace, *options, "--policy", "lru", "--json"))
    assert result["policy"] == "lru"
    assert result["n_requests"] == 360
    assert result["n_sessions"] == 30
    assert result["hit_tokens"]["total"] == result["hit_tokens"]["host"]
    assert 0 < result["hit_tokens"]["total"] <= result["optimal_hit_tokens"]
    assert result["optimal_hit_tokens"] < result["infinite_hit_tokens"] < result["prompt_tokens"]
    assert result["host_blocks"] == result["working_set_blocks"] // 2
    assert result["evicted_blocks"] > 0
    assert result["seconds"] >= 0


def test_the_trace_may_come_after_the_options_or_be_named_as_a_command(trace: Path) -> None:
    options = ("--cache-only", "--host-blocks", "100", "--block-size", "64", "--json")
    first, second, third = (
        json.loads(run(*arguments)) | {"seconds": 0}
        for arguments in ((trace, *options), (*options, trace), ("trace", trace, *options))
    )
    assert first == second == third


def test_without_json_a_table_shows_shares(trace: Path) -> None:
    output = run(trace, "--cache-only", "--host-blocks", "100", "--block-size", "64")
    assert "infinite hit tokens" in output
    assert "%" in output


def test_the_names_of_sessions_can_be_left_out(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "unnamed.jsonl"
    run("generate", "cyclic", "--sessions", "30", "--block-size", "64", "--no-session-ids", "--out", path)
    assert "session_id" not in path.read_text()
    assert "session_id" in trace.read_text()


def test_another_block_size_than_the_traces_is_one_line(trace: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: .*--block-size"):
        run(trace, "--cache-only")


def test_compare_writes_all_figures_and_ends_with_1_when_a_demand_is_not_met(tmp_path: Path) -> None:
    arguments = ["compare", "--families", "swarm", "--sessions", "20", "--seeds", "1", "--workers", "1"]
    result = CliRunner().invoke(app, ["simulate", *arguments, "--capacities", "0.5", "--result-dir", str(tmp_path)])
    written = json.loads((tmp_path / "retention.json").read_text())
    assert [cell["family"] for cell in written["cells"]] == ["swarm"]
    assert written["plan"]["capacities"] == [0.5]
    assert result.exit_code == (0 if all(demand["holds"] for demand in written["demands"]) else 1)
    assert "demands are met" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("generate", "robots", "--out", "x"), "there is no family 'robots'"),
        (("compare", "--seeds", "a"), "--seeds is 'a': give numbers"),
        (("nothing.jsonl", "--cache-only"), "cannot read nothing.jsonl"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        run(*arguments)
