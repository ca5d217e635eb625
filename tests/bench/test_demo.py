"""The demo without a server: both games, the table, the plot and what is said about them."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from stub_process import StubArms
from stub_server import StubServer

import elmas.bench.demo as demo_module
from elmas.agents.endpoint import RequestRecord
from elmas.agents.guessing.game import GameResult, GameSettings, Round, Turn
from elmas.bench.counters import PromptTokens
from elmas.bench.demo import DemoResult, DemoRun, demo_shape, run_demo
from elmas.bench.demo_report import demo_table, write_plot
from elmas.bench.machine import Usage
from elmas.bench.progress import RunProgress
from elmas.errors import UserError


def fabricated_run(arm: str, round_s: Sequence[float], tokens: PromptTokens) -> DemoRun:
    rounds, start_s = [], 0.0
    for length_s in round_s:
        ended_s = start_s + length_s
        record = RequestRecord(start_s, ended_s, (start_s + length_s / 2, ended_s), 100, 2, text="My guess: 3")
        turn = Turn(3, 1.0, True, (record,))
        rounds.append(Round((turn, turn), 3.0, 2.0, 3))
        start_s = ended_s
    game = GameResult(GameSettings(2, len(round_s)), tuple(rounds), ())
    return DemoRun(arm, 30.0, game, tokens, Usage(start_s, 1.5 * start_s, 0.1))


@pytest.fixture
def result() -> DemoResult:
    return DemoResult(
        demo_shape(Path("model"), 512, "2GiB"),
        (
            fabricated_run("noop", (4.0, 6.0), PromptTokens(80, 20, 0, 0)),
            fabricated_run("mt-apc", (3.0, 1.0), PromptTokens(20, 20, 60, 0)),
        ),
        {},
    )


def table_text(result: DemoResult) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(demo_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_ratio_is_that_of_the_job_completion_times(result: DemoResult) -> None:
    assert result.ratio == pytest.approx(2.5)
    assert [run.seconds_per_round for run in result.runs] == [[4.0, 6.0], [3.0, 1.0]]
    assert result.runs[0].ttft_per_round_s == pytest.approx([2.0, 3.0])
    assert result.verdict == "all 4 guesses are the same on both servers"


def test_a_slowdown_is_shown_as_one(result: DemoResult) -> None:
    slower = replace(result, runs=result.runs[::-1])
    assert slower.ratio == pytest.approx(0.4)
    assert "0.40" in table_text(slower)


def test_the_table_has_every_figure(result: DemoResult) -> None:
    text = table_text(result)
    for words in (
        "JCT, s",
        "TTFT mean",
        "TTFT median",
        "TTFT P99",
        "output tokens/s",
        "2.50",
        "60.0",
        "80.0",
        "MT-APC",
    ):
        assert words in text


def test_the_plot_is_a_png(result: DemoResult, tmp_path: Path) -> None:
    write_plot(result, tmp_path / "new" / "demo.png")
    data = (tmp_path / "new" / "demo.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_both_servers_play_the_same_game(
    stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = StubArms(stub)
    monkeypatch.setattr(demo_module, "arm_command", arms.arm_command)
    monkeypatch.setattr(demo_module, "running_server", arms.running_server)
    with RunProgress(Console(force_terminal=False)) as progress:
        result = run_demo(demo_shape(Path("model"), 512, "2GiB"), GameSettings(5, 2), tmp_path, progress)
    assert arms.started == ["noop", "mt-apc"]
    assert result.verdict == "all 10 guesses are the same on both servers"
    assert json.loads(json.dumps(result.to_json()))["runs"][0]["arm"] == "noop"
    # The warm-up's 4 calls, then 5 participants in 2 rounds; the form of the answers is enforced.
    assert len(stub.bodies) == 2 * (4 + 10)
    assert "guess" in stub.bodies[-1]["response_format"]["json_schema"]["schema"]["properties"]
    # Without a terminal every stage is a plain line.
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mt-apc: round 2 of 2: done in ") for line in lines)


def test_a_game_in_which_nobody_answered_is_an_error(
    stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = StubArms(stub)
    monkeypatch.setattr(demo_module, "arm_command", arms.arm_command)
    monkeypatch.setattr(demo_module, "running_server", arms.running_server)
    stub.behaviour.status = 400
    with (
        RunProgress(Console(quiet=True)) as progress,
        pytest.raises(UserError, match=r"no call was answered.*HTTP 400"),
    ):
        run_demo(demo_shape(Path("model"), 512, "2GiB"), GameSettings(2, 1), tmp_path, progress)


def test_a_device_cache_below_one_request_is_refused() -> None:
    with pytest.raises(UserError, match="--num-gpu-blocks 129"):
        demo_shape(Path("model"), 100, "2GiB")
