"""What the cache costs the engine's critical thread, measured in vLLM's own scheduler.

Per request: all time spent in the connector over a request's life, as a function of its blocks, everything resident in
host memory. Per step: the processor time of a step with many requests waiting, with MT-APC, without its order, and with
the no-op connector; the three take turns step by step, so that what else the machine does meets all of them.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus

from elmas.vllm.bare_scheduler import RequestMaker, make_bare_scheduler
from elmas.vllm.metadata import Confirmations
from elmas.vllm.scheduler import make_scheduler

BLOCK_SIZE = 16

_WARM_UP_STEPS = 8

_MANY_AT_ONCE = 64
"""Requests that begin in one step when all agents of a round come at once."""

HOOKS = (
    "on_new_request",
    "get_num_new_matched_tokens",
    "update_state_after_alloc",
    "build_connector_meta",
    "update_connector_output",
    "request_finished_all_groups",
    "get_kv_connector_stats",
    "has_pending_push_work",
)
"""The connector's methods that vLLM's scheduler calls."""


@dataclass(frozen=True)
class RequestCost:
    """Median microseconds in the connector for one request of `n_blocks` blocks, from arrival to its end."""

    n_blocks: int
    microseconds: float

    @property
    def budget_microseconds(self) -> float:
        """What it may cost: 100 microseconds and 0.3 per block."""
        return 100 + 0.3 * self.n_blocks


@dataclass(frozen=True)
class StepCost:
    """Median microseconds of processor time of one scheduling step with `n_waiting` requests waiting, the first
    `resident_share` of the blocks of each in host memory and the others nowhere, while `n_admitted` of them begin.

    `first_come_microseconds` is the same with MT-APC and no order, `noop_microseconds` with the no-op connector.
    """

    n_waiting: int
    resident_share: float
    n_admitted: int
    microseconds: float
    first_come_microseconds: float
    noop_microseconds: float

    @property
    def order_microseconds(self) -> float:
        """What the order adds to a step."""
        return self.microseconds - self.first_come_microseconds

    @property
    def budget_microseconds(self) -> float:
        """What a whole step may take: 1 ms, and where many begin at once 1 ms more than in order of arrival."""
        return 1000.0 if self.n_admitted <= 1 else 1000.0 + self.first_come_microseconds


def request_costs(model: str, sizes: Sequence[int], n_trials: int = 15) -> list[RequestCost]:
    """Return the cost of loading requests of the given sizes in blocks."""
    most = max(sizes)
    scheduler = make_bare_scheduler(
        model,
        connector="ElmasConnector",
        settings={},
        block_size=BLOCK_SIZE,
        n_device_blocks=2 * most + 64,
        n_host_rows=most * 2,
        max_num_seqs=4,
        max_batched_tokens=2048,
        max_model_len=BLOCK_SIZE * (most + 4),
    )
    clock = time_hooks(scheduler.connector)
    maker = RequestMaker(BLOCK_SIZE)
    costs = []
    for n_blocks in sizes:
        spent = []
        for trial in range(n_trials):
            prompt = [trial % 100, n_blocks % 1000, *(position % 1000 for position in range(n_blocks * BLOCK_SIZE))]
            request = maker.make(f"request-{n_blocks}-{trial}", prompt, 2)
            _make_resident(scheduler, request, n_blocks)
            scheduler.kv_cache_manager.reset_prefix_cache()
            clock.seconds = 0.0
            _play_load(scheduler, request)
            spent.append(clock.seconds)
        costs.append(RequestCost(n_blocks, 1e6 * median(spent)))
    return costs


def step_costs(model: str, n_waiting: int, n_prompt_blocks: int = 64, n_trials: int = 90) -> list[StepCost]:
    """Return the cost of a step while `n_waiting` requests wait: with no slot free, while one begins, and while as many
    begin as at the start of a round."""
    costs = []
    for n_at_once in (1, _MANY_AT_ONCE):
        for resident_share in (0.0, 0.5, 1.0):
            n_resident = int(resident_share * n_prompt_blocks)
            sizes = n_resident, n_waiting, n_at_once, n_prompt_blocks
            arms = (
                _waiting_scheduler(model, "ElmasConnector", {}, make_scheduler, *sizes),
                _waiting_scheduler(model, "ElmasConnector", {"reorder": False}, make_scheduler, *sizes),
                _waiting_scheduler(model, "ElmasNoopConnector", {}, None, *sizes),
            )
            seconds = _step_seconds(arms, n_at_once, n_trials)
            for n_admitted in (0, 1) if n_at_once == 1 else (n_at_once,):
                figures = (1e6 * _typical(arm, len(arms)) for arm in zip(*seconds[n_admitted], strict=True))
                costs.append(StepCost(n_waiting, resident_share, n_admitted, *figures))
    return costs


@dataclass
class Clock:
    """Seconds spent in some calls."""

    seconds: float = 0.0


def time_hooks(connector: Any, names: Sequence[str] = HOOKS) -> Clock:
    """Return a clock that runs while one of these methods of the object does."""
    clock = Clock()

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin_s = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                clock.seconds += time.thread_time() - begin_s

        return run

    for name in names:
        setattr(connector, name, timed(getattr(connector, name)))
    return clock


def _make_resident(scheduler: Any, request: Any, n_blocks: int) -> None:
    """Let host memory hold the first blocks of a request."""
    index = scheduler.connector.scheduler_half.tier.index
    missing = [block for block in request.block_hashes[:n_blocks] if not index.is_held(block)]
    if missing:
        index.commit(index.reserve(missing, []), 0.0)


def _play_load(scheduler: Any, request: Any) -> None:
    """The life of one request: arrival, load, first token, end."""
    scheduler.add_request(request)
    _step(scheduler, {}, finished_loads={request.request_id})
    _step(scheduler, {request.request_id: [1]})
    scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    _step(scheduler, {})


def _step(scheduler: Any, sampled: dict[str, list[int]], finished_loads: set[str] | None = None) -> None:
    output = scheduler.schedule()
    answer_step(scheduler, output, sampled, KVConnectorOutput(finished_recving=finished_loads))


def answer_step(scheduler: Any, output: Any, sampled: dict[str, list[int]], news: KVConnectorOutput) -> None:
    """Play the worker: the step is done, these tokens were sampled."""
    names = list(output.num_scheduled_tokens)
    scheduler.update_from_output(
        output,
        ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=[sampled.get(name, []) for name in names],
            kv_connector_output=news,
        ),
    )


def _all_copied(orders: Any) -> KVConnectorOutput:
    """The worker's answer when it has done all copies at once."""
    stores, loads = getattr(orders, "stores", ()), getattr(orders, "loads", ())
    news = Confirmations({transfer.number: 1 for transfer in stores}, {}) if stores else None
    return KVConnectorOutput(finished_recving={load.owner for load in loads} or None, kv_connector_worker_meta=news)


