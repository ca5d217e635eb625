"""The entry point `vllm.general_plugins`: vLLM calls `register` once in each of its processes."""

import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

from elmas.errors import UserError
from elmas.preflight import check_cache, least_block_bytes
from elmas.settings import CacheSettings
from elmas.tiers.disk.directory import check_directory
from elmas.tiers.disk.format import choose_shape
from elmas.tiers.host import align_row
from elmas.vllm.support import SHARED_DISK, SHORT_HASHES

_CONNECTORS = {
    "ElmasConnector": "elmas.vllm.connector",
    "ElmasNoopConnector": "elmas.vllm.noop",
}

_LEAST_BLOCK_SIZE = 16


def register() -> None:
    """Make the connectors known to vLLM by name, so that `"kv_connector": "ElmasConnector"` is enough.

    On a command line that asks for ElmasConnector, mistakes in its settings end the process here with one line and exit
    code 2: further in, vLLM would report them from an inner process after a minute, with its own traceback around them.
    """
    for name, module in _CONNECTORS.items():
        try:
            KVConnectorFactory.get_connector_class_by_name(name)
        except ValueError:
            KVConnectorFactory.register_connector(name, module, name)
    if multiprocessing.parent_process() is not None:
        return  # an inner process: it has its parent's command line, but the memory may be taken by the server itself
    try:
        check_command_line(sys.argv)
    except UserError as error:
        print(f"elmas: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def check_command_line(argv: Sequence[str]) -> None:
    """Raise UserError when `argv` starts vLLM with settings of ElmasConnector that cannot work."""
    try:
        transfer = json.loads(_value(argv, "--kv-transfer-config") or "{}")
    except ValueError:
        return  # vLLM says what is wrong with it
    if not isinstance(transfer, dict) or transfer.get("kv_connector") != "ElmasConnector":
        return
    settings = CacheSettings.parse(transfer.get("kv_connector_extra_config") or {})
    block_size = _value(argv, "--block-size") or ""
    block_bytes = least_block_bytes(
        _value(argv, "--model") or next((word for word in argv[1:] if word != "serve" and word[:1] != "-"), ""),
        int(block_size) if block_size.isdecimal() else _LEAST_BLOCK_SIZE,
        _value(argv, "--dtype"),
        _value(argv, "--kv-cache-dtype"),
    )
    check_cache(settings, block_bytes)
    if settings.disk is None or settings.disk_capacity is None:
        return
    n_engines = _value(argv, "--data-parallel-size") or _value(argv, "-dp") or ""
    if n_engines.isdecimal() and int(n_engines) > 1:
        raise UserError(SHARED_DISK)
    if (_value(argv, "--prefix-caching-hash-algo") or "").startswith("xxhash"):
        raise UserError(SHORT_HASHES)
    if block_bytes:
        choose_shape(align_row(block_bytes), settings.disk_capacity)
    check_directory(Path(settings.disk), settings.disk_capacity)


def _value(argv: Sequence[str], name: str) -> str | None:
    """Return the value of an option, written as two words or with an equals sign, with dashes or underscores."""
    for place, word in enumerate(argv):
        head, equals, tail = word.partition("=")
        if head.replace("_", "-") == name:
            return tail if equals else argv[place + 1] if place + 1 < len(argv) else None
    return None
