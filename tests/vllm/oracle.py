"""vLLM's own scheduler on a simulated worker that knows what every slot of every block contains.

A slot contains the fingerprint of all tokens up to its position, as its KV depends on all of them. Before a request
computes, every slot it relies on is compared with its own fingerprints: any block that was reused too early, loaded
from a wrong row or stored half computed is found at once. Copies run late and in random order; with `pipelined` the
next step is scheduled before the last one is done, as with asynchronous scheduling. With `same_process` elmas's
scheduler may ask the worker what has ended.
"""

import random
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus

from elmas.movement.transfers import Transfer
from elmas.settings import CacheSettings
from elmas.tiers.disk.files import Files
from elmas.tiers.disk.format import choose_shape
from elmas.tiers.host import ROW_ALIGNMENT_BYTES, HostRegion
from elmas.vllm.bare_scheduler import RequestMaker, make_bare_scheduler
from elmas.vllm.disk_half import DiskHalf
from elmas.vllm.metadata import Confirmations
from elmas.vllm.same_process import announce

BLOCK_SIZE = 4
SEGMENT_BYTES = choose_shape(ROW_ALIGNMENT_BYTES, 4 << 20).segment_bytes
"""With a capacity of so many of them, segments have some thirty slots."""

EMPTY = 0


def fingerprint(before: int, token: int) -> int:
    """Return the fingerprint of a sequence from that of its beginning and its last token."""
    return (before * 1_000_003 + token * 7_919 + 12_345) % (2**61 - 1)


def next_token(mark: int) -> int:
    """The simulated model: the next token depends on everything before."""
    return mark % 5


@dataclass
class Sequence:
    """The worker's view of a request: its tokens so far and their fingerprints."""

    tokens: list[int]
    salt: int
    marks: list[int] = field(default_factory=list)

    def mark(self, position: int) -> int:
        while len(self.marks) <= position:
            before = self.marks[-1] if self.marks else self.salt
            self.marks.append(fingerprint(before, self.tokens[len(self.marks)]))
        return self.marks[position]


@dataclass
class Step:
    """What the scheduler decided: per request the range to compute and its block table at that time."""

    output: Any
    work: list[tuple[str, int, int, list[int]]]


class Facts:
    """Stands for vLLM's part of the namespace."""

    def wait(self) -> dict[str, Any]:
        return {"model": "simulated"}


