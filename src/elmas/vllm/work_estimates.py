"""What a waiting request needs: the tokens that are in no cache, and a little for those to be loaded.

Tokens that only the device has are taken off: they would have to be computed, too, if others ran before and evicted
them.

An estimate takes a few probes of the caches, however long the prompt is: prefixes are given up from their end, so what
is resident of one is searched by halving. Where that does not hold the estimate is too low until vLLM looks itself.
"""

from collections.abc import Callable
from typing import Any

from vllm.v1.request import RequestStatus

from elmas.scheduling.waiting_order import Estimate
from elmas.vllm.scheduler_half import SchedulerHalf

LOAD_COST_SHARE = 0.02
"""The cost of loading a token, as a share of computing it: enough to prefer what is on the device already."""

_COMING_SHARE = 0.5
"""A request waits for another one that brings at least this share of what the device lacks of it."""


class WorkEstimates:
    """Looks at the device's cache (vLLM's block manager) and at the host tier, and changes neither."""

    def __init__(self, half: SchedulerHalf, kv_cache_manager: Any) -> None:
        self._half = half
        self._manager = kv_cache_manager
        self._groups = list(range(kv_cache_manager.num_kv_cache_groups))
        self._beginning: dict[str, Any] = {}

    def has_begun(self, request: Any) -> None:
        """The request's blocks are loaded or computed from now on."""
        self._beginning[request.request_id] = request

    def has_not_begun(self, name: str) -> None:
        """The request was put back."""
        self._beginning.pop(name, None)

    def end_step(self) -> None:
        """Forget those that have their prompt."""
        for name in [name for name, request in self._beginning.items() if _has_its_prompt(request)]:
            del self._beginning[name]

    def estimate(self, request: Any) -> Estimate:
        """Return what the request needs; its cost is in tokens to compute."""
        n_tokens = int(request.num_tokens)
        if request.skip_reading_prefix_cache:
            return Estimate(float(n_tokens))
        hashes, block_size, tier = request.block_hashes, self._half.block_size, self._half.tier
        n_usable = min(len(hashes), (n_tokens - 1) // block_size)
        pool, groups = self._manager.block_pool, self._groups
        n_device = run_end(lambda place: pool.get_cached_block(hashes[place], groups) is not None, 0, n_usable)
        n_resident, n_at_risk = n_device, 0
        if tier is not None:
            index = tier.index
            n_resident = run_end(lambda place: index.is_held(hashes[place]), n_device, n_usable)
            if n_device > 0 and not index.is_held(hashes[n_device - 1]):
                n_at_risk = n_device - run_end(lambda place: index.is_held(hashes[place]), 0, n_device)
        n_load = n_resident - n_device
        cost = float(n_tokens - (n_resident + n_at_risk) * block_size) + LOAD_COST_SHARE * n_load * block_size
        if n_device == n_usable:
            return Estimate(cost)
        return Estimate(cost, hashes[n_device], self._is_coming(hashes, n_device, n_usable))

    def _is_coming(self, hashes: Any, first: int, end: int) -> bool:
        """Whether a request that has begun brings most of the blocks `first .. end - 1`."""
        last = first + max(0, int(_COMING_SHARE * (end - first)) - 1)
        wanted = hashes[last]
        return any(
            len(other.block_hashes) > last and other.block_hashes[last] == wanted for other in self._beginning.values()
        )


def run_end(is_there: Callable[[int], bool], first: int, end: int) -> int:
    """Return the end of the run of places from `first` on where `is_there`, if these come before all others."""
    if first >= end or not is_there(first):
        return first
    if is_there(end - 1):
        return end
    low, high = first, end - 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_there(middle):
            low = middle
        else:
            high = middle
    return high


def _has_its_prompt(request: Any) -> bool:
    if request.status == RequestStatus.RUNNING:
        return bool(request.num_computed_tokens >= request.num_prompt_tokens)
    return bool(request.status != RequestStatus.WAITING_FOR_REMOTE_KVS)
