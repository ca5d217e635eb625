"""The runner of the suite against a stub: order, resets, crashes, resuming, and what every result says."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stub_suite import BLOCK, CachingStub, StubServers, caching_stub

import elmas.bench.suite.runner as runner_module
from elmas.bench.progress import RunProgress
from elmas.bench.rounds import RoundsWorkload
from elmas.bench.suite.plan import ENDPOINT, ServerSettings, SuitePlan
from elmas.bench.suite.runner import SuiteRun
from elmas.bench.suite.servers import ExternalServer
from elmas.bench.suite.trial import Trial, read_trials
from elmas.errors import UserError

SMALL = RoundsWorkload("small", 3, 2, system_tokens=64, persona_tokens=32, observation_tokens=20, answer_tokens=4)
ALONE = replace(SMALL, name="no_reuse", reuse=False, seed=1)
SETTINGS = ServerSettings(Path("model"), n_device_blocks=64, block_size=BLOCK, host_memory="64MiB")


@pytest.fixture
def stub() -> Iterator[CachingStub]:
    with caching_stub() as stub:
        yield stub


@pytest.fixture
def servers(stub: CachingStub, monkeypatch: pytest.MonkeyPatch) -> StubServers:
    servers = StubServers(stub)
    monkeypatch.setattr(runner_module, "arm_command", servers.arm_command)
    monkeypatch.setattr(runner_module, "running_server", servers.running_server)
    return servers


def plan_with(**changes: Any) -> SuitePlan:
    plan = SuitePlan((SMALL, ALONE), ("noop", "mt-apc"), 1, SETTINGS)
    return replace(plan, **changes)


def run(plan: SuitePlan, directory: Path, **options: Any) -> list[Trial]:
    with RunProgress(Console(quiet=True)) as progress:
        SuiteRun(plan, directory, progress, **options).run()
    return read_trials(directory)


def by_name(trials: list[Trial]) -> dict[tuple[str, str], Trial]:
    return {(trial.workload.name, trial.server.name): trial for trial in trials}


def test_a_result_says_what_was_measured_and_agrees_with_the_server(servers: StubServers, tmp_path: Path) -> None:
    trials = by_name(run(plan_with(), tmp_path))
    assert len(trials) == 4
    trial = trials["small", "mt-apc"]
    assert trial.status == "done"
    assert trial.violations == []
    assert trial.metrics is not None
    assert trial.tokens is not None
    assert (trial.metrics.n_requests, trial.metrics.n_failed) == (6, 0)
    assert trial.metrics.prompt_tokens == trial.tokens.prompt == SMALL.total_prompt_tokens
    assert {check.name: check.agrees for check in trial.counters_check} == {
        "requests": True,
        "prompt tokens": True,
        "output tokens": True,
        "sum of TTFT, s": True,
    }
    # The stub's cache has no limits, so it reaches the bound; in round 2 each agent finds its first 7 blocks.
    assert trial.infinite_hit_rate == pytest.approx(trial.hit_rate)
    assert trial.tokens.device == 2 * 64 + 3 * 112
    assert trials["no_reuse", "noop"].infinite_hit_rate == 0.0
    assert [each.n for each in trial.rounds] == [3, 3]
    assert trial.requests is not None
    assert trial.requests.n_in == [116] * 3 + [140] * 3
    assert trial.events["store_blocks"] == 6
    assert trial.lag is not None


def test_all_servers_get_the_same_requests_and_their_answers_can_be_compared(
    servers: StubServers, tmp_path: Path
) -> None:
    trials = by_name(run(plan_with(), tmp_path))
    assert trials["small", "noop"].request_digest == trials["small", "mt-apc"].request_digest
    assert trials["small", "noop"].output_digest == trials["small", "mt-apc"].output_digest
    assert trials["small", "noop"].request_digest != trials["no_reuse", "noop"].request_digest


def test_every_second_trial_visits_the_servers_in_reverse_and_each_plays_all_workloads(
    servers: StubServers, tmp_path: Path
) -> None:
    trials = run(plan_with(n_trials=2), tmp_path)
    assert servers.started == ["noop", "mt-apc", "mt-apc", "noop"]
    assert [trial.server.fresh for trial in trials if trial.workload.name == "small"] == [True] * 4
    assert [trial.server.fresh for trial in trials if trial.workload.name == "no_reuse"] == [False] * 4


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_progress_says_what_runs_and_how_long_the_rest_takes(
    servers: StubServers, tmp_path: Path, on_a_terminal: bool
) -> None:
    shown = io.StringIO()
    with RunProgress(Console(file=shown, force_terminal=on_a_terminal, width=120)) as progress:
        SuiteRun(plan_with(servers=("noop",)), tmp_path, progress).run()
    assert "noop, small, trial 1" in shown.getvalue()
    assert re.search(r"trials, about \d+ s left", shown.getvalue())


def test_fresh_servers_are_neighbours_in_time(servers: StubServers, tmp_path: Path) -> None:
    run(plan_with(fresh_servers=True), tmp_path)
    assert servers.started == ["noop", "mt-apc", "noop", "mt-apc"]


def test_a_server_that_does_not_forget_is_replaced(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.forgets = False
    trials = run(plan_with(), tmp_path)
    assert servers.started == ["noop", "noop", "mt-apc", "mt-apc"]
    assert all(trial.server.fresh and not trial.violations for trial in trials)


def test_a_server_that_cannot_be_emptied_plays_one_workload(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.can_reset = False
    trials = run(plan_with(), tmp_path)
    assert servers.started == ["noop", "noop", "mt-apc", "mt-apc"]
    assert all("no route" in (trial.reason or "") for trial in trials)


def test_reuse_of_what_was_never_sent_in_a_trial_is_a_violation(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.can_reset = False
    again = replace(SMALL, name="again")
    external = ExternalServer(servers.base_url, "bench")
    trials = by_name(run(plan_with(workloads=(SMALL, again), servers=(ENDPOINT,)), tmp_path, endpoint=external))
    assert trials["small", ENDPOINT].violations == []
    assert "caches were not empty" in trials["again", ENDPOINT].violations[0]


def test_a_count_that_differs_from_the_servers_is_a_violation(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.miscounts = 1
    trial = run(plan_with(workloads=(SMALL,), servers=("noop",)), tmp_path)[0]
    assert "the client counted prompt tokens 768, the server 774" in trial.violations
    assert {check.name for check in trial.counters_check if not check.agrees} >= {"prompt tokens"}


def test_an_internal_error_is_a_violation_even_if_it_was_before_the_trial(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.order_errors = 1
    trial = run(plan_with(workloads=(SMALL,), servers=("mt-apc",)), tmp_path)[0]
    assert "the server counted 1 internal errors" in trial.violations[0]


def test_a_server_that_dies_costs_its_trial_and_is_started_again(servers: StubServers, tmp_path: Path) -> None:
    servers.stub.dies_after = 9  # seven requests warm up, the workload has six
    trials = by_name(run(plan_with(servers=("noop",)), tmp_path))
    assert servers.started == ["noop", "noop"]
    for trial in trials.values():
        assert trial.status == "crashed"
        assert "ValueError: the cause" in (trial.reason or "")
        assert trial.metrics is None


def test_a_server_that_does_not_start_costs_its_trials_only(servers: StubServers, tmp_path: Path) -> None:
    servers.do_not_start.add("noop")
    trials = by_name(run(plan_with(), tmp_path))
    assert servers.started == ["mt-apc"]
    assert {key: trial.status for key, trial in trials.items()} == {
        ("small", "noop"): "crashed",
        ("no_reuse", "noop"): "crashed",
        ("small", "mt-apc"): "done",
        ("no_reuse", "mt-apc"): "done",
    }


def test_failed_requests_are_listed_and_make_a_trial_worthless(servers: StubServers, tmp_path: Path) -> None:
    def fail(trial: Trial) -> None:
        servers.stub.fails = True

    trials = by_name(run(plan_with(servers=("noop",)), tmp_path, on_trial=fail))
    servers.stub.fails = False
    failed = trials["no_reuse", "noop"]
    assert failed.metrics is not None or failed.status == "crashed"
    assert failed.violations or failed.reason


def test_what_is_finished_does_not_run_again(servers: StubServers, tmp_path: Path) -> None:
    servers.do_not_start.add("noop")
    run(plan_with(), tmp_path)
    servers.do_not_start.clear()
    servers.started.clear()
    trials = run(plan_with(n_trials=2), tmp_path)
    assert servers.started == ["noop", "mt-apc", "noop"]
    assert [trial.status for trial in trials] == ["done"] * 8


def test_a_result_of_other_parameters_is_refused(servers: StubServers, tmp_path: Path) -> None:
    run(plan_with(), tmp_path)
    other = plan_with(settings=replace(SETTINGS, host_memory="32MiB"))
    with pytest.raises(UserError, match=r"host_memory was 64MiB, is 32MiB") as caught:
        run(other, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"n_agents was 3, is 4"):
        run(plan_with(workloads=(replace(SMALL, n_agents=4), ALONE)), tmp_path)


def test_a_server_that_cannot_run_here_is_skipped_with_the_reason(servers: StubServers, tmp_path: Path) -> None:
    trials = by_name(run(plan_with(servers=("noop", "lmcache")), tmp_path))
    assert servers.started == ["noop"]
    assert trials["small", "lmcache"].status == "skipped"
    assert "GPU" in (trials["small", "lmcache"].reason or "")


def test_every_server_has_an_empty_disk_directory_of_its_own_that_is_removed(
    servers: StubServers, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, disk=tmp_path / "disk", disk_capacity="1GiB")
    run(plan_with(settings=settings, servers=("mt-apc", "vllm-tiering-fs")), tmp_path / "results")
    # Files of vLLM's own tier outlive a reset.
    assert servers.started == ["mt-apc", "vllm-tiering-fs", "vllm-tiering-fs"]
    assert all(disk is not None and disk.parent == tmp_path / "disk" for disk in servers.disks)
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_profiler_runs_during_the_measurement_and_writes_below_the_results(
    servers: StubServers, tmp_path: Path
) -> None:
    plan = plan_with(workloads=(SMALL,), servers=("noop",), settings=replace(SETTINGS, profiling=True))
    run(plan, tmp_path)
    assert servers.stub.profiler_orders == ["/start_profile after 7", "/stop_profile after 13"]
    assert servers.profile_dirs[-1] == tmp_path / "traces" / "noop+small+trial+1"
    with pytest.raises(UserError, match="profile_dir was traces, is None"):
        run(replace(plan, settings=SETTINGS), tmp_path)


def test_after_a_restart_the_workload_is_played_again_with_what_is_on_disk(
    servers: StubServers, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, disk=tmp_path / "disk", disk_capacity="1GiB")
    plan = plan_with(settings=settings, servers=("mt-apc",), fresh_servers=True, restarts=True)
    trials = by_name(run(plan, tmp_path / "results"))
    assert servers.started == ["mt-apc"] * 4
    assert {name for name, _ in trials} == {"small", "small.restarted", "no_reuse", "no_reuse.restarted"}
    assert all(trial.status == "done" for trial in trials.values())
    assert trials["small", "mt-apc"].request_digest == trials["small.restarted", "mt-apc"].request_digest
    servers.started.clear()
    run(plan, tmp_path / "results")
    assert servers.started == []


def test_a_server_that_dies_after_its_restart_costs_that_trial(servers: StubServers, tmp_path: Path) -> None:
    def die(trial: Trial) -> None:
        servers.stub.dies_after = 3

    plan = plan_with(workloads=(SMALL,), servers=("mt-apc",), fresh_servers=True, restarts=True)
    trials = by_name(run(plan, tmp_path, on_trial=die))
    assert {name: trial.status for (name, _), trial in trials.items()} == {
        "small": "done",
        "small.restarted": "crashed",
    }


def test_an_endpoint_is_measured_without_starting_anything(servers: StubServers, tmp_path: Path) -> None:
    external = ExternalServer.connect(servers.base_url + "/v1/", None)
    trials = run(plan_with(servers=(ENDPOINT,)), tmp_path, endpoint=external)
    assert servers.started == []
    assert [trial.server.name for trial in trials] == [ENDPOINT, ENDPOINT]
    assert all(trial.status == "done" and trial.server.block_size == BLOCK for trial in trials)


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [("http://127.0.0.1:9", None, "cannot be reached"), (None, "other", "has bench, not 'other'")],
)
def test_an_endpoint_that_cannot_be_measured_is_refused_in_one_line(
    stub: CachingStub, url: str | None, model: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ExternalServer.connect(url or stub.base_url, model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": 0}, "--num-trials"),
        ({"servers": ("noop", "noop")}, "--servers"),
        ({"servers": ("vllm-offload-lru:policy=lru",)}, "mean nothing"),
        ({"workloads": ()}, "--benchmarks"),
        ({"settings": replace(SETTINGS, disk=Path("disk"))}, "--disk-capacity"),
        ({"settings": replace(SETTINGS, n_device_blocks=4)}, "--num-gpu-blocks"),
        ({"settings": replace(SETTINGS, max_model_len=100)}, "--max-model-len"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    servers: StubServers, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(plan_with(**changes), tmp_path)
    assert "\n" not in str(caught.value)
    assert servers.started == []
