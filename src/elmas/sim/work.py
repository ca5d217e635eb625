"""What the waiting requests of a simulated server need, by its device and its host memory; it changes neither."""

from elmas.scheduling.ranking import Estimate
from elmas.scheduling.work import Work
from elmas.sim.device import DeviceCache
from elmas.sim.requests import Live
from elmas.sim.tiers import Tiers


class WorkEstimates:
    """Estimates of requests, and the requests that have begun and whose blocks are loaded or computed."""

    def __init__(self, device: DeviceCache, tiers: Tiers | None, block_tokens: int) -> None:
        is_in_host = tiers.host.index.is_held if tiers is not None else lambda block: False
        self._work = Work(block_tokens, device.holds, is_in_host)
        self._beginning: dict[str, Live] = {}

    def has_begun(self, request: Live) -> None:
        """The request's blocks are loaded or computed from now on."""
        self._beginning[request.key] = request
        self._work.begin(request.key, request.job.blocks)

    def has_its_prompt(self, request: Live) -> None:
        """The request has begun, and brings nothing more."""
        if self._beginning.pop(request.key, None) is not None:
            self._work.end(request.key)

    def forget_preempted(self) -> None:
        """Forget those that have lost what they brought."""
        for request in [request for request in self._beginning.values() if request.n_device_blocks == 0]:
            self.has_its_prompt(request)

    def estimate(self, request: Live, before: Estimate | None = None) -> Estimate:
        """Return what the request needs, which was estimated `before` or not; its cost is in tokens to compute."""
        return self._work.estimate(request.n_tokens, request.job.blocks, before)

    def needs_room(self, request: Live) -> bool:
        """Return whether the request would bring blocks back to the device."""
        return self._work.needs_room(request.n_tokens, request.job.blocks)
