"""`elmas serve` as a user starts it: the command it prints, where defaults come from, and one line per mistake."""

import json
import os
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from elmas.serve.arguments import option_value
from elmas.serve.machine import installed_build
from elmas.tiers.disk.directory import DirectoryLock, prepare_directory

Elmas = Callable[..., "CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(installed_build() != "cpu", reason="expects the CPU build of vLLM")


def dry_run(elmas: Elmas, *arguments: str, **environment: str) -> list[str]:
    result = elmas("serve", *arguments, "--dry-run", **environment)
    assert result.returncode == 0, result.stderr
    return shlex.split(result.stdout)


def error_line(result: "CompletedProcess[str]") -> str:
    """The one line of a refusal, after checking that there is nothing else."""
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if not line.startswith("elmas: note: ")]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("elmas: error: ")
    return errors[0]


def test_vllm_arguments_pass_through_in_order(elmas: Elmas) -> None:
    words = dry_run(elmas, "org/m", "--max-num-seqs", "16", "--port", "9001", "-tp", "2", "--seed=3", "-O3")
    assert words[-6:] == ["--max-num-seqs", "16", "-tp", "2", "--seed=3", "-O3"]
    assert option_value(words, "--model") == "org/m"
    assert option_value(words, "--port") == "9001"


def test_all_flags_of_the_original_are_accepted(elmas: Elmas) -> None:
    flags = "--enable-prefix-caching --enable-multi-tier-prefix-caching --enable-async-swapping "
    flags += "--enable-prefix-aware-scheduling --enable-async-prefetching --scheduler-window-size=10 "
    flags += "--profiling --preemption-mode=recompute"
    result = elmas("serve", "m", *flags.split(), "--dry-run")
    assert result.returncode == 0
    assert "recomputes" in result.stderr
    assert "disk tier" in result.stderr
    words = shlex.split(result.stdout)
    assert '"scheduler_window_size": 10' in (option_value(words, "--kv-transfer-config") or "")
    assert '"torch_profiler_dir"' in (option_value(words, "--profiler-config") or "")


def test_prefix_caching_alone_is_plain_vllm(elmas: Elmas) -> None:
    words = dry_run(elmas, "m", "--enable-prefix-caching")
    assert "--enable-prefix-caching" in words
    assert "--kv-transfer-config" not in words


@pytest.mark.parametrize("spelling", ["--no-enable-prefix-caching", "--no_enable_prefix_caching"])
def test_no_prefix_caching_is_plain_vllm_without_caching(elmas: Elmas, spelling: str) -> None:
    words = dry_run(elmas, "m", spelling)
    assert [word for word in words if "prefix" in word] == ["--no-enable-prefix-caching"]
    assert "--kv-transfer-config" not in words


def test_settings_without_effect_are_noted(elmas: Elmas) -> None:
    disk = ["--disk", "kv", "--disk-capacity", "1GiB"]
    result = elmas("serve", "m", "--connector", "none", "--host-memory", "1GiB", *disk, "--dry-run")
    for option in ("--host-memory", "--disk", "--disk-capacity"):
        assert f"{option} has no effect: the multi-tier cache is off" in result.stderr
    result = elmas("serve", "m", "--disk-write-rate", "80MB", "--disk-write-per-day", "1TB", "--dry-run")
    assert result.stderr.count("has no effect without a disk tier: add --disk and --disk-capacity") == 2


