"""What a run of the suite consists of, and in which order. Starts nothing and sends nothing.

A *trial* is one workload played once on one server. A *session* is one server from its start to its stop: it plays one
workload, or, where caches can be emptied, one after the other. The trials of all servers are interleaved, and every
second trial visits the servers in reverse order, so that a machine that grows slower or faster during the run does not
favour one of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from elmas.bench.arms import ServerShape
from elmas.bench.suite.trial import WorkloadPart
from elmas.bench.summary import PERCENTILES
from elmas.bench.workloads.workload import Workload
from elmas.errors import UserError
from elmas.serve.configurations import configuration

ENDPOINT = "endpoint"
"""The name in the results of a server that the suite did not start."""

TRACES = "traces"
"""The folder of profiles below a result directory."""

_LEAST_RUNNING = 8
_MOST_RUNNING = 256


@dataclass(frozen=True)
class ServerSettings:
    """What all servers of a run have in common, whatever the workload."""

    model: Path
    n_device_blocks: int
    block_size: int
    host_memory: str
    disk: Path | None = None
    disk_capacity: str | None = None
    max_running: int | None = None
    """None: as many requests as the device cache holds, between 8 and 256."""
    max_model_len: int | None = None
    """None: what the longest request needs."""
    vllm_arguments: tuple[str, ...] = ()
    profiling: bool = False
    """Whether servers have a profiler that runs during each trial, which makes them slower."""

    def shape(self, workloads: Sequence[Workload]) -> ServerShape:
        """Return the server that can play all of `workloads`; raises UserError when its sizes cannot work."""
        longest = max(workload.longest_request_tokens for workload in workloads)
        if self.max_model_len is not None and self.max_model_len < longest:
            name = max(workloads, key=lambda workload: workload.longest_request_tokens).name
            raise UserError(f"--max-model-len is {self.max_model_len}: {name} has requests of {longest} tokens")
        held = (self.n_device_blocks - 1) * self.block_size // longest
        shape = ServerShape(
            model=self.model,
            n_device_blocks=self.n_device_blocks,
            max_model_len=self.max_model_len or longest,
            host_memory=self.host_memory,
            max_running=self.max_running or min(max(held, _LEAST_RUNNING), _MOST_RUNNING),
            vllm_arguments=self.vllm_arguments,
            block_size=self.block_size,
            disk=self.disk,
            disk_capacity=self.disk_capacity,
            profile_dir=Path(TRACES) if self.profiling else None,
        )
        shape.check()
        return shape


@dataclass(frozen=True)
class SuitePlan:
    """Everything that decides what is run."""

    workloads: tuple[Workload, ...]
    """Already scaled."""
    servers: tuple[str, ...]
    """Names of configurations, which settings of the cache may follow; or only `ENDPOINT`."""
    n_trials: int
    settings: ServerSettings
    scale: float = 1.0
    fresh_servers: bool = False
    """Whether every trial gets a server of its own. Otherwise all servers are as large as the largest workload needs,
    also those that play only one."""
    percentiles: tuple[float, ...] = PERCENTILES
    restarts: bool = False
    """Whether each server is stopped after its workload and started again with the same disk, to play it once more;
    only with `fresh_servers`."""

    def check(self) -> None:
        """Raise UserError for what cannot be run, before anything is started."""
        if self.n_trials < 1:
            raise UserError("--num-trials must be at least 1")
        if (self.settings.disk is None) != (self.settings.disk_capacity is None):
            raise UserError("--disk and --disk-capacity belong together: give both, or none for servers without a disk")
        for what, names in (("--servers", self.servers), ("--benchmarks", [each.name for each in self.workloads])):
            if not names or len(set(names)) != len(names):
                raise UserError(f"{what}: give at least one name, and each only once")
        for name in self.servers:
            base, *changes = name.split(":")
            if base != ENDPOINT and configuration(base).peer is not None and changes:
                raise UserError(f"{name!r} in --servers: settings of the cache mean nothing to {base}")

    @property
    def n_measured(self) -> int:
        """Trials in all."""
        return self.n_trials * len(self.servers) * len(self.workloads) * (2 if self.restarts else 1)


@dataclass(frozen=True)
class Session:
    """One server and the workloads that it plays, in this order."""

    server: str
    trial: int
    workloads: tuple[Workload, ...]


def sessions(plan: SuitePlan) -> list[Session]:
    """Return all sessions in the order in which they run."""
    found = []
    for trial in range(plan.n_trials):
        servers = plan.servers if trial % 2 == 0 else plan.servers[::-1]
        # Fresh servers: all servers of a workload are neighbours in time. Else: all workloads of a server.
        groups = [(each,) for each in plan.workloads] if plan.fresh_servers else [plan.workloads]
        for workloads in groups:
            for server in servers:
                if can_be_emptied(plan, server):
                    found.append(Session(server, trial, workloads))
                else:
                    found.extend(Session(server, trial, (workload,)) for workload in workloads)
    return found


def restarted(part: WorkloadPart) -> WorkloadPart:
    """Return how the results name a workload that was played again after a restart."""
    return replace(part, name=f"{part.name}.restarted")


def can_be_emptied(plan: SuitePlan, server: str) -> bool:
    """Whether all tiers of a server can be emptied while it runs; other connectors keep what they wrote to disk."""
    name = server.split(":")[0]
    return name == ENDPOINT or plan.settings.disk is None or configuration(name).peer is None


def workload_part(workload: Workload, scale: float) -> WorkloadPart:
    """Return a workload as a result describes it."""
    return WorkloadPart(
        name=workload.name,
        seed=workload.seed,
        scale=scale,
        source=workload.source(),
        n_requests=workload.n_requests,
        working_set_tokens=workload.working_set_tokens,
        parameters=_plain(asdict(cast(Any, workload))),
    )


def shape_parameters(shape: ServerShape) -> dict[str, Any]:
    """Return what a result says of a server's sizes: all that its command is made from, but addresses."""
    named = asdict(shape)
    del named["port"]
    # Every server gets a directory of its own below this one; which disk it is decides what is measured.
    return {name: _plain(value) for name, value in named.items()}


def _plain(value: Any) -> Any:
    """Return `value` as it looks after a way through JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)
