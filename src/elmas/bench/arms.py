"""The servers that a benchmark compares: same model, same sizes, same arguments, only the arm differs."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from elmas.errors import UserError
from elmas.serve.checks import check_start
from elmas.serve.command import ServerCommand, build_command
from elmas.serve.configurations import configuration
from elmas.serve.machine import Machine, select_device
from elmas.serve.options import ServeOptions
from elmas.serve.process import ServerProcess
from elmas.settings import CacheSettings

BLOCK_SIZE = 32
"""Tokens per KV block by default: the smallest that vLLM's CPU attention takes."""

MODEL_NAME = "bench"
"""The name under which every arm serves the model."""


@dataclass(frozen=True)
class ServerShape:
    """What all arms of a comparison have in common."""

    model: Path
    n_device_blocks: int
    """KV blocks on the device. One of them is never used by vLLM."""
    max_model_len: int
    """Tokens of the longest request, its answer included."""
    host_memory: str
    """Size of the host tier, for the arms that have one."""
    max_running: int
    """Requests that run at once. More of them than the device cache holds would be preempted again and again."""
    port: int | None = None
    """None: any free port."""
    vllm_arguments: tuple[str, ...] = ()
    block_size: int = BLOCK_SIZE
    """Tokens per KV block."""
    disk: Path | None = None
    """Directory of the disk tier, for the arms that have one; None: no arm has."""
    disk_capacity: str | None = None
    profile_dir: Path | None = None
    """Where a server with a profiler writes its traces; None: no profiler."""

    @property
    def device_tokens(self) -> int:
        """Tokens that the device cache holds."""
        return (self.n_device_blocks - 1) * self.block_size

    def check(self) -> None:
        """Raise UserError when one request alone would not fit the device cache."""
        if self.device_tokens < self.max_model_len:
            n_needed = -(-self.max_model_len // self.block_size) + 1
            raise UserError(
                f"{self.n_device_blocks} device blocks of {self.block_size} tokens hold less than one request of "
                f"{self.max_model_len} tokens: pass --num-gpu-blocks {n_needed} or more"
            )


def ensure_tiny_model(directory: Path) -> None:
    """Write the tiny model unless it is there already, complete; raises UserError when the directory is not free."""
    from elmas.models.presets import find_preset
    from elmas.models.writer import write_model

    write_model(find_preset("tiny"), directory)


def free_port() -> int:
    """Return a port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def arm_command(arm: str, shape: ServerShape) -> ServerCommand:
    """Return the command of one arm; raises UserError for an unknown arm or a shape that cannot work.

    An arm is the name of a configuration, which settings of the cache may follow: "mt-apc:cost_gate=false".
    """
    shape.check()
    name, *settings = arm.split(":")
    changes = dict(_key_and_value(setting) for setting in settings)
    arguments = [
        *("--served-model-name", MODEL_NAME),
        *("--block-size", str(shape.block_size)),
        *("--num-gpu-blocks-override", str(shape.n_device_blocks)),
        *("--max-model-len", str(shape.max_model_len)),
        *("--max-num-seqs", str(shape.max_running)),
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    machine = Machine.detect()
    device = select_device("auto", machine.build)
    device_memory_bytes = None
    if device == "cpu":
        # Compiling the model takes minutes on a small machine and does not change what is compared here.
        arguments.append("--enforce-eager")
        # Without a stated size, vLLM wants nearly all memory of the machine to be free, whatever the number of blocks.
        device_memory_bytes = shape.n_device_blocks * shape.block_size * _kv_bytes_per_token(shape.model)
    disk = {} if shape.disk is None else {"disk": str(shape.disk), "disk_capacity": shape.disk_capacity}
    base = ServeOptions(
        model=str(shape.model),
        port=shape.port or free_port(),
        cache=CacheSettings.parse({"host_memory": shape.host_memory, **disk}),
        device_memory_bytes=device_memory_bytes,
        profile_dir=shape.profile_dir,
        dev_mode=True,
        vllm_arguments=(*arguments, *shape.vllm_arguments),
    )
    options = configuration(name).apply(base, device)
    options = replace(options, cache=CacheSettings.parse({**options.cache.to_extra_config(), **changes}))
    check_start(options, machine)
    return build_command(options, machine)


@contextmanager
def running_server(command: ServerCommand, log_path: Path) -> Iterator[tuple[ServerProcess, float]]:
    """Run a server for the length of the block; gives it and the seconds until it was ready.

    Raises UserError when it does not start, and when it stops answering inside the block.
    """
    with ServerProcess(command, log_path) as server:
        ready_s = server.wait_ready()
        try:
            yield server, ready_s
        except httpx.HTTPError as error:
            raise UserError(f"the server stopped answering ({error}): see its log {log_path}") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write results so that an interrupted run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _key_and_value(setting: str) -> tuple[str, str]:
    key, separator, value = setting.partition("=")
    if not separator:
        raise UserError(f"{setting!r} in --servers is no setting: write NAME:key=value, such as mt-apc:cost_gate=false")
    return key, value


def _kv_bytes_per_token(model: Path) -> int:
    """Return the bytes of KV that a token of the model takes in float32, which is what CPU servers here compute in."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        n_heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
        return int(config["num_hidden_layers"] * 2 * config.get("num_key_value_heads", n_heads) * head_dim * 4)
    except (OSError, ValueError, KeyError):
        raise UserError(f"{model} holds no config.json of a model: write one with elmas model") from None
