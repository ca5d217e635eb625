"""`elmas agents guessing-game`, `mmlu` and `crosswords` by their commands, against a stub server in a thread."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from elmas.cli import app
from elmas.errors import UserError
from tests.bench.stub_server import StubServer, running_stub


def legal(body: dict[str, Any]) -> str:
    """An answer that fits the schema of any game."""
    form = body.get("response_format")
    if form is None:
        return "They will say 30, so I say 20."
    fields = form["json_schema"]["schema"]["properties"]
    if "guess" in fields:
        return json.dumps({"reason": "so", "guess": 20})
    if "answer" in fields:
        return json.dumps({"answer": "B"})
    if "verdict" in fields:
        return json.dumps({"verdict": "maybe"})
    return json.dumps({"proposals": [{"place": "h1", "word": "WORDS", "confidence": "low"}]})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubServer]:
    with running_stub() as server:
        monkeypatch.chdir(tmp_path)  # no .env here
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.behaviour.answer = legal
        yield server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["agents", *arguments, "--model", "m"])


@pytest.mark.parametrize("arguments", [(), ("--cot",)])
def test_a_game_is_played_dumped_plotted_drawn_and_traced(stub: StubServer, arguments: tuple[str, ...]) -> None:
    files = ["--dump", "d.json", "--plot", "p.svg", "--graph", "g.svg", "--trace", "t.jsonl"]
    result = run("guessing-game", *arguments, "--num-participants", "4", "--num-steps", "2", *files)
    assert result.exit_code == 0, result.output
    assert "round 2 of 2: done" in result.output
    dump = json.loads(Path("d.json").read_text())
    assert [each["guesses"] for each in dump["rounds"]] == [[20] * 4] * 2
    n_calls = 16 if arguments else 8
    assert len(stub.bodies) == n_calls
    assert len(Path("t.jsonl").read_text().splitlines()) == n_calls
    assert Path("p.svg").exists()
    assert "coordinator, round 1" in Path("g.svg").read_text()


def test_a_swarm_shows_its_accuracy(stub: StubServer) -> None:
    result = run("mmlu", "--num-questions", "6", "--num-truthful-agents", "1", "--num-adversarial-agents", "1")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    assert len(stub.bodies) == 12


def test_crosswords_show_their_scores(stub: StubServer) -> None:
    result = run("crosswords", "--num-puzzles", "2", "--num-steps", "2", "--graph", "g.svg")
    assert result.exit_code == 0, result.output
    assert "right: letters" in result.output
    assert "candidate 1" in Path("g.svg").read_text()


def test_answers_that_never_came_end_the_program_with_1(stub: StubServer) -> None:
    stub.behaviour.status = 404
    result = run("guessing-game", "--num-participants", "2", "--num-steps", "1")
    assert result.exit_code == 1
    assert "2 answers never came, the last one: HTTP 404" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["guessing-game", "--num-participants", "0"], "at least one participant"),
        (["guessing-game", "--ratio", "two"], "--ratio"),
        (["guessing-game", "--ratio", "1/0"], "--ratio"),
        (["mmlu", "--decision", "dice"], "majority"),
        (["mmlu", "--data", "none.csv"], "cannot read"),
        (["crosswords", "--data", "none.json"], "cannot read"),
        (["crosswords", "--num-steps", "0"], "at least one step"),
        (["guessing-game", "--base-url", "http://127.0.0.1:9"], "nobody listens"),
    ],
)
def test_mistakes_are_one_line(stub: StubServer, arguments: list[str], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)
    assert "\n" not in str(error)
