"""Client programs, the town and the examples against a real server with the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from elmas.cli import app
from elmas.errors import UserError
from elmas.serve.process import ServerProcess

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The server's URL, which the environment names too, in a directory without `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/v1")
    return server.base_url


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["agents", *arguments], input=stdin)


def n_hints(server: ServerProcess) -> float:
    return sum(server.metrics().get("elmas:hints_total", {}).values())


def cells(output: str) -> list[list[str]]:
    """The rows of a table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]


def test_a_chat_comes_back_to_what_it_said_before(server: ServerProcess, url: str) -> None:
    hints_before = n_hints(server)
    system = "You look after a lighthouse and answer whoever writes to you, at length and in a friendly voice. " * 3
    lines = "Who are you?\nAnd what do you see?\n/stats\n"
    result = run("chat", "--system", system, "--max-tokens", "40", "--temperature", "0", stdin=lines)
    assert result.exit_code == 0, result.output
    (_, n_first, _, _, _, speed, _), (_, n_second, n_cached, _, ttft, _, _) = cells(result.stdout)
    assert int(n_second) > int(n_first) + 40
    # All complete blocks of the first prompt and its answer.
    assert int(n_cached) >= (int(n_first) + 39) // 32 * 32
    assert ttft.endswith(" ms")
    assert float(speed) > 0
    assert n_hints(server) == hints_before + 1, "the end of the conversation is told"


def test_a_completion_is_echoed_and_ends_before_a_stop(url: str) -> None:
    prompt = "Once upon a time there was"
    plain = run("complete", prompt, "--max-tokens", "8", "--temperature", "0")
    assert plain.exit_code == 0, plain.output
    text = plain.stdout.removesuffix("\n")
    stop = text.split()[3]
    echoed = run("complete", prompt, "--max-tokens", "8", "--temperature", "0", "--echo", "--stop", stop)
    assert echoed.stdout == f"{prompt}{text[: text.index(stop)]}\n"


def test_profiling_shows_what_is_cached_and_needs_a_profiler(url: str) -> None:
    result = run("profile", "--no-profiler", "--size", "2")
    assert result.exit_code == 0, result.output
    cached = {row[0]: int(row[3]) for row in cells(result.stdout)}
    assert cached["unrelated"] == 0
    assert min(cached["repeated"], cached["shared beginning"], cached["returning"]) >= 256
    refused = run("profile")
    assert isinstance(refused.exception, UserError)
    assert "--profiling" in str(refused.exception)


def test_the_town_lives_and_every_answer_is_legal(server: ServerProcess, url: str) -> None:
    hints_before = n_hints(server)
    result = run("town", "--dump", "town.json", "--trace", "town.jsonl")
    assert result.exit_code == 0, result.output
    town = json.loads(Path("town.json").read_text())
    assert len(town["ticks"]) == 8
    assert len(town["people"]) == 5
    decisions = town["decisions"]
    assert {decision["kind"] for decision in decisions} == {"sector", "object", "pronunciatio", "triple", "poignancy"}
    assert all(decision["values"] is not None for decision in decisions)
    n_cached = sum(decision["cached_tokens"] for decision in decisions)
    assert n_cached > sum(decision["prompt_tokens"] for decision in decisions) / 3
    calls = [json.loads(line) for line in Path("town.jsonl").read_text().splitlines()]
    assert len(calls) == len(decisions)
    assert {call["session_id"].split("/")[2] for call in calls} == {decision["kind"] for decision in decisions}
    n_told = sum(decision["kind"] != "poignancy" for decision in decisions)
    assert n_hints(server) == hints_before + n_told


@pytest.mark.parametrize(
    ("script", "python", "n_told"),
    [
        ("openai_client.py", Path(sys.executable), 3),
        ("openai_agents_sdk.py", ROOT / ".venv-examples" / "bin" / "python", 6),
    ],
)
def test_examples_run_and_their_hints_arrive(
    server: ServerProcess, url: str, script: str, python: Path, n_told: int
) -> None:
    if not python.exists():
        pytest.skip("make examples installs what it needs")
    hints_before = n_hints(server)
    process = subprocess.run(
        [python, ROOT / "examples" / script], capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert process.returncode == 0, process.stderr
    assert n_hints(server) == hints_before + n_told
    if script == "openai_client.py":
        cached = [int(line.split(", ")[1].split()[0]) for line in process.stdout.splitlines() if line.endswith("]")]
        assert 0 < cached[-2] < cached[-1]
