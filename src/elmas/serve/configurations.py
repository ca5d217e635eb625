"""The servers that the benchmark suite compares, as data.

The flag sets are those of the original MT-APC experiments. `noop` is new: it is `apc` plus a connector that does
nothing, because vLLM itself behaves differently as soon as any connector is there. Those of `peers` keep blocks outside
the device in other ways.
"""

from dataclasses import dataclass, replace
from typing import Any

from elmas.errors import UserError
from elmas.serve.options import Arm, Connector, Flags, ServeOptions, resolve_arm
from elmas.serve.peers import PEERS, Peer


@dataclass(frozen=True)
class Configuration:
    """One named server: what it is for, and the arm it stands for."""

    name: str
    summary: str
    arm: Arm
    has_disk: bool = True
    """Whether it keeps the disk tier, where there is one."""
    peer: Peer | None = None
    """What brings its own connector, with the sizes of the cache settings."""

    def unavailable(self, device: str) -> str | None:
        """Return why it cannot run on a device ("cpu" or "cuda") of this machine; None when it can."""
        return self.peer.unavailable(device == "cpu") if self.peer is not None else None

    def apply(self, base: ServeOptions, device: str) -> ServeOptions:
        """Return `base` (model, address, sizes, policy, disk) as this configuration serves it on a device.

        Raises UserError when `base` lacks what it needs.
        """
        if self.peer is not None:
            arguments = self.peer.arguments(base.cache, device == "cpu")
            return replace(
                base,
                connector=self.arm.connector,
                prefix_caching=self.arm.prefix_caching,
                environment={**base.environment, **arguments.environment},
                vllm_arguments=(*base.vllm_arguments, *arguments.vllm_arguments()),
            )
        changes: dict[str, Any] = {name: getattr(self.arm, name) for name in ("async_copies", "reorder", "prefetch")}
        if not self.has_disk:
            changes |= {"disk": None, "disk_capacity": None}
        cache = base.cache.model_copy(update=changes)
        return replace(base, connector=self.arm.connector, prefix_caching=self.arm.prefix_caching, cache=cache)


_MULTI_TIER = Flags(prefix_caching=True, multi_tier=True)
_PEER = Arm(Connector.NONE)

CONFIGURATIONS: dict[str, Configuration] = {
    configuration.name: configuration
    for configuration in (
        Configuration("no-apc", "vLLM without prefix caching", resolve_arm(Flags(), None, no_prefix_caching=True)),
        Configuration("apc", "vLLM's own prefix caching", resolve_arm(Flags(prefix_caching=True))),
        Configuration("noop", "prefix caching and a connector that does nothing", Arm(Connector.NOOP)),
        Configuration("mt-apc", "everything on", resolve_arm(Flags())),
        Configuration("mt-apc-no-disk", "everything but the disk tier", resolve_arm(Flags()), has_disk=False),
        Configuration("mt-apc-only-mt", "the tiers; copies wait, no reordering, no prefetch", resolve_arm(_MULTI_TIER)),
        Configuration(
            "mt-apc-only-async",
            "the tiers; copies overlap, no reordering, no prefetch",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True)),
        ),
        Configuration(
            "mt-apc-only-sched",
            "the tiers; copies wait, reordering, no prefetch",
            resolve_arm(replace(_MULTI_TIER, prefix_aware_scheduling=True)),
        ),
        Configuration(
            "mt-apc-no-prefetch",
            "everything but prefetch: reads from disk begin when the request's turn has come",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True, prefix_aware_scheduling=True)),
        ),
        Configuration(
            "mt-apc-no-sched",
            "everything but reordering",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True, async_prefetching=True)),
        ),
        Configuration("vllm-offload-lru", "vLLM's host tier, LRU", _PEER, False, PEERS["vllm-offload-lru"]),
        Configuration("vllm-offload-arc", "vLLM's host tier, ARC", _PEER, False, PEERS["vllm-offload-arc"]),
        Configuration("vllm-offload-simple", "vLLM's other host tier", _PEER, False, PEERS["vllm-offload-simple"]),
        Configuration("vllm-tiering-fs", "vLLM's host tier and files", _PEER, True, PEERS["vllm-tiering-fs"]),
        Configuration("lmcache", "LMCache: host memory, and disk where there is one", _PEER, True, PEERS["lmcache"]),
    )
}
"""The configurations by name, in the order in which results show them."""


def configuration(name: str) -> Configuration:
    """Return the configuration called `name`; raises UserError with the known names for any other."""
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        raise UserError(f"unknown server {name!r}: choose from {', '.join(CONFIGURATIONS)}") from None
