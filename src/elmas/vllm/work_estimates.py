"""What vLLM's waiting requests need, by its own block manager and the host tier; it changes neither."""

from typing import Any

from vllm.v1.request import RequestStatus

from elmas.scheduling.ranking import Estimate
from elmas.scheduling.work import Work
from elmas.vllm.scheduler_half import SchedulerHalf


class WorkEstimates:
    """Estimates of vLLM's requests, and the requests that have begun and whose blocks are loaded or computed."""

    def __init__(self, half: SchedulerHalf, kv_cache_manager: Any) -> None:
        pool, groups = kv_cache_manager.block_pool, list(range(kv_cache_manager.num_kv_cache_groups))
        self._work = Work(
            half.block_size,
            is_on_device=lambda block: pool.get_cached_block(block, groups) is not None,
            is_in_host=lambda block: half.tier is not None and half.tier.index.is_held(block),
        )
        self._beginning: dict[str, Any] = {}

    def has_begun(self, request: Any) -> None:
        """The request has its device blocks; what they are to contain is loaded or computed from now on."""
        self._beginning[request.request_id] = request
        self._work.begin(request.request_id, request.block_hashes)

    def has_not_begun(self, name: str) -> None:
        """The request was put back."""
        if self._beginning.pop(name, None) is not None:
            self._work.end(name)

    def end_step(self) -> None:
        """Forget those that have their prompt."""
        for name in [name for name, request in self._beginning.items() if _has_its_prompt(request)]:
            self.has_not_begun(name)

    def estimate(self, request: Any) -> Estimate:
        """Return what the request needs; its cost is in tokens to compute."""
        if request.skip_reading_prefix_cache:
            return Estimate(float(request.num_tokens))
        return self._work.estimate(request.num_tokens, request.block_hashes)

    def needs_room(self, request: Any) -> bool:
        """Return whether the request would bring blocks back to the device."""
        return not request.skip_reading_prefix_cache and self._work.needs_room(request.num_tokens, request.block_hashes)


def _has_its_prompt(request: Any) -> bool:
    if request.status == RequestStatus.RUNNING:
        return bool(request.num_computed_tokens >= request.num_prompt_tokens)
    return bool(request.status != RequestStatus.WAITING_FOR_REMOTE_KVS)
