"""What would make a server fail after a minute of loading, found in a moment and told in one line each.

These checks look at the machine (files, ports, memory, disk, network); `build_command` finds the mistakes that can be
seen in the options alone.
"""

import errno
import os
import socket
from pathlib import Path

import httpx

from elmas.errors import UserError
from elmas.preflight import check_cache, least_block_bytes
from elmas.serve.arguments import has_option, integer_option, option_value
from elmas.serve.command import CPU_BLOCK_SIZE
from elmas.serve.machine import Machine, has_nvidia_gpu, select_device
from elmas.serve.options import Connector, ServeOptions
from elmas.settings import HEADROOM_BYTES, CacheSettings, available_memory_bytes
from elmas.tiers.disk.directory import check_directory
from elmas.tiers.disk.format import choose_shape
from elmas.tiers.host import align_row
from elmas.units import format_bytes

HUB_TIMEOUT_S = 5.0


def check_start(options: ServeOptions, machine: Machine) -> None:
    """Raise UserError for the first thing found that would keep the server from starting."""
    device = select_device(options.device, machine.build)
    if device == "cuda" and not has_nvidia_gpu():
        raise UserError("found no NVIDIA GPU for the cuda build of vLLM: check the driver with nvidia-smi")
    check_model(options)
    check_port(options.host, options.port)
    block_bytes = 0
    if options.connector is Connector.MT_APC:
        block_bytes = _least_block_bytes(options, device)
        check_disk(options.cache, block_bytes)
    check_memory(options, machine, device, block_bytes)


def check_port(host: str, port: int) -> None:
    """Raise UserError when a server could not listen on `host`:`port`."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port is {port}: choose a port from 1 to 65535")
    try:
        candidates = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise UserError(
            f"--host {host!r} is not a known address: use 127.0.0.1, or 0.0.0.0 for all interfaces"
        ) from None
    family, kind, protocol, _, address = candidates[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} on {host} is in use: choose another --port") from None
            if error.errno == errno.EACCES:
                raise UserError(f"port {port} needs special rights: choose a --port above 1023") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"--host {host} is not an address of this machine: use 127.0.0.1 or 0.0.0.0") from None
            raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def check_memory(options: ServeOptions, machine: Machine, device: str, block_bytes: int) -> None:
    """Raise UserError when the host tier, and on CPU also vLLM's own KV memory, do not fit the free memory.

    `block_bytes` is a lower bound of a block's size, 0 where it is not known.
    """
    host_bytes = 0
    if options.connector is Connector.MT_APC:
        check_cache(options.cache, block_bytes)
        host_bytes = options.cache.host_memory_bytes()
    device_bytes = _device_bytes_in_host_memory(options, machine) if device == "cpu" else 0
    free_bytes = available_memory_bytes()
    if not device_bytes or host_bytes + device_bytes + HEADROOM_BYTES <= free_bytes:
        return
    parts = f"device memory of {format_bytes(device_bytes)}"
    advice = "lower --device-memory"
    if host_bytes:
        parts += f" and host memory of {format_bytes(host_bytes)}"
        advice += " or --host-memory"
    usable_bytes = max(0, free_bytes - HEADROOM_BYTES)
    raise UserError(f"{parts} together exceed the {format_bytes(usable_bytes)} that are free: {advice}")


def check_disk(settings: CacheSettings, block_bytes: int) -> None:
    """Raise UserError when the disk tier, if there is one, cannot work; `block_bytes` as in check_memory."""
    if settings.disk is None or settings.disk_capacity is None:
        return
    if block_bytes:
        choose_shape(align_row(block_bytes), settings.disk_capacity)
    check_directory(Path(settings.disk), settings.disk_capacity)


def _least_block_bytes(options: ServeOptions, device: str) -> int:
    extra = options.vllm_arguments
    return least_block_bytes(
        options.model,
        integer_option(extra, CPU_BLOCK_SIZE if device == "cpu" else 16, "--block-size"),
        option_value(extra, "--dtype") or ("float32" if device == "cpu" else None),
        option_value(extra, "--kv-cache-dtype"),
    )


def _device_bytes_in_host_memory(options: ServeOptions, machine: Machine) -> int:
    """vLLM's KV memory on the CPU platform as far as it is stated; 0 when vLLM sizes it by what is free."""
    space = machine.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    if space:
        if not space.isdecimal():
            raise UserError(f"VLLM_CPU_KVCACHE_SPACE is {space!r}: write a whole number of GiB")
        return int(space) << 30
    if options.device_memory_bytes is not None:
        return options.device_memory_bytes
    stated = option_value(options.vllm_arguments, "--kv-cache-memory-bytes") or ""
    # vLLM also takes "2G" here; that spelling is left to vLLM.
    return integer_option(options.vllm_arguments, 0, "--kv-cache-memory-bytes") if stated.isdecimal() else 0


def check_model(options: ServeOptions) -> None:
    """Raise UserError when the model is neither a directory with a config.json nor an id the hub or its cache knows."""
    model, extra = options.model, options.vllm_arguments
    path = Path(model).expanduser()
    if path.is_dir():
        config_path = Path(option_value(extra, "--hf-config-path") or path)
        if config_path.is_dir() and not any((config_path / name).is_file() for name in ("config.json", "params.json")):
            raise UserError(f"{model} has no config.json: it is not a model directory")
        return
    if path.is_file() or "://" in model:
        return  # one-file formats and object stores are vLLM's business
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(f"model directory {model} does not exist")
    if os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true") or has_option(extra, "--hf-config-path"):
        return
    _check_hub_model(model, option_value(extra, "--revision"), option_value(extra, "--download-dir"))


def _check_hub_model(model: str, revision: str | None, cache_dir: str | None) -> None:
    # Imported here: `elmas serve` with a model directory does not need it.
    from huggingface_hub import constants, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json", cache_dir=cache_dir, revision=revision)
    except HFValidationError:
        raise UserError(f"{model!r} is neither a directory nor a model id such as organisation/name") from None
    if isinstance(cached, str):
        return
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"model {model} is not in the local cache and HF_HUB_OFFLINE is set: unset it, or give a directory"
        )
    # One plain request: the library's own download tries for half a minute before it reports a missing network.
    url = hf_hub_url(model, "config.json", revision=revision)
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx.head(url, headers=headers, timeout=HUB_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise UserError(
            f"model {model} is not in the local cache and the model hub cannot be reached ({error}): "
            "check the network, or give a model directory"
        ) from None
    code = response.headers.get("x-error-code", "")
    if code == "GatedRepo" or response.status_code == 403:
        raise UserError(f"model {model} needs permission: accept its terms on the hub and set HF_TOKEN")
    if code == "EntryNotFound":
        return  # some formats have no config.json; vLLM knows them
    if code == "RevisionNotFound":
        raise UserError(f"model {model} has no revision {revision!r}: check --revision")
    if response.status_code in (401, 404):
        raise UserError(f"model {model} is not on the hub, or is private: check its name, or set HF_TOKEN")
    if response.status_code >= 400:
        raise UserError(f"the model hub answered {response.status_code} for {model}: try again, or give a directory")