def _typical(values: Sequence[float], n_turns: int) -> float:
    """Return the mean over the turns of the median over the steps of one turn; turns follow each other."""
    return mean(median(values[turn::n_turns]) for turn in range(n_turns))


def _waiting_scheduler(
    model: str,
    connector: str,
    settings: dict[str, Any],
    scheduler_class: Any,
    n_resident: int,
    n_waiting: int,
    n_at_once: int,
    n_prompt_blocks: int,
) -> Any:
    """Return a scheduler with `n_waiting` requests and those that fill its slots, `n_resident` blocks of each in host
    memory."""
    max_num_seqs = max(16, n_at_once)
    n_requests = n_waiting + max_num_seqs
    scheduler = make_bare_scheduler(
        model,
        connector=connector,
        settings=settings,
        block_size=BLOCK_SIZE,
        n_device_blocks=(max_num_seqs + 2) * (n_prompt_blocks + 8),
        n_host_rows=n_requests * n_prompt_blocks,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=n_prompt_blocks * BLOCK_SIZE * max_num_seqs,
        max_model_len=BLOCK_SIZE * (n_prompt_blocks + 8),
        scheduler_class=scheduler_class,
    )
    maker = RequestMaker(BLOCK_SIZE)
    tail = [position % 1000 for position in range(n_prompt_blocks * BLOCK_SIZE - 2)]
    requests = [
        maker.make(f"request-{number}", [number % 1000, number // 1000, *tail], 100) for number in range(n_requests)
    ]
    if hasattr(scheduler.connector, "scheduler_half"):
        for request in requests:
            _make_resident(scheduler, request, n_resident)
    for request in requests:
        scheduler.add_request(request)
    return scheduler


def _step_seconds(arms: Sequence[Any], n_at_once: int, n_trials: int) -> dict[int, list[tuple[float, ...]]]:
    """Return the processor time of the arms' steps, those in which nobody can begin and those in which `n_at_once`
    do."""
    # As vLLM's engine does after its start: else the collector's walk over all modules would be part of a step.
    gc.collect()
    gc.freeze()
    seconds: dict[int, list[tuple[float, ...]]] = {0: [], n_at_once: []}
    for step in range(2 * n_trials + _WARM_UP_STEPS):
        n_admitted = n_at_once * (step % 2)
        spent_s = [0.0] * len(arms)
        # Whoever comes later in a step finds more of the common code in the processor's caches.
        for turn in range(len(arms)):
            arm = (turn + step // 2) % len(arms)
            scheduler = arms[arm]
            begin_s = time.thread_time()
            output = scheduler.schedule()
            spent_s[arm] = time.thread_time() - begin_s
            sampled = {name: [1] for name in output.num_scheduled_tokens}
            answer_step(scheduler, output, sampled, _all_copied(output.kv_connector_metadata))
            if not n_admitted:  # the next step has free slots
                ended = [request.request_id for request in scheduler.running[:n_at_once]]
                scheduler.finish_requests(ended, RequestStatus.FINISHED_ABORTED)
        if step >= _WARM_UP_STEPS:
            seconds[n_admitted].append(tuple(spent_s))
    gc.unfreeze()
    return seconds