@pytest.mark.parametrize(
    ("flags", "prefetch"),
    [
        ("", True),
        ("--enable-multi-tier-prefix-caching", False),
        ("--enable-multi-tier-prefix-caching --enable-async-prefetching", True),
    ],
)
def test_prefetching_is_on_unless_other_mechanisms_are_named(
    elmas: Elmas, tmp_path: Path, flags: str, prefetch: bool
) -> None:
    disk = "--disk kv --disk-capacity 1GiB --disk-write-rate 80MB --disk-write-per-day 1TB"
    result = elmas("serve", "m", *disk.split(), *flags.split(), "--dry-run")
    assert "no effect" not in result.stderr
    words = shlex.split(result.stdout)
    extra = json.loads(option_value(words, "--kv-transfer-config") or "")["kv_connector_extra_config"]
    assert extra.get("prefetch", True) is prefetch
    assert (extra["disk"], extra["disk_capacity"]) == (str(tmp_path / "kv"), 1 << 30)
    assert (extra["disk_write_rate"], extra["disk_write_per_day"]) == (80 * 10**6, 10**12)


def test_defaults_command_line_over_environment_over_file(elmas: Elmas, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEFAULT_MODEL=filed\nDEFAULT_HOST=127.0.0.2\nDEFAULT_PORT=9100\n")
    words = dry_run(elmas, DEFAULT_PORT="9200")
    assert [option_value(words, name) for name in ("--model", "--host", "--port")] == ["filed", "127.0.0.2", "9200"]
    words = dry_run(elmas, "named", "--port", "9300", DEFAULT_PORT="9200", DEFAULT_MODEL="exported")
    assert [option_value(words, name) for name in ("--model", "--port")] == ["named", "9300"]
    words = dry_run(elmas, "--max-num-seqs", "4")
    assert option_value(words, "--model") == "filed"
    assert words[-2:] == ["--max-num-seqs", "4"]


def test_empty_lines_of_the_example_file_mean_not_set(elmas: Elmas, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / ".env.example"
    (tmp_path / ".env").write_text(example.read_text())
    words = dry_run(elmas, "m")
    assert option_value(words, "--port") == "8000"
    assert not any(word.startswith("VLLM_API_KEY") for word in words)
    assert "no model" in error_line(elmas("serve", "--dry-run"))


def test_the_key_is_never_printed(elmas: Elmas, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=s3cret\n")
    result = elmas("serve", "m", "--dry-run")
    assert "s3cret" not in result.stdout + result.stderr
    assert 'VLLM_API_KEY="$OPENAI_API_KEY"' in result.stdout
    assert "export OPENAI_API_KEY" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--port", "http"], "--port is 'http'"),
        (["m", "--port", "0"], "1 to 65535"),
        (["m", "--port", "65536"], "1 to 65535"),
        (["m", "--host-memory", "lots"], "--host-memory is 'lots'"),
        (["m", "--device-memory", "0"], "--device-memory is '0'"),
        (["m", "--policy", "mru"], "unknown policy 'mru'"),
        (["m", "--scheduler-window-size", "0"], "--scheduler-window-size"),
        (["m", "--disk", "kv"], "add --disk-capacity"),
        (["m", "--disk-capacity", "1GiB"], "add --disk DIR"),
        (["m", "--disk", "", "--disk-capacity", "1GiB"], "--disk is empty"),
        (["m", "--disk", "kv", "--disk-capacity", "much"], "--disk-capacity is 'much'"),
        (["m", "--disk-write-rate", "fast"], "--disk-write-rate is 'fast'"),
        (["m", "--disk-write-per-day", "0"], "--disk-write-per-day is '0'"),
        (["m", "--disk", "kv", "--disk-capacity", "1GiB", "-dp", "2"], "its own server and directory"),
        (["m", "--connector", "lmcache"], "mt-apc, noop, none"),
        (["m", "--device", "tpu"], "auto, cpu, cuda"),
        (["m", "--preemption-mode=swap"], "only recomputes"),
        (["m", "--enable-async-swapping"], "--enable-multi-tier-prefix-caching"),
        (["m", "--enable-multi-tier-prefix-caching", "--no-enable-prefix-caching"], "drop one"),
        (["m", "--block-size", "16"], "multiple of 32"),
        (["m", "--kv-transfer-config", "{}"], "drop --kv-transfer-config"),
        (["m", "--model", "n"], "two models"),
        (["--max-num-seqs", "16"], "with MODEL first"),
    ],
)
def test_mistakes_in_options_are_one_line_even_in_a_dry_run(elmas: Elmas, arguments: list[str], message: str) -> None:
    assert message in error_line(elmas("serve", *arguments, "--dry-run"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("DEFAULT_PORT", "http", "'http' is not a port"), ("DEFAULT_DEVICE", "tpu", "auto, cpu, cuda")],
)
def test_bad_defaults_name_their_variable(elmas: Elmas, name: str, value: str, message: str) -> None:
    line = error_line(elmas("serve", "m", "--dry-run", **{name: value}))
    assert name in line
    assert message in line


def test_missing_model_directory(elmas: Elmas, tmp_path: Path) -> None:
    assert "does not exist" in error_line(elmas("serve", str(tmp_path / "nothing")))
    assert "has no config.json" in error_line(elmas("serve", str(tmp_path)))


def test_model_id_that_cannot_be_had(elmas: Elmas, tmp_path: Path) -> None:
    empty = {"HF_HOME": str(tmp_path / "hub")}
    assert "HF_HUB_OFFLINE" in error_line(elmas("serve", "org/name", HF_HUB_OFFLINE="1", **empty))
    # Nothing listens on the discard port: the hub cannot be reached.
    unreachable = error_line(elmas("serve", "org/name", HF_ENDPOINT="http://127.0.0.1:9", **empty))
    assert "cannot be reached" in unreachable
    assert "neither a directory nor a model id" in error_line(elmas("serve", "name with spaces", **empty))


def test_port_in_use(elmas: Elmas, model_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in error_line(elmas("serve", str(model_dir), "--port", str(port)))


def test_host_that_is_not_here(elmas: Elmas, model_dir: Path) -> None:
    assert "192.0.2.1" in error_line(elmas("serve", str(model_dir), "--host", "192.0.2.1"))
    assert "not a known address" in error_line(elmas("serve", str(model_dir), "--host", "no.such.host.invalid"))


def test_disk_that_cannot_be_used(elmas: Elmas, model_dir: Path, free_port: int, tmp_path: Path) -> None:
    def refusal(directory: Path, capacity: str = "16MiB", **environment: str) -> str:
        disk = ["--disk", str(directory), "--disk-capacity", capacity]
        return error_line(elmas("serve", str(model_dir), "--port", str(free_port), *disk, **environment))

    (tmp_path / "file").write_text("")
    assert "is not a directory: choose another one with --disk" in refusal(tmp_path / "file")
    assert "is not a directory: choose another one with --disk" in refusal(tmp_path / "file" / "below")
    assert "lower --disk-capacity" in refusal(tmp_path / "kv", "900TiB")
    mine = tmp_path / "mine"
    prepare_directory(mine)
    lock = DirectoryLock(mine)
    assert f"in use by another server (process {os.getpid()})" in refusal(mine)
    lock.release()
    shape = {"num_attention_heads": 8, "num_hidden_layers": 16, "hidden_size": 512}
    (model_dir / "config.json").write_text(json.dumps(shape))
    assert "holds no two segments of a block of 2.0 MiB: raise --disk-capacity" in refusal(tmp_path / "kv", "3MiB")
    assert not (tmp_path / "kv").exists()


def test_memory_that_is_not_there(elmas: Elmas, model_dir: Path, free_port: int) -> None:
    start = ["serve", str(model_dir), "--port", str(free_port)]
    assert "lower --host-memory" in error_line(elmas(*start, "--host-memory", "900TiB"))
    plain = ["--connector", "none", "--device-memory", "900TiB"]
    assert "lower --device-memory" in error_line(elmas(*start, *plain))
    # Each alone fits; together they do not.
    share = str(int(psutil.virtual_memory().available * 0.6))
    both = elmas(*start, "--host-memory", share, "--device-memory", share)
    assert "together exceed" in error_line(both)
