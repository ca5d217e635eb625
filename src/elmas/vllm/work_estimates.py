"""What vLLM's waiting requests need, by its own block manager and the host tier; it changes neither."""

from typing import Any

from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id
from vllm.v1.request import RequestStatus

from elmas.scheduling.ranking import Estimate
from elmas.scheduling.work import Work
from elmas.vllm.scheduler_half import SchedulerHalf

_RUNNING, _LOADING = RequestStatus.RUNNING, RequestStatus.WAITING_FOR_REMOTE_KVS


class WorkEstimates:
    """Estimates of vLLM's requests, and the requests that have begun and whose blocks are loaded or computed."""

    def __init__(self, half: SchedulerHalf, kv_cache_manager: Any) -> None:
        pool = kv_cache_manager.block_pool
        # There is one group only: see elmas.vllm.support. This is the block pool's `get_cached_block` for one block of
        # one group, in a third of the time.
        suffix = make_block_hash_with_group_id(BlockHash(b""), 0)
        self._work = Work(
            half.block_size,
            is_on_device=lambda block: pool.cached_block_hash_to_block.get_one_block(block + suffix) is not None,
            is_in_host=lambda block: half.tier is not None and half.tier.index.is_held(block),
        )
        self._beginning: dict[str, Any] = {}

    def has_begun(self, request: Any) -> None:
        """The request has its device blocks; what they are to contain is loaded or computed from now on."""
        if self._work.begin(request.request_id, request.block_hashes):
            self._beginning[request.request_id] = request

    def has_not_begun(self, name: str) -> None:
        """The request was put back."""
        if self._beginning.pop(name, None) is not None:
            self._work.end(name)

    def end_step(self) -> None:
        """Forget those that have their prompt."""
        for name in [name for name, request in self._beginning.items() if _has_its_prompt(request)]:
            self.has_not_begun(name)

    def estimate(self, request: Any, before: Estimate | None = None) -> Estimate:
        """Return what the request needs, which was estimated `before` or not; its cost is in tokens to compute."""
        if request.skip_reading_prefix_cache:
            return Estimate(float(request.num_tokens))
        return self._work.estimate(request.num_tokens, request.block_hashes, before)

    def needs_room(self, request: Any) -> bool:
        """Return whether the request would bring blocks back to the device."""
        return not request.skip_reading_prefix_cache and self._work.needs_room(request.num_tokens, request.block_hashes)


def _has_its_prompt(request: Any) -> bool:
    status = request.status
    if status == _RUNNING:
        return bool(request.num_computed_tokens >= request.num_prompt_tokens)
    return bool(status != _LOADING)
