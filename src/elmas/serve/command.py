"""From options to the exact command line and environment of a vLLM server.

`build_command` depends on its two arguments only, and on whether the model is a directory: it uses no network and
starts nothing. Mistakes that can be seen in the options are told here; what depends on the moment (ports, memory) is
in `checks`.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elmas.errors import UserError
from elmas.serve.arguments import has_option, integer_option
from elmas.serve.machine import Build, Machine, format_core_binding, select_device
from elmas.serve.options import Connector, ServeOptions
from elmas.settings import AUTO_SHARE

CONNECTOR_NAMES = {Connector.MT_APC: "ElmasConnector", Connector.NOOP: "ElmasNoopConnector"}
"""Names under which elmas registers its connectors with vLLM."""

SCHEDULER_CLASS = "elmas.vllm.scheduler.make_scheduler"

MIDDLEWARE = "elmas.vllm.entrance.Entrance"
"""What lets requests into vLLM's API server one after the other."""

CPU_BLOCK_SIZE = 32
"""vLLM's CPU attention wants multiples of this; it is also the default here, as small blocks share more."""

STOP_GRACE_S = 20.0
"""How long a server may take to stop, beyond the time it was told to spend on running requests."""


@dataclass(frozen=True)
class ServerCommand:
    """A vLLM server that can be started: its arguments, the environment variables it needs in addition, its address.

    `api_key` is kept apart from `environment`, so that nothing that prints a command shows it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    host: str
    port: int
    stop_grace_s: float = STOP_GRACE_S
    api_key: str | None = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """The URL under which this machine reaches the server, without a trailing slash."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def process_environment(self) -> dict[str, str]:
        """Return the complete environment for the server's process, the API key included."""
        key = {"VLLM_API_KEY": self.api_key} if self.api_key else {}
        return {**os.environ, **self.environment, **key}

    def shell_line(self) -> str:
        """Return the command as one line for a POSIX shell; the API key appears as a reference to OPENAI_API_KEY."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        if self.api_key:
            words.append('VLLM_API_KEY="$OPENAI_API_KEY"')
        return " ".join([*words, shlex.join(self.argv)])


def build_command(options: ServeOptions, machine: Machine | None = None) -> ServerCommand:
    """Return the command that starts the server `options` describe on `machine` (None: on this one).

    Raises UserError for options that contradict each other or that vLLM would refuse.
    """
    machine = machine or Machine.detect()
    device = select_device(options.device, machine.build)
    extra = options.vllm_arguments
    argv = [sys.executable, "-m", _module(extra), "--model", options.model]
    argv += ["--host", options.host, "--port", str(options.port)]
    argv.append("--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching")
    argv += _connector_arguments(options)
    if options.device_memory_bytes is not None:
        if has_option(extra, "--kv-cache-memory-bytes"):
            raise UserError("--device-memory is vLLM's --kv-cache-memory-bytes: drop one of the two")
        argv += ["--kv-cache-memory-bytes", str(options.device_memory_bytes)]
    if options.profile_dir is not None:
        if has_option(extra, "--profiler-config"):
            raise UserError("--profiling sets vLLM's --profiler-config: drop one of the two")
        argv += ["--profiler-config", json.dumps(profiler_config(options.profile_dir))]
    if device == "cpu":
        argv += _cpu_arguments(options, machine)
    argv += extra
    return ServerCommand(
        argv=tuple(argv),
        environment=_environment(options, machine, device),
        host=options.host,
        port=options.port,
        stop_grace_s=STOP_GRACE_S + integer_option(extra, 0, "--shutdown-timeout"),
        api_key=options.api_key,
    )


def profiler_config(directory: Path) -> dict[str, object]:
    """Return vLLM's `--profiler-config` for traces in `directory`.

    Without Python's call stacks: they are 99 of 100 events, and make the end of a profile take minutes.
    """
    return {
        "profiler": "torch",
        "torch_profiler_dir": str(directory.absolute()),
        "torch_profiler_with_stack": False,
    }


def _module(extra: Sequence[str]) -> str:
    # `vllm serve` looks up a distribution named vllm and fails with the CPU build; the modules work with both.
    n_api_servers = integer_option(extra, 1, "--api-server-count", "-asc")
    return "elmas.vllm.api_servers" if n_api_servers > 1 else "vllm.entrypoints.openai.api_server"


def _connector_arguments(options: ServeOptions) -> list[str]:
    extra = options.vllm_arguments
    if options.connector is Connector.NONE:
        return []
    for name in ("--kv-transfer-config", "--kv-offloading-size"):
        if has_option(extra, name):
            raise UserError(
                f"{name} configures another connector than --connector {options.connector}: "
                f"drop {name}, or add --connector none"
            )
    config: dict[str, object] = {
        "kv_connector": CONNECTOR_NAMES[options.connector],
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
    }
    arguments = ["--kv-transfer-config"]
    if options.connector is Connector.NOOP:
        return [*arguments, json.dumps(config)]
    if options.cache.disk is not None and integer_option(extra, 1, "--data-parallel-size", "-dp") > 1:
        raise UserError(
            "--disk cannot be shared by the engines of --data-parallel-size: "
            "give each engine its own server and directory"
        )
    cache = options.cache
    if options.profile_dir is not None:
        cache = cache.model_copy(update={"trace": True})
    config["kv_connector_extra_config"] = cache.to_extra_config()
    arguments.append(json.dumps(config))
    if options.cache.reorder and has_option(extra, "--scheduler-cls"):
        raise UserError(
            "--scheduler-cls replaces the scheduler that orders requests by their prefixes: drop it, "
            "or name the --enable-* flags you want without --enable-prefix-aware-scheduling"
        )
    # With a disk it also lets requests that are read for step aside.
    if options.cache.reorder or (options.cache.disk is not None and not has_option(extra, "--scheduler-cls")):
        arguments += ["--scheduler-cls", SCHEDULER_CLASS]
    if options.cache.reorder and options.cache.entrance:
        arguments += ["--middleware", MIDDLEWARE]
    return arguments


def _cpu_arguments(options: ServeOptions, machine: Machine) -> list[str]:
    extra = options.vllm_arguments
    if options.device_memory_bytes is not None and machine.environment.get("VLLM_CPU_KVCACHE_SPACE"):
        raise UserError("VLLM_CPU_KVCACHE_SPACE is set and overrides --device-memory: unset it or drop --device-memory")
    arguments = []
    if not has_option(extra, "--dtype"):
        # bfloat16 is several times slower on processors without AVX-512.
        arguments += ["--dtype", "float32"]
    if not has_option(extra, "--block-size"):
        arguments += ["--block-size", str(CPU_BLOCK_SIZE)]
    block_size = integer_option(extra, CPU_BLOCK_SIZE, "--block-size")
    if block_size < 1 or block_size % CPU_BLOCK_SIZE:
        raise UserError(f"--block-size is {block_size}: on CPU it must be a multiple of {CPU_BLOCK_SIZE}")
    stated = options.device_memory_bytes is not None or machine.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if not stated and not has_option(extra, "--kv-cache-memory-bytes", "--gpu-memory-utilization"):
        arguments += _default_device_memory(options, machine)
    return arguments


def _default_device_memory(options: ServeOptions, machine: Machine) -> list[str]:
    # Left alone, vLLM's CPU build claims nearly all memory of the machine for KV blocks, or refuses to start.
    host_bytes = 0
    if options.connector is Connector.MT_APC:
        host_bytes = options.cache.host_memory or int(machine.free_memory_bytes * AUTO_SHARE)
    n_mib = int((machine.free_memory_bytes - host_bytes) * AUTO_SHARE) >> 20
    return ["--kv-cache-memory-bytes", str(n_mib << 20)] if n_mib > 0 else []


def _environment(options: ServeOptions, machine: Machine, device: Build) -> dict[str, str]:
    environment = dict(options.environment)
    if Path(options.model).expanduser().is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if options.dev_mode:
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    if device == "cpu" and not machine.environment.get("VLLM_CPU_OMP_THREADS_BIND"):
        # vLLM keeps cores free when a KV connector is configured, which would make every comparison unfair.
        extra = options.vllm_arguments
        n_ranks = (
            integer_option(extra, 1, "--tensor-parallel-size", "-tp")
            * integer_option(extra, 1, "--pipeline-parallel-size", "-pp")
            * integer_option(extra, 1, "--data-parallel-size", "-dp")
        )
        binding = format_core_binding(machine.cores, n_ranks)
        if binding is not None:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = binding
    return environment
