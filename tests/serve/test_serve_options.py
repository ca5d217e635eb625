"""The rule that turns `--enable-*` flags into an arm, and the named configurations built with it."""

import contextlib
import itertools
import json
from dataclasses import replace

import pytest

from elmas.errors import UserError
from elmas.serve.configurations import CONFIGURATIONS, configuration
from elmas.serve.options import Arm, Connector, Flags, ServeOptions, resolve_arm
from elmas.settings import CacheSettings

NONE = Flags()
PREFIX = Flags(prefix_caching=True)
TIERED = Flags(multi_tier=True)
COMPLETE = Arm(Connector.MT_APC, async_copies=True, reorder=True, prefetch=True)


@pytest.mark.parametrize(
    ("flags", "connector", "no_prefix_caching", "arm"),
    [
        (NONE, None, False, COMPLETE),
        (NONE, Connector.MT_APC, False, COMPLETE),
        (NONE, Connector.NOOP, False, Arm(Connector.NOOP)),
        (NONE, Connector.NONE, False, Arm(Connector.NONE)),
        (NONE, None, True, Arm(Connector.NONE, prefix_caching=False)),
        (NONE, Connector.NONE, True, Arm(Connector.NONE, prefix_caching=False)),
        (PREFIX, None, False, Arm(Connector.NONE)),
        (PREFIX, Connector.NOOP, False, Arm(Connector.NOOP)),
        (TIERED, None, False, Arm(Connector.MT_APC)),
        (replace(TIERED, prefix_caching=True), Connector.MT_APC, False, Arm(Connector.MT_APC)),
        (replace(TIERED, async_swapping=True), None, False, Arm(Connector.MT_APC, async_copies=True)),
        (replace(TIERED, prefix_aware_scheduling=True), None, False, Arm(Connector.MT_APC, reorder=True)),
        (replace(TIERED, async_prefetching=True), None, False, Arm(Connector.MT_APC, prefetch=True)),
        (Flags(True, True, True, True, True), None, False, COMPLETE),
    ],
)
def test_flags_select_exactly_what_they_name(
    flags: Flags, connector: Connector | None, no_prefix_caching: bool, arm: Arm
) -> None:
    assert resolve_arm(flags, connector, no_prefix_caching) == arm


