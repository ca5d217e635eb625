"""What a user may ask of a server, and the rule that turns `--enable-*` flags into an arm.

Knows no command line parser and no vLLM: `elmas serve` and the benchmark suite both fill these dataclasses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from elmas.errors import UserError
from elmas.settings import CacheSettings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000


class Connector(StrEnum):
    """What is plugged into vLLM: the whole of elmas, a connector that does nothing (the control), or nothing."""

    MT_APC = "mt-apc"
    NOOP = "noop"
    NONE = "none"


@dataclass(frozen=True)
class Flags:
    """The `--enable-*` flags as given on a command line; all False means that none was given."""

    prefix_caching: bool = False
    multi_tier: bool = False
    async_swapping: bool = False
    prefix_aware_scheduling: bool = False
    async_prefetching: bool = False

    @property
    def given(self) -> bool:
        """Whether at least one flag was given."""
        return self.prefix_caching or self.multi_tier or self.needing_multi_tier != ()

    @property
    def needing_multi_tier(self) -> tuple[str, ...]:
        """The given flags that mean nothing without the host tier, as written on a command line."""
        named = {
            "--enable-async-swapping": self.async_swapping,
            "--enable-prefix-aware-scheduling": self.prefix_aware_scheduling,
            "--enable-async-prefetching": self.async_prefetching,
        }
        return tuple(name for name, given in named.items() if given)


@dataclass(frozen=True)
class Arm:
    """One server variant: the connector, vLLM's own prefix caching, and the mechanisms of elmas that have a flag.

    `prefetch` counts only where the server has a disk tier.
    """

    connector: Connector
    prefix_caching: bool = True
    async_copies: bool = False
    reorder: bool = False
    prefetch: bool = False


def resolve_arm(flags: Flags, connector: Connector | None = None, no_prefix_caching: bool = False) -> Arm:
    """Return the arm that flags, `--connector` (None: not given) and `--no-enable-prefix-caching` select together.

    Without any flag everything is on. As soon as one is given, exactly the named mechanisms are on. Raises UserError
    for combinations that contradict each other.
    """
    if no_prefix_caching:
        if flags.given or connector is Connector.MT_APC:
            raise UserError(
                "--no-enable-prefix-caching turns off what --enable-* and --connector mt-apc build on: drop one of them"
            )
        return Arm(connector or Connector.NONE, prefix_caching=False)
    if not flags.given:
        chosen = connector or Connector.MT_APC
        complete = chosen is Connector.MT_APC
        return Arm(chosen, async_copies=complete, reorder=complete, prefetch=complete)
    if not flags.multi_tier:
        if flags.needing_multi_tier:
            raise UserError(f"{flags.needing_multi_tier[0]} needs --enable-multi-tier-prefix-caching: add that flag")
        if connector is Connector.MT_APC:
            raise UserError(
                "--enable-prefix-caching alone is vLLM's own prefix caching: "
                "add --enable-multi-tier-prefix-caching or drop --connector mt-apc"
            )
        return Arm(connector or Connector.NONE)
    if connector not in (None, Connector.MT_APC):
        raise UserError(f"--connector {connector} contradicts --enable-multi-tier-prefix-caching: drop one of the two")
    return Arm(
        Connector.MT_APC,
        async_copies=flags.async_swapping,
        reorder=flags.prefix_aware_scheduling,
        prefetch=flags.async_prefetching,
    )


@dataclass(frozen=True)
class ServeOptions:
    """Everything that determines a server's command line.

    `cache` counts only with Connector.MT_APC; its `async_copies`, `reorder` and `prefetch` are the arm's mechanisms.
    `device_memory_bytes` is the memory for KV blocks on the device (None: vLLM decides). `profile_dir` switches the
    torch profiler on and takes its traces. `dev_mode` opens vLLM's development routes (benchmarks reset the caches
    through them). `environment` are variables that the server gets in addition. `vllm_arguments` go to vLLM unchanged
    and in order.
    """

    model: str
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    device: str = "auto"
    connector: Connector = Connector.MT_APC
    prefix_caching: bool = True
    cache: CacheSettings = field(default_factory=lambda: CacheSettings.parse({}))
    device_memory_bytes: int | None = None
    profile_dir: Path | None = None
    dev_mode: bool = False
    api_key: str | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict)
    vllm_arguments: tuple[str, ...] = ()
