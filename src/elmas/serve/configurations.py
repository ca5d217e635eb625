"""The servers that the benchmark suite compares, as data.

The flag sets are those of the original MT-APC experiments. `noop` is new: it is `apc` plus a connector that does
nothing, because vLLM itself behaves differently as soon as any connector is there.
"""

from dataclasses import dataclass, replace

from elmas.errors import UserError
from elmas.serve.options import Arm, Connector, Flags, ServeOptions, resolve_arm


@dataclass(frozen=True)
class Configuration:
    """One named server: what it is for, and the arm it stands for."""

    name: str
    summary: str
    arm: Arm

    def apply(self, base: ServeOptions) -> ServeOptions:
        """Return `base` (model, address, sizes, policy) as this configuration serves it."""
        cache = base.cache.model_copy(update={"async_copies": self.arm.async_copies, "reorder": self.arm.reorder})
        return replace(base, connector=self.arm.connector, prefix_caching=self.arm.prefix_caching, cache=cache)


_MULTI_TIER = Flags(prefix_caching=True, multi_tier=True)

CONFIGURATIONS: dict[str, Configuration] = {
    configuration.name: configuration
    for configuration in (
        Configuration("no-apc", "vLLM without prefix caching", resolve_arm(Flags(), None, no_prefix_caching=True)),
        Configuration("apc", "vLLM's own prefix caching", resolve_arm(Flags(prefix_caching=True))),
        Configuration("noop", "prefix caching and a connector that does nothing", Arm(Connector.NOOP)),
        Configuration("mt-apc", "everything on", resolve_arm(Flags())),
        Configuration("mt-apc-only-mt", "host tier, copies wait, no reordering", resolve_arm(_MULTI_TIER)),
        Configuration(
            "mt-apc-only-async",
            "host tier, copies overlap, no reordering",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True)),
        ),
        Configuration(
            "mt-apc-only-sched",
            "host tier, copies wait, reordering",
            resolve_arm(replace(_MULTI_TIER, prefix_aware_scheduling=True)),
        ),
        Configuration(
            "mt-apc-no-prefetch",
            "host tier, copies overlap, reordering; the same as mt-apc while there is no disk tier",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True, prefix_aware_scheduling=True)),
        ),
        Configuration(
            "mt-apc-no-sched",
            "everything but reordering",
            resolve_arm(replace(_MULTI_TIER, async_swapping=True, async_prefetching=True)),
        ),
    )
}
"""The configurations by name, in the order in which results show them."""


def configuration(name: str) -> Configuration:
    """Return the configuration called `name`; raises UserError with the known names for any other."""
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        raise UserError(f"unknown server {name!r}: choose from {', '.join(CONFIGURATIONS)}") from None