@pytest.mark.parametrize(
    ("flags", "connector", "no_prefix_caching", "message"),
    [
        (Flags(async_swapping=True), None, False, "add that flag"),
        (Flags(prefix_aware_scheduling=True), None, False, "--enable-prefix-aware-scheduling needs"),
        (Flags(prefix_caching=True, async_prefetching=True), None, False, "--enable-multi-tier-prefix-caching"),
        (PREFIX, Connector.MT_APC, False, "add --enable-multi-tier-prefix-caching"),
        (TIERED, Connector.NOOP, False, "contradicts"),
        (TIERED, Connector.NONE, False, "contradicts"),
        (TIERED, None, True, "--no-enable-prefix-caching"),
        (PREFIX, None, True, "--no-enable-prefix-caching"),
        (NONE, Connector.MT_APC, True, "--no-enable-prefix-caching"),
    ],
)
def test_contradicting_flags_are_refused(
    flags: Flags, connector: Connector | None, no_prefix_caching: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve_arm(flags, connector, no_prefix_caching)


def test_every_combination_is_a_sound_arm_or_refused() -> None:
    for given in itertools.product([False, True], repeat=5):
        for connector, off in itertools.product([None, *Connector], [False, True]):
            with contextlib.suppress(UserError):
                arm = resolve_arm(Flags(*given), connector, off)
                assert arm.prefix_caching or arm.connector is not Connector.MT_APC
                assert arm.connector is Connector.MT_APC or not (arm.async_copies or arm.reorder or arm.prefetch)


@pytest.mark.parametrize(
    ("name", "connector", "prefix_caching", "async_copies", "reorder", "prefetch"),
    [
        ("no-apc", Connector.NONE, False, False, False, False),
        ("apc", Connector.NONE, True, False, False, False),
        ("noop", Connector.NOOP, True, False, False, False),
        ("mt-apc", Connector.MT_APC, True, True, True, True),
        ("mt-apc-only-mt", Connector.MT_APC, True, False, False, False),
        ("mt-apc-only-async", Connector.MT_APC, True, True, False, False),
        ("mt-apc-only-sched", Connector.MT_APC, True, False, True, False),
        ("mt-apc-no-prefetch", Connector.MT_APC, True, True, True, False),
        ("mt-apc-no-sched", Connector.MT_APC, True, True, False, True),
    ],
)
def test_configurations_are_those_of_the_original(
    name: str, connector: Connector, prefix_caching: bool, async_copies: bool, reorder: bool, prefetch: bool
) -> None:
    cache = CacheSettings.parse({"disk": "/kv", "disk_capacity": "1GiB"})
    base = ServeOptions(model="m", port=9000, cache=cache, vllm_arguments=("--seed", "1"))
    options = configuration(name).apply(base, "cpu")
    assert (options.connector, options.prefix_caching) == (connector, prefix_caching)
    assert (options.cache.async_copies, options.cache.reorder) == (async_copies, reorder)
    assert (options.cache.prefetch, options.cache.disk) == (prefetch, "/kv")
    assert (options.model, options.port, options.vllm_arguments) == ("m", 9000, ("--seed", "1"))


def test_unknown_configuration_names_the_known_ones() -> None:
    with pytest.raises(UserError) as raised:
        configuration("mt-acp")
    for name in CONFIGURATIONS:
        assert name in str(raised.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [name for name, each in CONFIGURATIONS.items() if each.peer is not None])
def test_a_peer_gets_the_sizes_of_the_host_tier_and_nothing_of_elmas(name: str, device: str) -> None:
    cache = CacheSettings.parse({"host_memory": "64MiB", "disk": "/kv", "disk_capacity": "1GiB"})
    base = ServeOptions(model="m", cache=cache, vllm_arguments=("--seed", "1"))
    options = configuration(name).apply(base, device)
    assert options.connector is Connector.NONE
    assert options.vllm_arguments[:3] == ("--seed", "1", "--kv-transfer-config")
    config = json.loads(options.vllm_arguments[3])
    assert "Elmas" not in config["kv_connector"]
    sizes = config["kv_connector_extra_config"].get("cpu_bytes_to_use"), options.environment
    assert sizes in [(64 << 20, {}), (None, {**options.environment, "LMCACHE_MAX_LOCAL_CPU_SIZE": "0.062"})]


def test_lmcache_gets_its_sizes_in_gib_one_hash_seed_for_all_its_processes_and_reports_to_nobody() -> None:
    cache = CacheSettings.parse({"host_memory": "256MiB"})
    memory = configuration("lmcache").apply(ServeOptions(model="m", cache=cache), "cuda")
    assert json.loads(memory.vllm_arguments[-1])["kv_connector"] == "LMCacheConnectorV1"
    assert memory.environment == {
        "PYTHONHASHSEED": "0",
        "LMCACHE_TRACK_USAGE": "false",
        "LMCACHE_LOCAL_CPU": "True",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": "0.250",
    }
    cache = CacheSettings.parse({"host_memory": "256MiB", "disk": "/kv", "disk_capacity": "100GiB"})
    disk = configuration("lmcache").apply(ServeOptions(model="m", cache=cache), "cuda")
    assert disk.environment == {
        **memory.environment,
        "LMCACHE_LOCAL_DISK": "file:///kv/lmcache/",
        "LMCACHE_MAX_LOCAL_DISK_SIZE": "100.000",
    }


def test_what_cannot_run_here_says_why() -> None:
    assert configuration("vllm-offload-lru").unavailable("cpu") is None
    assert "GPU" in (configuration("lmcache").unavailable("cpu") or "")
    assert "CUDA" in (configuration("vllm-offload-simple").unavailable("cpu") or "")
    with pytest.raises(UserError, match="--disk"):
        configuration("vllm-tiering-fs").apply(ServeOptions(model="m"), "cpu")
