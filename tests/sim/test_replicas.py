"""Replicas share a trace out and are added up; the command line shows what came of it."""

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elmas.cli import app
from elmas.errors import UserError
from elmas.sim.generate import TraceRecipe, generate
from elmas.sim.hardware import hardware, model_shape
from elmas.sim.parts import Part
from elmas.sim.replicas import part_of, simulate_trace
from elmas.sim.run import Setup, simulate
from elmas.sim.traces import Access, read_trace, write_trace

BLOCK_TOKENS = 64
SETUP = Setup(hardware("h200"), model_shape("llama-3-8b"), 2048, block_tokens=BLOCK_TOKENS, host_bytes=16 << 30)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    write_trace(path, generate(TraceRecipe("chats", 12, 1, BLOCK_TOKENS)))
    return path


def test_each_request_goes_to_one_replica_and_a_session_stays_where_it_is(trace: Path) -> None:
    accesses = list(read_trace(trace, BLOCK_TOKENS))
    parts = [list(read_trace(trace, BLOCK_TOKENS, Part(index, 3))) for index in range(3)]
    assert parts == [list(part_of(accesses, Part(index, 3))) for index in range(3)]
    assert sorted((access for part in parts for access in part), key=accesses.index) == accesses
    sessions = [{access.session_id for access in part} for part in parts]
    assert not sessions[0] & sessions[1]
    assert not (sessions[0] | sessions[1]) & sessions[2]


def test_requests_without_a_session_are_dealt_out_in_turn() -> None:
    accesses = [Access(float(i), 10, 1, ()) for i in range(6)]
    assert [access.arrival_s for access in part_of(accesses, Part(1, 2))] == [1.0, 3.0, 5.0]


def test_replicas_are_added_up_and_the_bounds_are_those_of_the_trace(trace: Path) -> None:
    open_trace = partial(read_trace, trace, BLOCK_TOKENS)
    outcome, bounds = simulate_trace(SETUP, open_trace, n_replicas=2)
    parts = [simulate(SETUP, open_trace(Part(index, 2))) for index in range(2)]
    assert outcome.hit_tokens == sum(part.hit_tokens for part in parts)
    assert sorted(outcome.records.ttft_s) == sorted(s for part in parts for s in part.records.ttft_s)
    assert outcome.records.last_end_s == max(part.records.last_end_s for part in parts)
    assert bounds is not None
    assert outcome.hit_tokens <= bounds.optimal_hit_tokens <= bounds.infinite_hit_tokens


def run_json(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["simulate", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    values: dict[str, object] = json.loads(result.output)
    return values


def test_the_command_line_simulates_a_trace_with_all_tiers(trace: Path) -> None:
    result = run_json(
        str(trace), "--block-size", "64", "--host-memory", "1GiB", "--disk", "8GiB", "--disk-bandwidth", "2GiB"
    )
    hits = result["hit_tokens"]
    assert isinstance(hits, dict)
    assert hits["total"] == hits["device"] + hits["host"] + hits["disk"] > 0
    assert hits["total"] + result["computed_tokens"] == result["prompt_tokens"]
    assert {"optimal_hit_tokens", "infinite_hit_tokens", "jct_s", "ttft_s", "bytes_moved"} <= result.keys()


def test_the_command_line_simulates_rounds_by_name() -> None:
    result = run_json(
        "small", "--hardware", "cpu-2-cores", "--model-shape", "tiny", "--block-size", "32", "--no-bounds"
    )
    rounds = result["seconds_per_round"]
    assert isinstance(rounds, list)
    assert len(rounds) == 5
    assert sum(rounds) == pytest.approx(result["jct_s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "--scheduler", "random"], "--scheduler is 'random'"),
        (["A", "--hardware", "abacus"], "unknown hardware 'abacus'"),
        (["A", "--disk", "1TiB"], "add --host-memory"),
        (["A", "--host-memory", "1GiB", "--policy", "mru"], "unknown policy 'mru'"),
        (["A", "--device-blocks", "50"], "raise --device-blocks"),
        (["A", "--replicas", "2"], "drop --replicas"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_what_to_change(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