class Server:
    """One engine: the scheduler, the connector's scheduler half, and the simulated worker."""

    def __init__(
        self,
        model: str,
        settings: dict[str, Any],
        *,
        n_blocks: int,
        n_rows: int,
        max_num_seqs: int = 4,
        max_batched_tokens: int = 16,
        pipelined: bool = False,
        connector: str | None = "ElmasConnector",
        scheduler_class: Any = None,
        seed: int = 0,
        disk: Path | None = None,
        disk_segments: int = 40,
        files: Files | None = None,
        same_process: bool = False,
    ) -> None:
        self.region = HostRegion.create(n_rows, ROW_ALIGNMENT_BYTES)
        self.scheduler = make_bare_scheduler(
            model,
            connector=connector,
            settings=settings,
            block_size=BLOCK_SIZE,
            n_device_blocks=n_blocks,
            n_host_rows=n_rows,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
            max_model_len=256,
            is_pipelined=pipelined,
            scheduler_class=scheduler_class,
            region=self.region,
        )
        self.maker = RequestMaker(BLOCK_SIZE)
        self.half = getattr(self.scheduler.connector, "scheduler_half", None)
        self.rng = random.Random(seed)
        self.pipelined = pipelined
        self.synchronous = settings.get("async_copies") is False
        self.device = np.zeros((n_blocks, BLOCK_SIZE), dtype=np.int64)
        self.rows = self.region.rows[:, : 8 * BLOCK_SIZE].view(np.int64)
        self.sequences: dict[str, Sequence] = {}
        self.answers: dict[str, list[int]] = {}
        self.copies: list[tuple[str, Transfer]] = []
        self.in_flight: deque[tuple[Step, ModelRunnerOutput]] = deque()
        self.n_loaded_blocks = 0
        self.n_asked_for = 0
        """Copies of which the scheduler heard because it asked."""
        self._asked_for = Confirmations({}, {})
        if same_process:
            announce(self, self.region.handle)  # type: ignore[arg-type]
        self.disk: DiskHalf | None = None
        if disk is not None:
            capacity = {"disk": str(disk), "disk_capacity": disk_segments * SEGMENT_BYTES}
            self.disk = self.half.disk = DiskHalf(
                CacheSettings.parse({**settings, **capacity}),
                self.half.tier,
                self.region,
                self.half.costs,
                self.half.sessions,
                BLOCK_SIZE,
                Facts(),
                files,
                trace=self.half.trace,
            )
            assert self.disk.wait_until_open(30), "the directory could not be opened"

    def stop(self) -> None:
        """End the engine in good order."""
        self.half.close()
        self.region.close()

    def add(
        self,
        name: str,
        prompt: list[int],
        n_tokens: int,
        salt: str | None = None,
        lora: str | None = None,
        session: str | None = None,
        hints: object = None,
    ) -> None:
        """A request arrives."""
        request = self.maker.make(name, prompt, n_tokens, salt, lora, session=session, hints=hints)
        self.sequences[name] = Sequence(list(prompt), salt=hash((salt, lora)) % 1000 if salt or lora else 1)
        self.answers[name] = []
        self.scheduler.add_request(request)

    def abort(self, name: str) -> None:
        """The client has gone."""
        if name in self.scheduler.requests:
            self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    @property
    def is_busy(self) -> bool:
        """Whether the engine would go on stepping."""
        return bool(
            self.scheduler.has_requests()
            or self.in_flight
            or (self.scheduler.connector and self.scheduler.connector.has_pending_push_work())
        )

    def step(self) -> None:
        """Schedule and execute one step; hand an output back (with `pipelined` that of the step before)."""
        step = self._schedule()
        if self.disk is not None and not step.work:
            time.sleep(0.001)  # as vLLM's engine does: the disk's threads need time
        self.in_flight.append((step, self._execute(step)))
        while len(self.in_flight) > (1 if self.pipelined and self.rng.random() < 0.9 else 0):
            self._update(*self.in_flight.popleft())

    def run(self, limit: int = 20_000) -> None:
        """Step until nothing is left to do; a server that makes no progress fails."""
        for _ in range(limit):
            if not self.is_busy:
                return
            self.step()
        raise AssertionError(f"no end after {limit} steps: {len(self.scheduler.requests)} requests left")

    def _schedule(self) -> Step:
        output = self.scheduler.schedule()
        work = []
        for name, n_tokens in output.num_scheduled_tokens.items():
            request = self.scheduler.requests[name]
            first = request.num_computed_tokens - n_tokens  # the scheduler has counted this step already
            work.append((name, first, n_tokens, self.scheduler.kv_cache_manager.get_block_ids(name)[0]))
        return Step(output, work)

    def _execute(self, step: Step) -> ModelRunnerOutput:
        orders = step.output.kv_connector_metadata
        confirmations = Confirmations({}, {})
        if self.half is not None:
            self.copies += [("load", load) for load in orders.loads] + [("store", store) for store in orders.stores]
            if self.synchronous:
                for load in orders.loads:
                    self._copy("load", load)
                    confirmations.loads[load.owner] = 1
                self.copies = [copy for copy in self.copies if copy[0] == "store"]
        finished_loads: set[str] = set()
        # Copies run beside the model: some are done before it has computed anything in this step, some after.
        self._copy_some(confirmations, finished_loads)
        sampled: dict[str, list[int]] = {}
        for name, first, n_tokens, blocks in step.work:
            sampled[name] = self._compute(name, first, n_tokens, blocks)
        names = list(sampled)
        self._copy_some(confirmations, finished_loads)
        has_news = confirmations.stores or confirmations.loads
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=list(sampled.values()),
            kv_connector_output=KVConnectorOutput(
                finished_recving=finished_loads or None, kv_connector_worker_meta=confirmations if has_news else None
            ),
        )

    def ended_loads(self) -> set[str]:
        """As a worker half: what has ended since it was last looked at."""
        loads: set[str] = set()
        self._copy_some(self._asked_for, loads)
        self.n_asked_for += len(loads) + len(self._asked_for.stores)
        return loads

    def confirmations(self) -> Confirmations | None:
        """As a worker half."""
        asked_for, self._asked_for = self._asked_for, Confirmations({}, {})
        return asked_for if asked_for.stores else None

    def _copy_some(self, confirmations: Confirmations, finished_loads: set[str]) -> None:
        self.rng.shuffle(self.copies)
        n_now = len(self.copies) if self.synchronous else self.rng.randint(0, len(self.copies))
        for kind, transfer in self.copies[:n_now]:
            self._copy(kind, transfer)
            if kind == "load":
                finished_loads.add(transfer.owner)
            else:
                confirmations.stores[transfer.number] = 1
        self.copies = self.copies[n_now:]

    def _compute(self, name: str, first: int, n_tokens: int, blocks: list[int]) -> list[int]:
        sequence = self.sequences[name]
        for position in range(first):
            found = self.device[blocks[position // BLOCK_SIZE], position % BLOCK_SIZE]
            assert found == sequence.mark(position), f"wrong KV: {name} at position {position} of {first}"
        for position in range(first, first + n_tokens):
            self.device[blocks[position // BLOCK_SIZE], position % BLOCK_SIZE] = sequence.mark(position)
        if first + n_tokens < len(sequence.tokens):
            return []
        token = next_token(sequence.mark(len(sequence.tokens) - 1))
        sequence.tokens.append(token)
        return [token]

    def _copy(self, kind: str, transfer: Transfer) -> None:
        blocks = list(transfer.device_blocks)
        if kind == "load":
            self.device[blocks] = self.rows[transfer.rows]
            self.n_loaded_blocks += len(blocks)
        else:
            self.rows[transfer.rows] = self.device[blocks]

    def _update(self, step: Step, output: ModelRunnerOutput) -> None:
        for outputs in self.scheduler.update_from_output(step.output, output).values():
            for result in outputs.outputs:
                self.answers[result.request_id] += result.new_token_ids
        if self.half is not None and self.half.tier is not None:
            self.half.tier.index.check_integrity()
        for name, sequence in self.sequences.items():
            # A preempted request in flight may lose its newest token: the worker forgets it too.
            request = self.scheduler.requests.get(name)
            if request is not None and not self.in_flight and len(sequence.tokens) > request.num_tokens:
                del sequence.tokens[request.num_tokens :]
                del sequence.marks[request.num_tokens :]
