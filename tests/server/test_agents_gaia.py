"""GAIA against a real server: whatever a random model says, every question comes to an answer."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli import app
from elmas.serve.process import ServerProcess
from elmas.sim.traces import read_trace

pytestmark = pytest.mark.server


def test_agents_of_a_random_model_answer_every_question(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/v1")
    arguments = ["agents", "gaia", "--level", "1", "--max-steps", "2", "--dump", "gaia.json", "--trace", "trace.jsonl"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Python sandbox: " in result.output
    dump = json.loads(Path("gaia.json").read_text())
    assert dump["scores"] == {"1": {"right": 0, "of": 6}}
    steps = [step for each in dump["questions"] for one in each["attempts"] for step in one["steps"]]
    assert all(each["answer"] is not None for each in dump["questions"])
    # The instructions are the same in all calls, and an agent's history in each of its own.
    assert sum(step["cached_tokens"] for step in steps) > 0
    accesses = list(read_trace(Path("trace.jsonl"), 16))
    assert sum(access.input_tokens for access in accesses) == sum(step["prompt_tokens"] for step in steps)
