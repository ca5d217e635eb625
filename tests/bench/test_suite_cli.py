"""The commands of the suite: what they plan, what they write, and what they refuse in one line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_suite import CachingStub, StubServers, caching_stub

import elmas.bench.suite.runner as runner_module
import elmas.cli.bench_suite as cli_module
from elmas.bench.suite.presets import Choices, parse_datasets, plan_experiments, plan_gpu, plan_run
from elmas.bench.suite.resume import prepare_directory
from elmas.cli import main
from elmas.errors import UserError
from elmas.settings import CacheSettings


@pytest.fixture
def stub() -> Iterator[CachingStub]:
    with caching_stub() as stub:
        yield stub


@pytest.fixture
def servers(stub: CachingStub, monkeypatch: pytest.MonkeyPatch) -> StubServers:
    servers = StubServers(stub)
    monkeypatch.setattr(runner_module, "arm_command", servers.arm_command)
    monkeypatch.setattr(runner_module, "running_server", servers.running_server)
    monkeypatch.setattr(cli_module, "_device", lambda: "cpu")
    return servers


def elmas(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["elmas", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int | None)
    return code or 0


def test_a_run_writes_results_and_summary_shows_them_again(
    servers: StubServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["bench", "run", "--benchmarks", "multiturn_short", "--servers", "noop,mt-apc", "--num-trials", "2"]
    options += ["--scale", "0.05", "--model", "model", "--result-dir", str(tmp_path / "suite")]
    assert elmas(monkeypatch, *options) == 0
    shown = capsys.readouterr().out
    assert "speed, noop = 1" in shown
    assert "cores; python 3." in shown
    assert "multiturn_short: 16 requests, scale 0.05, synthetic" in shown
    assert (tmp_path / "suite/results.csv").read_text().startswith("workload,server,trial,metric,value\n")
    assert len(list(tmp_path.glob("suite/multiturn_short/*/trial-*.json"))) == 4
    assert elmas(monkeypatch, "bench", "summary", str(tmp_path / "suite"), "--baseline", "mt-apc") == 0
    assert "speed, mt-apc = 1" in capsys.readouterr().out

    assert elmas(monkeypatch, *options) == 2
    assert "--resume, --clear-result-dir" in capsys.readouterr().err
    servers.started.clear()
    assert elmas(monkeypatch, *options, "--resume") == 0
    assert servers.started == []
    assert elmas(monkeypatch, *options, "--clear-result-dir") == 0
    assert servers.started == ["noop", "mt-apc", "mt-apc", "noop"]


def test_a_run_with_worthless_trials_ends_with_1(
    servers: StubServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers.do_not_start.add("noop")
    options = ["--benchmarks", "small", "--scale", "0.01", "--model", "model", "--num-trials", "1"]
    assert elmas(monkeypatch, "bench", "run", *options, "--servers", "noop", "--result-dir", str(tmp_path)) == 1
    assert "not sound: noop, small, trial 1: crashed: the server ended" in capsys.readouterr().err


def test_an_endpoint_is_run_by_its_url(
    stub: CachingStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--endpoint", stub.base_url, "--benchmarks", "small", "--scale", "0.01", "--num-trials", "1"]
    assert elmas(monkeypatch, "bench", "run", *options, "--result-dir", str(tmp_path)) == 0
    assert "endpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmarks", "nope"], "choose from sharegpt, generative_agents"),
        (["--servers", "nope"], "choose from no-apc, apc"),
        (["--endpoint", "http://127.0.0.1:9"], "cannot be reached"),
        (["--endpoint", "http://127.0.0.1:9", "--servers", "noop"], "drop --servers"),
        (["--percentiles", "many"], "--percentiles"),
        (["--dataset", "mmlu"], "NAME=PATH"),
        (["--dataset", "mmlu=missing"], "does not exist"),
        (["--baseline", "apc", "--servers", "noop"], "--baseline"),
        (["--disk", "somewhere"], "--disk-capacity"),
    ],
)
def test_mistakes_are_one_line(
    servers: StubServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    directory = str(tmp_path / "suite")
    assert elmas(monkeypatch, "bench", "run", "--model", "model", "--result-dir", directory, *arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_the_experiments_are_those_of_the_original() -> None:
    standard, multi_agent = plan_experiments(Choices(Path("model"), "cuda"))
    assert (len(standard.workloads), len(standard.servers), standard.n_trials) == (5, 8, 5)
    assert (len(multi_agent.workloads), len(multi_agent.servers), multi_agent.n_trials) == (3, 4, 3)
    assert standard.settings.n_device_blocks == 512
    assert standard.settings.block_size == 16
    assert {each.n_requests for each in multi_agent.workloads} == {16000, 8000}
    assert standard.fresh_servers


def test_without_a_gpu_workloads_shrink_and_servers_are_used_again() -> None:
    plan = plan_run(Choices(Path("model"), "cpu"))
    assert (plan.scale, plan.fresh_servers, plan.settings.block_size) == (0.02, False, 32)
    assert [each.name for each in plan.workloads] == [
        *("generative_agents", "guessing_game", "multiturn_long", "multiturn_short", "sharegpt"),
        *("gptswarm_mmlu", "guessing_game_e2e", "guessing_game_e2e_cot"),
    ]


def test_the_comparison_on_a_gpu_has_every_peer_and_every_switch() -> None:
    plan = plan_gpu(Choices(Path("model"), "cuda"))
    assert {"apc", "noop", "vllm-offload-lru", "vllm-offload-arc", "vllm-offload-simple", "lmcache"} < set(plan.servers)
    assert {"mt-apc", "mt-apc:reorder=false", "mt-apc:load=false"} < set(plan.servers)
    assert "vllm-tiering-fs" not in plan.servers
    assert (plan.settings.n_device_blocks, plan.settings.max_running, plan.settings.host_memory) == (4096, 256, "40GiB")
    with_disk = plan_gpu(Choices(Path("model"), "cuda", disk=Path("disk"), disk_capacity="40GiB"))
    assert {"vllm-tiering-fs", "mt-apc-no-disk", "mt-apc:prefetch=false"} < set(with_disk.servers)
    assert [each.name for each in plan.workloads] == ["rounds_a", "rounds_b", "rounds_c", "no_reuse"]
    switches = {name for name, field in CacheSettings.model_fields.items() if field.annotation is bool} - {"trace"}
    assert {f"mt-apc:{name}=false" for name in switches} < set(with_disk.servers)


def test_clearing_removes_results_and_nothing_else(tmp_path: Path) -> None:
    for name in ("small/noop/trial-1.json", "logs/noop.log", "results.csv", "small/mine.txt", "other/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="holds 1 results"):
        prepare_directory(tmp_path, clear=False, resume=False)
    prepare_directory(tmp_path, clear=True, resume=False)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"small/mine.txt", "other/notes.md"}
    assert not (tmp_path / "small/noop").exists()


def test_data_sets_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "val"
    path.mkdir()
    assert parse_datasets([f"mmlu={path}"]).mmlu == path
