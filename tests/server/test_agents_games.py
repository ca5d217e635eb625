"""The games and swarms against a real server with the tiny model: its answers are random and legal all the same."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli import app
from elmas.serve.process import ServerProcess
from elmas.sim.traces import read_trace

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def endpoint(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServerProcess:
    """The server, which the environment names, and a directory without `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/v1")
    return server


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["agents", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def n_hints(server: ServerProcess) -> float:
    return sum(server.metrics().get("elmas:hints_total", {}).values())


def test_a_random_model_plays_a_legal_guessing_game(endpoint: ServerProcess) -> None:
    hints_before = n_hints(endpoint)
    files = ("--dump", "game.json", "--trace", "trace.jsonl", "--graph", "graph.svg", "--plot", "plot.png")
    run("guessing-game", "--num-participants", "8", "--num-steps", "3", *files)
    dump = json.loads(Path("game.json").read_text())
    assert len(dump["rounds"]) == 3
    for each in dump["rounds"]:
        assert len(each["guesses"]) == 8
        assert all(0 <= guess <= 100 for guess in each["guesses"])
        assert each["winners"]
    # From the second round on, all but the last message is found somewhere.
    later = [call for each in dump["rounds"][1:] for calls in each["calls"] for call in calls]
    assert sum(call["cached_tokens"] for call in later) > 0.7 * sum(call["prompt_tokens"] for call in later)
    assert n_hints(endpoint) == hints_before + 24
    accesses = list(read_trace(Path("trace.jsonl"), 16))
    assert sum(access.input_tokens for access in accesses) == sum(
        call["prompt_tokens"] for each in dump["rounds"] for calls in each["calls"] for call in calls
    )
    assert Path("graph.svg").stat().st_size > 1000
    assert Path("plot.png").stat().st_size > 1000


def test_what_a_random_model_thinks_aloud_is_read_as_a_legal_number() -> None:
    run(
        "guessing-game", "--cot", "--num-participants", "4", "--num-steps", "1", "--max-value", "30", "--dump", "g.json"
    )
    dump = json.loads(Path("g.json").read_text())
    assert all(0 <= guess <= 30 for each in dump["rounds"] for guess in each["guesses"])
    assert all(len(calls) == 2 for each in dump["rounds"] for calls in each["calls"])


def test_a_random_model_votes_on_every_question() -> None:
    output = run("mmlu", "--num-questions", "10", "--dump", "mmlu.json")
    assert "accuracy" in output
    dump = json.loads(Path("mmlu.json").read_text())
    assert len(dump["questions"]) == 10
    for question in dump["questions"]:
        assert set(question["votes"].values()) <= set("ABCD")
        assert question["decision"] in "ABCD"


def test_a_random_model_proposes_words_and_judges_them() -> None:
    output = run("crosswords", "--num-puzzles", "2", "--num-steps", "3", "--dump", "crosswords.json")
    assert "right: letters" in output
    dump = json.loads(Path("crosswords.json").read_text())
    assert len(dump["puzzles"]) == 2
    answers = [json.loads(call["text"]) for puzzle in dump["puzzles"] for call in puzzle["calls"]]
    assert all(puzzle["n_steps"] >= 1 for puzzle in dump["puzzles"])
    assert any("proposals" in answer for answer in answers)
    assert any("verdict" in answer for answer in answers)
