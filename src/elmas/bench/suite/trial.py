"""The result of one trial (one workload played once on one server) and its file.

A file is complete in itself: what was run, on which machine, and everything measured. Whoever reads results needs
nothing else. Its place is DIR/workload/server/trial-N.json, N counted from 1.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from elmas.bench.machine import Usage
from elmas.bench.summary import Metrics
from elmas.errors import UserError

FORMAT = 1
"""Of the file; raised when an old reader would misunderstand a new file."""

Status = Literal["done", "crashed", "skipped"]


@dataclass(frozen=True)
class WorkloadPart:
    """What was played."""

    name: str
    seed: int
    scale: float
    source: str
    """"synthetic", or the file of the data set."""
    n_requests: int
    working_set_tokens: int | None
    parameters: dict[str, Any]
    """All numbers of the workload after scaling."""


@dataclass(frozen=True)
class ServerPart:
    """What it was played on."""

    name: str
    """A configuration, perhaps with settings of the cache ("mt-apc:policy=lru"), or "endpoint"."""
    command: str
    """The exact command as a line for a shell; for an endpoint its URL."""
    parameters: dict[str, Any]
    """Sizes and arguments that all servers of the comparison have in common."""
    block_size: int | None = None
    """Tokens per KV block; None where it is not known."""
    ready_s: float | None = None
    """From the start of the server until it answered; None for an endpoint."""
    fresh: bool = True
    """False: it had played another workload before, and its caches were emptied."""


@dataclass(frozen=True)
class TokenCounts:
    """Prompt tokens by where their KV came from, as the server counted them: one denominator, their sum `prompt`."""

    prompt: int
    device: int
    host: int
    disk: int
    recomputed: int
    preemptions: int = 0


@dataclass(frozen=True)
class TierBytes:
    """Bytes moved between tiers; None where the server does not count them."""

    device_to_host: int | None = None
    host_to_device: int | None = None
    host_to_disk: int | None = None
    disk_to_host: int | None = None


@dataclass(frozen=True)
class Failure:
    """A request without a complete answer."""

    agent: str
    turn: int
    error: str


@dataclass(frozen=True)
class Lag:
    """How late the client itself was, in seconds."""

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True)
class Round:
    """One barrier round or phase; times are seconds since the workload began."""

    round: int
    begin_s: float
    end_s: float
    n: int
    """Requests."""
    ttft_mean_s: float | None


@dataclass(frozen=True)
class RequestColumns:
    """One entry per request, in the order in which they were sent; times are seconds since the workload began."""

    agent: list[str]
    turn: list[int]
    round: list[int]
    submitted_s: list[float]
    ttft_s: list[float | None]
    e2el_s: list[float]
    n_in: list[int]
    n_out: list[int]
    cached: list[int | None]
    """Prompt tokens that the server did not compute; None where it does not say."""
    answer: list[str]
    """The beginning of the SHA-256 of every answer: shows which answers of two servers differ."""


@dataclass(frozen=True)
class CounterCheck:
    """One figure of the client beside the server's own count of it."""

    name: str
    client: float
    server: float
    agrees: bool


@dataclass(frozen=True)
class WarmUp:
    """What was sent before the measurement began."""

    n_requests: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One workload on one server, once. What was not measured is None: all figures of a skipped or crashed trial."""

    workload: WorkloadPart
    server: ServerPart
    trial: int
    """From 0."""
    status: Status
    begun: str
    """ISO 8601, UTC."""
    machine: dict[str, Any]
    versions: dict[str, str]
    invocation: str = ""
    """The command that ran the benchmark."""
    format: int = FORMAT
    reason: str | None = None
    """Why it was skipped, or how it crashed, with the end of the server's log; of a trial that is done, why its caches
    could not be emptied before."""
    warmup: WarmUp | None = None
    metrics: Metrics | None = None
    tokens: TokenCounts | None = None
    infinite_hit_rate: float | None = None
    """Share of the prompt tokens that a cache without limits would have served, from 0 to 1."""
    bytes: TierBytes | None = None
    events: dict[str, float] = field(default_factory=dict)
    """Counters of elmas during the trial, by metric, those that are not 0."""
    failures: list[Failure] = field(default_factory=list)
    request_digest: str | None = None
    """Equal digests mean equal requests."""
    output_digest: str | None = None
    """Equal digests mean equal answers."""
    lag: Lag | None = None
    usage: Usage | None = None
    rounds: list[Round] = field(default_factory=list)
    requests: RequestColumns | None = None
    counters_check: list[CounterCheck] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """What must not happen and did; empty for a sound trial."""

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompt tokens that any tier served, from 0 to 1; None when nothing was counted."""
        if self.tokens is None or not self.tokens.prompt:
            return None
        return 1 - self.tokens.recomputed / self.tokens.prompt


_ADAPTER = TypeAdapter(Trial)


def trial_path(directory: Path, workload: str, server: str, trial: int) -> Path:
    """Return where the file of a trial (from 0) belongs."""
    return directory / file_name(workload) / file_name(server) / f"trial-{trial + 1}.json"


def file_name(name: str) -> str:
    """Return the name of a workload or server in a form that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "+", name)


def write_trial(directory: Path, trial: Trial) -> Path:
    """Write the file of a trial, whole or not at all, and return its path."""
    path = trial_path(directory, trial.workload.name, trial.server.name, trial.trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _ADAPTER.dump_python(trial, mode="json")
    # One line per part: a diff or a pager shows what changed, and columns do not become thousands of lines.
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items())
    scratch = path.with_suffix(".partial")
    scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    scratch.replace(path)
    return path


def read_trial(path: Path) -> Trial:
    """Return the trial in a file; raises UserError when it is none."""
    try:
        trial = _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is no result of elmas bench run ({where}: {first['msg']})") from None
    if trial.format != FORMAT:
        raise UserError(f"{path} has format {trial.format}, this elmas reads {FORMAT}: use the elmas that wrote it")
    return trial


def read_trials(directory: Path) -> list[Trial]:
    """Return all trials below a result directory, by workload, server and trial; raises UserError for a bad file."""
    trials = [read_trial(path) for path in sorted(directory.glob("*/*/trial-*.json"))]
    return sorted(trials, key=lambda each: (each.workload.name, each.server.name, each.trial))
