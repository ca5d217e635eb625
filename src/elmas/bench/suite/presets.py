"""The runs that have a name: the original's experiments, and the comparison with every peer on one large GPU."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from elmas.bench.arms import BLOCK_SIZE
from elmas.bench.rounds import RoundsWorkload
from elmas.bench.suite.plan import ServerSettings, SuitePlan
from elmas.bench.summary import PERCENTILES
from elmas.bench.workloads.catalog import MULTI_AGENT, STANDARD, workload
from elmas.bench.workloads.workload import Datasets, Workload
from elmas.errors import UserError

DEFAULT_SERVERS = ("noop", "apc", "mt-apc")

ORIGINAL_SERVERS = (
    "no-apc",
    "apc",
    "mt-apc",
    "mt-apc-only-mt",
    "mt-apc-only-async",
    "mt-apc-only-sched",
    "mt-apc-no-prefetch",
    "mt-apc-no-sched",
)
_MULTI_AGENT_SERVERS = ("no-apc", "apc", "mt-apc", "mt-apc-no-sched")

CPU_SCALE = 0.02
"""Of the workloads on a machine without a GPU, unless another one is asked for."""

_DEVICE_TOKENS = 8192
"""As in the original: one request of the longest kind fills the device cache, so that there is pressure anywhere."""

GPU_BLOCK_SIZE = 16
_GPU_MEMORY_TOKENS = 432_000
"""Of Llama 3 8B's KV in 80 GB, the device cache that the original gave to its multi-agent workloads."""

GPU_ARGUMENTS = (
    *("--load-format", "dummy"),
    *("--max-num-batched-tokens", "8192"),
    *("--compilation-config", json.dumps({"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"})),
)
"""For the shape of a published model on one large GPU."""
_GPU_SERVERS = ("apc", "noop", "vllm-offload-lru", "vllm-offload-arc", "vllm-offload-simple", "lmcache", "mt-apc")
_GPU_SWITCHES = (
    *("async_copies=false", "reorder=false", "gather=false", "entrance=false"),
    *("load=false", "store=false", "hints=false", "policy=lru"),
)
_GPU_DISK_SERVERS = ("vllm-tiering-fs", "mt-apc-no-disk")
_GPU_DISK_SWITCHES = ("prefetch=false", "cost_gate=false", "disk_write=false")
_GPU_WORKLOADS = ("rounds_a", "rounds_b", "rounds_c", "no_reuse")
_GPU_NO_REUSE_AGENTS = 240


@dataclass(frozen=True)
class Choices:
    """What a person chose; None where the run decides."""

    model: Path
    device: str
    """"cpu" or "cuda"."""
    benchmarks: tuple[str, ...] | None = None
    servers: tuple[str, ...] | None = None
    n_trials: int | None = None
    scale: float | None = None
    seed: int = 42
    datasets: Datasets = field(default_factory=Datasets)
    n_device_blocks: int | None = None
    block_size: int | None = None
    host_memory: str | None = None
    disk: Path | None = None
    disk_capacity: str | None = None
    max_running: int | None = None
    max_model_len: int | None = None
    fresh_servers: bool | None = None
    restarts: bool = False
    profiling: bool = False
    percentiles: tuple[float, ...] = PERCENTILES
    vllm_arguments: tuple[str, ...] = ()

    def plan(
        self,
        benchmarks: Sequence[str],
        servers: Sequence[str],
        n_trials: int,
        *,
        host_memory: str,
        device_tokens: int = _DEVICE_TOKENS,
        scale: float | None = None,
        max_running: int | None = None,
    ) -> SuitePlan:
        """Return the plan of these choices, with the arguments where nothing was chosen.

        Raises UserError for unknown names and for sizes that cannot work.
        """
        on_cpu = self.device == "cpu"
        scale = self.scale or scale or (CPU_SCALE if on_cpu else 1.0)
        if scale < 0:
            raise UserError(f"--scale is {scale}: give a number above 0")
        block_size = self.block_size or (BLOCK_SIZE if on_cpu else GPU_BLOCK_SIZE)
        settings = ServerSettings(
            model=self.model,
            n_device_blocks=self.n_device_blocks or device_tokens // block_size,
            block_size=block_size,
            host_memory=self.host_memory or host_memory,
            disk=self.disk,
            disk_capacity=self.disk_capacity,
            max_running=self.max_running or max_running,
            max_model_len=self.max_model_len,
            vllm_arguments=self.vllm_arguments,
            profiling=self.profiling,
        )
        names = self.benchmarks or tuple(benchmarks)
        plan = SuitePlan(
            workloads=tuple(self._workload(name, scale) for name in names),
            servers=self.servers or tuple(servers),
            n_trials=self.n_trials if self.n_trials is not None else n_trials,
            settings=settings,
            scale=scale,
            fresh_servers=self.restarts or (not on_cpu if self.fresh_servers is None else self.fresh_servers),
            restarts=self.restarts,
            percentiles=self.percentiles,
        )
        plan.check()
        return plan

    def _workload(self, name: str, scale: float) -> Workload:
        found = workload(name, seed=self.seed, datasets=self.datasets)
        return found if scale == 1 else found.scaled(scale)


