"""What a waiting request needs: the tokens that are in no cache, and a little for those to be loaded.

The counterpart of `elmas.vllm.work_estimates`, on the simulated caches.
"""

from collections.abc import Callable

from elmas.scheduling.waiting_order import Estimate
from elmas.sim.device import DeviceCache
from elmas.sim.requests import Live
from elmas.sim.tiers import Tiers

_LOAD_COST_SHARE = 0.02
_COMING_SHARE = 0.5


class WorkEstimates:
    """Looks at the device's cache and at host memory, and changes neither."""

    def __init__(self, device: DeviceCache, tiers: Tiers | None, block_tokens: int) -> None:
        self._device = device
        self._tiers = tiers
        self._block_tokens = block_tokens
        self._beginning: dict[str, Live] = {}

    def has_begun(self, request: Live) -> None:
        """The request's blocks are loaded or computed from now on."""
        self._beginning[request.key] = request

    def end_step(self) -> None:
        """Forget those that have their prompt, or have lost it again."""
        for key in [key for key, request in self._beginning.items() if _is_done(request)]:
            del self._beginning[key]

    def estimate(self, request: Live) -> Estimate:
        """Return what the request needs; its cost is in tokens to compute."""
        blocks, block_tokens, device = request.job.blocks, self._block_tokens, self._device
        n_usable = min((request.n_tokens - 1) // block_tokens, len(blocks))
        n_device = n_resident = _run_end(lambda place: device.holds(blocks[place]), 0, n_usable)
        if self._tiers is not None:
            index = self._tiers.host.index
            n_resident = _run_end(lambda place: index.is_held(blocks[place]), n_device, n_usable)
        n_load = n_resident - n_device
        cost = float(request.n_tokens - n_resident * block_tokens) + _LOAD_COST_SHARE * n_load * block_tokens
        if n_device == n_usable:
            return Estimate(cost)
        last = n_device + max(0, int(_COMING_SHARE * (n_usable - n_device)) - 1)
        return Estimate(cost, blocks[n_device], self._is_coming(last, blocks[last]))

    def _is_coming(self, place: int, block: bytes) -> bool:
        """Whether a request that has begun brings this block."""
        return any(
            len(other.job.blocks) > place and other.job.blocks[place] == block for other in self._beginning.values()
        )


def _is_done(request: Live) -> bool:
    return request.n_device_blocks == 0 or request.n_answered > 0


def _run_end(is_there: Callable[[int], bool], first: int, end: int) -> int:
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
