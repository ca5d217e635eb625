"""The slice benchmark without a server: its plan, its order of servers, its checks and its output."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stub_process import StubArms
from stub_server import StubServer

from elmas.bench.arms import write_json
from elmas.bench.comparison import ComparisonPlan, ComparisonResult, run_comparison
from elmas.bench.progress import RunProgress
from elmas.bench.slice import plan_slice
from elmas.bench.tables import comparison_table, comparison_title
from elmas.errors import UserError

MODEL = Path("model")


def plan_with(**changes: Any) -> ComparisonPlan:
    """Return a plan with the defaults of the command line, but for `changes`."""
    options: dict[str, Any] = {
        "arms": ("noop", "mt-apc"),
        "n_agents": None,
        "n_rounds": 5,
        "n_device_blocks": 512,
        "host_memory": "2GiB",
        "n_trials": 2,
        "scale": 1.0,
        "seed": 0,
    }
    return plan_slice(MODEL, **{**options, **changes})


def run(tmp_path: Path, n_trials: int = 2) -> ComparisonResult:
    plan = plan_with(n_agents=3, n_rounds=2, n_trials=n_trials)
    with RunProgress(Console(quiet=True)) as progress:
        return run_comparison(plan, tmp_path, progress)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_working_set_is_three_device_caches(scale: float) -> None:
    plan = plan_with(scale=scale)
    reuse, without = plan.workloads
    assert reuse.working_set_tokens / plan.shape.device_tokens == pytest.approx(3, rel=0.05)
    assert (reuse.reuse, without.reuse) == (True, False)
    assert plan.shape.max_model_len >= max(workload.longest_request_tokens for workload in plan.workloads)


def test_what_runs_at_once_fits_the_device_cache() -> None:
    plan = plan_with()
    assert plan.shape.max_running * plan.workloads[1].longest_request_tokens <= plan.shape.device_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_device_blocks": 20}, "--num-gpu-blocks"),
        ({"n_trials": 0}, "--trials"),
        ({"scale": 0.0}, "--scale"),
        ({"arms": ["noop", "noop"]}, "--arms"),
        ({"arms": []}, "--arms"),
    ],
)
def test_sizes_that_cannot_work_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan_with(**options)
    assert "\n" not in str(caught.value)


def test_every_trial_gets_fresh_servers_in_alternating_order(arms: StubArms, tmp_path: Path) -> None:
    run(tmp_path)
    assert arms.started == ["noop", "mt-apc", "mt-apc", "noop"]
    assert arms.process.n_resets == 8  # before every workload


def test_all_arms_and_trials_get_the_same_work_and_are_compared(arms: StubArms, tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.violations == []
    for workload in ("reuse", "no-reuse"):
        digests = {run.digest for run in result.runs if run.workload == workload}
        assert len(digests) == 1
        assert result.differences(workload, "mt-apc") == ["", ""]
        assert len(result.ratios(workload, "mt-apc")) == 2
        assert result.ratios(workload, "noop") == [1.0, 1.0]


def test_reuse_where_there_is_none_is_a_violation(arms: StubArms, tmp_path: Path) -> None:
    arms.process.extra_hits = 1
    violations = "\n".join(run(tmp_path, n_trials=1).violations)
    assert "no two prompts have a common beginning" in violations
    assert "the server counted" in violations


def test_caches_that_were_not_empty_are_a_violation(stub: StubServer, arms: StubArms, tmp_path: Path) -> None:
    stub.behaviour.cached_tokens = 600
    assert any("the caches were not empty" in text for text in run(tmp_path, n_trials=1).violations)


def test_wrong_data_below_the_device_is_a_violation(stub: StubServer, arms: StubArms, tmp_path: Path) -> None:
    stub.behaviour.wrong_after_reset = True
    violations = run(tmp_path, n_trials=1).violations
    assert any("last round with an empty device cache: answered otherwise: 3 answers" in text for text in violations)


def test_failed_requests_are_a_violation(stub: StubServer, arms: StubArms, tmp_path: Path) -> None:
    stub.behaviour.fail_first = 5  # three of them in the warm-up
    result = run(tmp_path, n_trials=1)
    assert any("2 requests failed, the first with: HTTP 503" in text for text in result.violations)
    assert any("answers differ" in text for text in result.differences("reuse", "mt-apc"))


def test_results_are_complete_json_and_tables(arms: StubArms, tmp_path: Path) -> None:
    result = run(tmp_path)
    write_json(tmp_path / "new" / "slice.json", result.to_json())
    saved = json.loads((tmp_path / "new" / "slice.json").read_text())
    assert {"arms", "machine", "versions", "server", "commands", "workloads", "runs", "violations"} <= saved.keys()
    assert saved["commands"] == {"noop": "serve noop", "mt-apc": "serve mt-apc"}
    assert saved["workloads"][0]["seed"] == 0
    assert len(saved["runs"]) == 12  # the last round with reuse twice
    assert len(saved["runs"][0]["output_token_ids"][0][0]) == 16
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "slice.json"]

    console = Console(width=120, file=io.StringIO())
    for workload in result.plan.workloads:
        console.print(comparison_title(result, workload.name))
        console.print(comparison_table(result, workload.name))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("JCT, s", "TTFT P99", "prompt tokens host, %", "same", "3 agents, 2 rounds"):
        assert words in text