def plan_run(choices: Choices) -> SuitePlan:
    """Return the plan of `elmas bench run`."""
    return choices.plan((*STANDARD, *MULTI_AGENT), DEFAULT_SERVERS, 3, host_memory="2GiB")


def plan_experiments(choices: Choices) -> tuple[SuitePlan, SuitePlan]:
    """Return the original's two sets of experiments, with host memory as large as the device cache as there."""
    on_cpu = choices.device == "cpu"
    standard = choices.plan(STANDARD, ORIGINAL_SERVERS, 5, host_memory="128MiB" if on_cpu else "1GiB")
    multi_agent = choices.plan(
        MULTI_AGENT,
        _MULTI_AGENT_SERVERS,
        3,
        host_memory="128MiB" if on_cpu else "16GiB",
        device_tokens=_DEVICE_TOKENS if on_cpu else _GPU_MEMORY_TOKENS,
    )
    return standard, multi_agent


def plan_gpu(choices: Choices) -> SuitePlan:
    """Return the comparison with every peer, and with each mechanism switched off in turn.

    Servers with a disk take part where one is given.
    """
    has_disk = choices.disk is not None
    switches = _GPU_SWITCHES + (_GPU_DISK_SWITCHES if has_disk else ())
    servers = (*_GPU_SERVERS, *(_GPU_DISK_SERVERS if has_disk else ()), *(f"mt-apc:{switch}" for switch in switches))
    choices = replace(choices, vllm_arguments=(*GPU_ARGUMENTS, *choices.vllm_arguments))
    plan = choices.plan(
        _GPU_WORKLOADS, servers, 1, host_memory="40GiB", device_tokens=4096 * 16, scale=1.0, max_running=256
    )
    # Long enough on a large GPU to show a difference of a hundredth.
    n_agents = max(1, round(_GPU_NO_REUSE_AGENTS * plan.scale))
    workloads = tuple(
        replace(each, n_agents=n_agents) if isinstance(each, RoundsWorkload) and not each.reuse else each
        for each in plan.workloads
    )
    return replace(plan, workloads=workloads)


def parse_datasets(items: Sequence[str]) -> Datasets:
    """Return the files named as NAME=PATH; raises UserError for unknown names and missing files."""
    known = [each.name for each in fields(Datasets)]
    paths: dict[str, Path] = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not separator or name not in known:
            raise UserError(f"--dataset {item!r}: write NAME=PATH with one of the names {', '.join(known)}")
        if not Path(path).exists():
            raise UserError(f"--dataset {name}: {path} does not exist")
        paths[name] = Path(path)
    return Datasets(**paths)
