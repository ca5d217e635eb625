"""What the cache costs the engine's critical thread, measured in vLLM's own scheduler.

Per request: all time spent in the connector over a request's life, as a function of its blocks, everything resident in
host memory. Per step: the time of a step with many requests waiting, with MT-APC, without its order, and with the no-op
connector.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
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
    """Median microseconds of one scheduling step with `n_waiting` requests waiting, their blocks in host memory
    (`is_resident`) or nowhere, while `n_admitted` of them begin.

    `first_come_microseconds` is the same with MT-APC and no order, `noop_microseconds` with the no-op connector.
    """

    n_waiting: int
    is_resident: bool
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
            _make_resident(scheduler, request)
            scheduler.kv_cache_manager.reset_prefix_cache()
            clock.seconds = 0.0
            _play_load(scheduler, request)
            spent.append(clock.seconds)
        costs.append(RequestCost(n_blocks, 1e6 * median(spent)))
    return costs


def step_costs(model: str, n_waiting: int, n_prompt_blocks: int = 64, n_trials: int = 30) -> list[StepCost]:
    """Return the cost of a step while `n_waiting` requests wait: with no slot free, while one begins, and while as many
    begin as at the start of a round."""
    costs = []
    for n_at_once in (1, _MANY_AT_ONCE):
        sizes = n_waiting, n_at_once, n_prompt_blocks, n_trials
        noop = _step_seconds(model, "ElmasNoopConnector", {}, None, False, *sizes)
        for is_resident in (False, True):
            first_come, ordered = (
                _step_seconds(model, "ElmasConnector", settings, make_scheduler, is_resident, *sizes)
                for settings in ({"reorder": False}, {})
            )
            for n_admitted in (0, 1) if n_at_once == 1 else (n_at_once,):
                seconds = (each[n_admitted] for each in (ordered, first_come, noop))
                costs.append(StepCost(n_waiting, is_resident, n_admitted, *(1e6 * each for each in seconds)))
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


def _make_resident(scheduler: Any, request: Any) -> None:
    index = scheduler.connector.scheduler_half.tier.index
    missing = [block for block in request.block_hashes if not index.is_held(block)]
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


def _step_seconds(
    model: str,
    connector: str,
    settings: dict[str, Any],
    scheduler_class: Any,
    is_resident: bool,
    n_waiting: int,
    n_at_once: int,
    n_prompt_blocks: int,
    n_trials: int,
) -> dict[int, float]:
    """Return the median of the steps in which nobody can begin, and of those in which `n_at_once` do."""
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
    for request in requests:
        if is_resident:
            _make_resident(scheduler, request)
    # As vLLM's engine does after its start: else the collector's walk over all modules would be part of a step.
    gc.collect()
    gc.freeze()
    for request in requests:
        scheduler.add_request(request)
    seconds: dict[int, list[float]] = {0: [], n_at_once: []}
    for step in range(2 * n_trials + _WARM_UP_STEPS):
        begin_s = time.perf_counter()
        output = scheduler.schedule()
        spent_s = time.perf_counter() - begin_s
        n_admitted = n_at_once * (step % 2)
        if step >= _WARM_UP_STEPS:
            seconds[n_admitted].append(spent_s)
        sampled = {name: [1] for name in output.num_scheduled_tokens}
        answer_step(scheduler, output, sampled, _all_copied(output.kv_connector_metadata))
        if not n_admitted:  # the next step has free slots
            ended = [request.request_id for request in scheduler.running[:n_at_once]]
            scheduler.finish_requests(ended, RequestStatus.FINISHED_ABORTED)
    gc.unfreeze()
    return {n_admitted: median(values) for n_admitted, values in seconds.items()}
