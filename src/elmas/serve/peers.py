"""Other ways to keep KV blocks outside the device, as benchmarks start them: what each needs on a command line.

All come with vLLM, except LMCache. On vLLM's CPU platform its offloading runs with a copy of ours
(`elmas.vllm.offloading_on_cpu`), since vLLM has one for GPUs only.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elmas.errors import UserError
from elmas.settings import CacheSettings

_CPU_MODULE = "elmas.vllm.offloading_on_cpu"


@dataclass(frozen=True)
class PeerArguments:
    """What a peer adds to a server: its KV connector, and environment variables."""

    connector: str
    extra_config: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    def vllm_arguments(self) -> tuple[str, ...]:
        """Return the arguments that configure the connector."""
        config = {"kv_connector": self.connector, "kv_role": "kv_both", "kv_connector_extra_config": self.extra_config}
        return "--kv-transfer-config", json.dumps(config)


@dataclass(frozen=True)
class Peer:
    """One alternative. `arguments(cache, on_cpu)` gives its arguments for the sizes in `cache`.

    `unavailable(on_cpu)` says why it cannot run on this machine; None when it can.
    """

    arguments: Callable[[CacheSettings, bool], PeerArguments]
    unavailable: Callable[[bool], str | None] = lambda on_cpu: None


def _offloading(policy: str) -> Peer:
    def arguments(cache: CacheSettings, on_cpu: bool) -> PeerArguments:
        config: dict[str, Any] = {"cpu_bytes_to_use": cache.host_memory_bytes(), "eviction_policy": policy}
        if on_cpu:
            config |= {"spec_name": "HostCopySpec", "spec_module_path": _CPU_MODULE}
        return PeerArguments("OffloadingConnector", config)

    return Peer(arguments)


def _simple(cache: CacheSettings, on_cpu: bool) -> PeerArguments:
    return PeerArguments("SimpleCPUOffloadConnector", {"cpu_bytes_to_use": cache.host_memory_bytes()})


def _tiering(cache: CacheSettings, on_cpu: bool) -> PeerArguments:
    if cache.disk is None:
        raise UserError("vllm-tiering-fs writes to a disk: add --disk DIR --disk-capacity SIZE")
    config: dict[str, Any] = {
        "cpu_bytes_to_use": cache.host_memory_bytes(),
        "secondary_tiers": [{"type": "fs", "root_dir": str(Path(cache.disk) / "vllm-tiering-fs")}],
        "spec_name": "TieringOffloadingSpec",
    }
    if on_cpu:
        config |= {"spec_name": "HostCopyTieringSpec", "spec_module_path": _CPU_MODULE}
    return PeerArguments("OffloadingConnector", config)


def _lmcache(cache: CacheSettings, on_cpu: bool) -> PeerArguments:
    """Return LMCache's settings, in GiB for each worker; the rest, such as chunks of 256 tokens, is as it comes.

    It keys chunks by Python's `hash`, which every process must seed alike: the scheduler looks up what workers store.
    """
    environment = {
        "PYTHONHASHSEED": "0",
        "LMCACHE_TRACK_USAGE": "false",
        "LMCACHE_LOCAL_CPU": "True",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": f"{cache.host_memory_bytes() / (1 << 30):.3f}",
    }
    if cache.disk is not None and cache.disk_capacity is not None:
        environment |= {
            "LMCACHE_LOCAL_DISK": f"file://{Path(cache.disk) / 'lmcache'}/",
            "LMCACHE_MAX_LOCAL_DISK_SIZE": f"{cache.disk_capacity / (1 << 30):.3f}",
        }
    return PeerArguments("LMCacheConnectorV1", {}, environment)


def _no_lmcache(on_cpu: bool) -> str | None:
    if on_cpu:
        return "LMCache needs a GPU"
    if importlib.util.find_spec("lmcache") is None:
        return "the package lmcache is not installed: pip install lmcache"
    return None


PEERS: dict[str, Peer] = {
    "vllm-offload-lru": _offloading("lru"),
    "vllm-offload-arc": _offloading("arc"),
    "vllm-offload-simple": Peer(
        _simple, lambda on_cpu: "SimpleCPUOffloadConnector needs CUDA streams" if on_cpu else None
    ),
    "vllm-tiering-fs": Peer(_tiering),
    "lmcache": Peer(_lmcache, _no_lmcache),
}
"""The alternatives by the names of their configurations."""
