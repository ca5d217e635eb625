"""Runs a plan: starts and stops servers, plays the workloads on them, and writes one file per trial.

A server that does not start or dies costs its own trials only: they are recorded with the end of its log.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx

from elmas.bench.arms import MODEL_NAME, ServerShape, arm_command, running_server
from elmas.bench.counters import read_block_size
from elmas.bench.machine import describe_machine, describe_versions
from elmas.bench.progress import RunProgress
from elmas.bench.suite.measure import Client, caches_are_empty, measure, warm_up
from elmas.bench.suite.plan import TRACES, Session, SuitePlan, restarted, sessions, shape_parameters, workload_part
from elmas.bench.suite.resume import LOGS, is_finished
from elmas.bench.suite.servers import ExternalServer, RunningServer, block_bytes, own_disk
from elmas.bench.suite.time_left import TimeLeft, about
from elmas.bench.suite.trial import ServerPart, Trial, file_name, write_trial
from elmas.bench.workloads.workload import Workload
from elmas.errors import UserError
from elmas.serve.configurations import configuration
from elmas.serve.process import log_tail

_BLOCK_TOKENS = 16
"""Assumed where a server does not say how large its blocks are."""


@dataclass
class SuiteRun:
    """One execution of a plan."""

    plan: SuitePlan
    directory: Path
    """Where results and logs go."""
    progress: RunProgress
    client: Client = field(default_factory=lambda: Client(MODEL_NAME))
    endpoint: ExternalServer | None = None
    """What to measure instead of servers of our own."""
    invocation: str = ""
    """The command of this run, for the results."""
    on_trial: Callable[[Trial], None] = lambda trial: None
    """Gets every result, after its file was written."""
    device: str = "cpu"
    """On which servers of ours run: "cpu" or "cuda"."""

    def __post_init__(self) -> None:
        self._time_left = TimeLeft()
        self._todo: deque[Session] = deque()
        self._machine, self._versions = describe_machine(), describe_versions()

    def run(self) -> None:
        """Run what is not finished yet; raises UserError at once for servers whose commands cannot be right."""
        self.plan.check()
        self._todo.extend(self._missing())
        while self._todo:
            session = self._todo.popleft()
            reason = self._unavailable(session.server)
            if reason is None:
                self._run_session(session)
            else:
                for workload in session.workloads:
                    self._keep(replace(self._blank(session, workload), status="skipped", reason=reason))

    def _missing(self) -> Iterator[Session]:
        """Yield all sessions with the workloads that have no result yet. Checks every server that will be started."""
        for session in sessions(self.plan):
            missing = tuple(each for each in session.workloads if not self._finished(session, each))
            if not missing:
                continue
            if self.endpoint is None and self._unavailable(session.server) is None:
                with own_disk(self._shape(session)) as shape:
                    arm_command(session.server, shape)  # what cannot work should show now, not after an hour
            yield replace(session, workloads=missing)

    def _finished(self, session: Session, workload: Workload) -> bool:
        blank = self._blank(session, workload)
        again = replace(blank, workload=restarted(blank.workload))
        return all(is_finished(self.directory, each) for each in ([blank, again] if self.plan.restarts else [blank]))

    def _run_session(self, session: Session) -> None:
        """Play the session's workloads on one server, or on a new one whenever it has died or cannot be emptied."""
        remaining = deque(session.workloads)
        while remaining:
            log_path = self.directory / LOGS / f"{file_name(_title(session, remaining[0]))}.log"
            self.progress.stage(f"{session.server}, trial {session.trial + 1}: starting the server")
            started = False
            try:
                with ExitStack() as disk:
                    shape = None if self.endpoint is not None else disk.enter_context(own_disk(self._shape(session)))
                    with self._server(session, shape, log_path) as (server, part):
                        started = True
                        self._play(session, remaining, server, part)
                    if self.plan.restarts:
                        log_path = log_path.with_suffix(".again.log")
                        self.progress.stage(f"{session.server}, trial {session.trial + 1}: starting the server again")
                        with self._server(session, shape, log_path) as (server, part):
                            self._play_again(session, server, part)
            except (UserError, httpx.HTTPError) as error:
                tail = log_tail(log_path) if started and log_path.exists() else ""
                for blank in self._lost(session, remaining, started):
                    self._keep(replace(blank, status="crashed", reason=f"{error}{tail}"))

    def _lost(self, session: Session, remaining: deque[Workload], started: bool) -> list[Trial]:
        """Return the trials that a crash costs, and take their workloads from those that remain."""
        if not remaining:
            blank = self._blank(session, session.workloads[-1])
            return [replace(blank, workload=restarted(blank.workload))]
        # A server that does not start would not start for the other workloads either.
        return [self._blank(session, remaining.popleft()) for _ in range(1 if started else len(remaining))]

    @contextmanager
    def _server(
        self, session: Session, shape: ServerShape | None, log_path: Path
    ) -> Iterator[tuple[RunningServer, ServerPart]]:
        """Give a running server of a shape (None: the endpoint) and what the results say of it."""
        part = self._server_part(session)
        if self.endpoint is not None or shape is None:
            assert self.endpoint is not None
            yield self.endpoint, replace(part, command=self.endpoint.base_url)
            return
        begin_s = time.monotonic()
        if shape.profile_dir is not None:
            shape = replace(shape, profile_dir=self.directory / TRACES / log_path.stem)
        command = arm_command(session.server, shape)
        with running_server(command, log_path) as (server, ready_s):
            self._time_left.starts_s.append(time.monotonic() - begin_s)
            yield server, replace(part, command=command.shell_line(), ready_s=ready_s)

    def _play(self, session: Session, remaining: deque[Workload], server: RunningServer, part: ServerPart) -> None:
        """Play what remains, in order; returns early when a server of ours cannot be shown to have forgotten all."""
        least_tokens = min(workload.longest_request_tokens for workload in remaining)
        block_size = part.block_size or read_block_size(server.metrics()) or _BLOCK_TOKENS
        self.progress.stage(f"{session.server}, trial {session.trial + 1}: warming up")
        warmed = warm_up(server, self.client, least_tokens, block_size)
        fresh = self.endpoint is None
        while remaining:
            workload = remaining[0]
            begin_s = time.monotonic()
            note = _empty(server)
            if note is None and not fresh and not caches_are_empty(server, self.client, least_tokens, block_size):
                note = "the server still finds what was sent before its caches were emptied"
            if note is not None and not fresh and self.endpoint is None:
                return
            blank = self._blank(session, workload)
            blank = replace(blank, server=replace(part, fresh=fresh), warmup=warmed, reason=note)
            self.progress.stage(_title(session, workload), workload.n_requests)
            bytes_per_block = self._block_bytes(session)
            advance, profiling = self.progress.advance, self.plan.settings.profiling
            trial = measure(server, workload, blank, self.client, bytes_per_block, advance, profiling=profiling)
            remaining.popleft()
            self._time_left.add(workload, session.server, time.monotonic() - begin_s)
            self._keep(trial, replace(session, workloads=tuple(remaining)))
            fresh = False

    def _play_again(self, session: Session, server: RunningServer, part: ServerPart) -> None:
        """Play the session's workload on a restarted server, which has what is on disk."""
        (workload,) = session.workloads
        blank = replace(self._blank(session, workload), server=part)
        blank = replace(blank, workload=restarted(blank.workload))
        self.progress.stage(f"{_title(session, workload)}, after a restart", workload.n_requests)
        bytes_per_block = self._block_bytes(session)
        advance = self.progress.advance
        self._keep(measure(server, workload, blank, self.client, bytes_per_block, advance, begins_empty=False))

    def _keep(self, trial: Trial, *rest: Session) -> None:
        """Write a result and say how long all others will take; `rest` is what is left of the running session."""
        write_trial(self.directory, trial)
        n_left = sum(len(session.workloads) for session in (*rest, *self._todo))
        left = about(self._time_left.left_s([*rest, *self._todo]) if n_left else None)
        n_all = self.plan.n_measured
        self.progress.overall(f"trials, {left}" if left else "trials", n_all - n_left, n_all)
        self.on_trial(trial)

    def _blank(self, session: Session, workload: Workload) -> Trial:
        """Return the result of a trial as far as it is known beforehand."""
        return Trial(
            workload=workload_part(workload, self.plan.scale),
            server=self._server_part(session),
            trial=session.trial,
            status="crashed",
            begun=datetime.now(UTC).isoformat(timespec="milliseconds"),
            invocation=self.invocation,
            machine=self._machine,
            versions=self._versions,
        )

    def _server_part(self, session: Session) -> ServerPart:
        if self.endpoint is not None:
            return ServerPart(session.server, "", {"url": self.endpoint.base_url, "model": self.endpoint.model})
        shape = self._shape(session)
        return ServerPart(session.server, "", shape_parameters(shape), shape.block_size)

    def _shape(self, session: Session) -> ServerShape:
        """Return the server that a session needs; the same one when some of its workloads are finished already."""
        return self.plan.settings.shape(session.workloads if self.plan.fresh_servers else self.plan.workloads)

    def _block_bytes(self, session: Session) -> int | None:
        return None if self.endpoint is not None else block_bytes(self._shape(session), self.device)

    def _unavailable(self, server: str) -> str | None:
        return None if self.endpoint is not None else configuration(server.split(":")[0]).unavailable(self.device)


def _title(session: Session, workload: Workload) -> str:
    return f"{session.server}, {workload.name}, trial {session.trial + 1}"


def _empty(server: RunningServer) -> str | None:
    """Empty all caches of a server; returns why that was not possible."""
    try:
        server.reset_caches()
    except UserError as error:
        return str(error)
    return None
