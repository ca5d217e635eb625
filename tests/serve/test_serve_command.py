"""`build_command`: the exact arguments and environment, on a stated machine."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from elmas.errors import UserError
from elmas.serve.arguments import has_option, option_value
from elmas.serve.command import MIDDLEWARE, SCHEDULER_CLASS, ServerCommand, build_command
from elmas.serve.machine import Machine, format_core_binding, select_device
from elmas.serve.options import Connector, ServeOptions
from elmas.settings import CacheSettings

CPU = Machine("cpu", (0, 1))
CUDA = Machine("cuda", tuple(range(16)))


def build(machine: Machine = CPU, **changes: Any) -> ServerCommand:
    return build_command(ServeOptions(**{"model": "org/name", **changes}), machine)


def value(command: ServerCommand, name: str) -> str | None:
    return option_value(command.argv, name)


def test_mt_apc_sets_connector_and_scheduler() -> None:
    cache = CacheSettings.parse({"host_memory": "1GiB", "scheduler_window_size": 10})
    command = build(cache=cache)
    config = json.loads(value(command, "--kv-transfer-config") or "")
    assert config == {
        "kv_connector": "ElmasConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"host_memory": 1 << 30, "scheduler_window_size": 10},
    }
    assert CacheSettings.parse(config["kv_connector_extra_config"]) == cache
    assert value(command, "--scheduler-cls") == SCHEDULER_CLASS
    assert value(command, "--middleware") == MIDDLEWARE
    assert "--enable-prefix-caching" in command.argv


def test_a_disk_tier_travels_with_its_absolute_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = CacheSettings.parse({"disk": "kv", "disk_capacity": "1GiB", "prefetch": False})
    config = json.loads(value(build(cache=cache), "--kv-transfer-config") or "")
    expected = {"disk": str(tmp_path / "kv"), "disk_capacity": 1 << 30, "prefetch": False}
    assert config["kv_connector_extra_config"] == expected


@pytest.mark.parametrize("spelling", ["--data-parallel-size", "-dp"])
def test_engines_cannot_share_a_disk(spelling: str) -> None:
    cache = CacheSettings.parse({"disk": "/kv", "disk_capacity": "1GiB"})
    with pytest.raises(UserError, match="give each engine its own server and directory"):
        build(cache=cache, vllm_arguments=(spelling, "2"))
    build(vllm_arguments=(spelling, "2"))
    build(cache=cache, connector=Connector.NOOP, vllm_arguments=(spelling, "2"))


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        ((), "vllm.entrypoints.openai.api_server"),
        (("--api-server-count", "1"), "vllm.entrypoints.openai.api_server"),
        (("--api-server-count", "4"), "elmas.vllm.api_servers"),
        (("-asc", "2"), "elmas.vllm.api_servers"),
    ],
)
def test_vllms_module_for_one_api_server_is_not_asked_for_several(arguments: tuple[str, ...], module: str) -> None:
    for connector in (Connector.MT_APC, Connector.NONE):
        argv = build(vllm_arguments=arguments, connector=connector).argv
        assert argv[1:3] == ("-m", module)


def test_without_reordering_the_scheduler_is_vllms() -> None:
    command = build(cache=CacheSettings.parse({"reorder": False}))
    assert not has_option(command.argv, "--scheduler-cls")
    assert not has_option(command.argv, "--middleware")
    assert has_option(command.argv, "--kv-transfer-config")


def test_the_api_server_may_work_on_all_requests_at_once() -> None:
    command = build(cache=CacheSettings.parse({"entrance": False}))
    assert not has_option(command.argv, "--middleware")
    assert has_option(command.argv, "--scheduler-cls")


def test_a_middleware_of_the_users_is_added_to_ours() -> None:
    argv = build(vllm_arguments=("--middleware", "x.Y")).argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--middleware"] == [MIDDLEWARE, "x.Y"]


def test_noop_has_a_connector_without_settings_and_no_scheduler() -> None:
    command = build(connector=Connector.NOOP)
    config = json.loads(value(command, "--kv-transfer-config") or "")
    assert config["kv_connector"] == "ElmasNoopConnector"
    assert "kv_connector_extra_config" not in config
    assert not has_option(command.argv, "--scheduler-cls")


def test_plain_vllm_has_no_trace_of_elmas() -> None:
    command = build(connector=Connector.NONE, prefix_caching=False)
    assert "lmas" not in " ".join(command.argv[1:])
    assert "--no-enable-prefix-caching" in command.argv


def test_cpu_defaults_give_way_to_the_users_arguments() -> None:
    assert value(build(), "--dtype") == "float32"
    assert value(build(), "--block-size") == "32"
    command = build(vllm_arguments=("--dtype=bfloat16", "--block_size", "64"))
    assert [argument for argument in command.argv if argument.startswith(("--dtype", "--block"))] == [
        "--dtype=bfloat16",
        "--block_size",
    ]


@pytest.mark.parametrize("arguments", [("--block-size", "16"), ("--block_size=48",), ("--block-size", "0")])
def test_cpu_refuses_other_block_sizes(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        build(vllm_arguments=arguments)


def test_gpu_gets_no_cpu_settings() -> None:
    command = build(CUDA, vllm_arguments=("--block-size", "16"))
    assert not has_option(command.argv, "--dtype")
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command.environment


def test_all_cores_are_bound_unless_the_user_bound_them() -> None:
    name = "VLLM_CPU_OMP_THREADS_BIND"
    assert build().environment[name] == "0-1"
    assert build(vllm_arguments=("-tp", "2")).environment[name] == "0|1"
    assert name not in build(Machine("cpu", (0, 1), {name: "1"})).environment


@pytest.mark.parametrize(
    ("cores", "n_ranks", "expected"),
    [
        ((0, 1), 1, "0-1"),
        ((3,), 1, "3"),
        ((0, 2, 5), 1, "0,2,5"),
        ((0, 1, 2, 5, 7, 8), 1, "0-2,5,7-8"),
        ((0, 1, 2, 3), 2, "0-1|2-3"),
        ((0, 1, 2), 2, "0|1"),
        ((0,), 2, None),
    ],
)
def test_core_binding_format(cores: tuple[int, ...], n_ranks: int, expected: str | None) -> None:
    assert format_core_binding(cores, n_ranks) == expected


def test_extra_arguments_keep_order_and_come_last() -> None:
    extra = ("--max-num-seqs", "16", "-tp", "2", "--served-model-name", "a", "b", "--seed=3")
    assert build(vllm_arguments=extra).argv[-len(extra) :] == extra


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_arguments": ("--kv-transfer-config", "{}")}, "drop --kv-transfer-config"),
        ({"vllm_arguments": ("--kv_transfer_config={}",)}, "drop --kv-transfer-config"),
        ({"vllm_arguments": ("--kv-transfer-config.kv_role", "kv_both")}, "drop --kv-transfer-config"),
        ({"vllm_arguments": ("--kv-offloading-size", "4"), "connector": Connector.NOOP}, "drop --kv-offloading-size"),
        ({"vllm_arguments": ("--scheduler-cls", "x.Y")}, "--scheduler-cls"),
        ({"vllm_arguments": ("--kv-cache-memory-bytes", "1"), "device_memory_bytes": 1}, "drop one"),
        ({"vllm_arguments": ("--profiler-config", "{}"), "profile_dir": Path("t")}, "drop one"),
        ({"vllm_arguments": ("--block-size", "big")}, "whole number"),
        ({"device": "cuda"}, "use --device cpu"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
    ],
)
def test_conflicts_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build(**changes)
    assert "\n" not in str(raised.value)


def test_a_users_connector_is_fine_without_ours() -> None:
    extra = ("--kv-transfer-config", '{"kv_connector":"OffloadingConnector"}')
    assert build(connector=Connector.NONE, vllm_arguments=extra).argv[-2:] == extra


def test_device_memory_conflicts_with_vllms_variable() -> None:
    assert value(build(device_memory_bytes=1 << 30), "--kv-cache-memory-bytes") == str(1 << 30)
    with pytest.raises(UserError, match="VLLM_CPU_KVCACHE_SPACE"):
        build(Machine("cpu", (0,), {"VLLM_CPU_KVCACHE_SPACE": "1"}), device_memory_bytes=1 << 30)


def test_profiling_writes_to_an_absolute_directory() -> None:
    config = json.loads(value(build(profile_dir=Path("traces")), "--profiler-config") or "")
    assert config["profiler"] == "torch"
    assert config["torch_profiler_dir"] == str(Path("traces").absolute())


def test_profiling_gives_the_trace_the_tracks_of_elmas() -> None:
    def extra(profile_dir: Path | None) -> dict[str, object]:
        config = json.loads(value(build(profile_dir=profile_dir), "--kv-transfer-config") or "")
        return dict(config["kv_connector_extra_config"])

    assert extra(Path("traces"))["trace"] is True
    assert "trace" not in extra(None)


def test_a_model_directory_is_served_offline(tmp_path: Path) -> None:
    assert build(model=str(tmp_path)).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in build().environment


def test_the_api_key_travels_only_in_the_environment() -> None:
    command = build(api_key="s3cret")
    assert command.process_environment()["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in command.shell_line() + repr(command) + repr(ServeOptions("m", api_key="s3cret"))


def test_the_shell_line_reads_back_as_the_command() -> None:
    command = build(model="a model's name", vllm_arguments=("--override", '{"a": "$HOME b"}'))
    words = shlex.split(command.shell_line())
    n_variables = len(command.environment)
    assert dict(word.split("=", 1) for word in words[:n_variables]) == command.environment
    assert tuple(words[n_variables:]) == command.argv


def test_the_grace_period_includes_the_users_shutdown_timeout() -> None:
    assert build(vllm_arguments=("--shutdown-timeout", "60")).stop_grace_s == build().stop_grace_s + 60


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://[::1]:8000"), ("box", "http://box:8000")],
)
def test_base_url_is_reachable(host: str, url: str) -> None:
    assert build(host=host).base_url == url


def test_missing_vllm_says_what_to_install() -> None:
    with pytest.raises(UserError, match="not installed"):
        select_device("auto", None)


def test_cpu_device_memory_has_a_default_that_leaves_room() -> None:
    machine = Machine("cpu", (0, 1), {}, free_memory_bytes=20 << 30)
    options = ServeOptions(model="m", cache=CacheSettings.parse({"host_memory": "8GiB"}))
    argv = build_command(options, machine).argv
    assert argv[argv.index("--kv-cache-memory-bytes") + 1] == str(3 << 30)
    options = ServeOptions(model="m", vllm_arguments=("--gpu-memory-utilization", "0.2"))
    assert "--kv-cache-memory-bytes" not in build_command(options, machine).argv
