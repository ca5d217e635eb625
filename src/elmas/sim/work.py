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

    def end_step(self) -> None:
        """Forget those that have their prompt, or have lost it again."""
        for key in [key for key, request in self._beginning.items() if _is_done(request)]:
            del self._beginning[key]
            self._work.end(key)

    def estimate(self, request: Live) -> Estimate:
        """Return what the request needs; its cost is in tokens to compute."""
        return self._work.estimate(request.n_tokens, request.job.blocks)


def _is_done(request: Live) -> bool:
    return request.n_device_blocks == 0 or request.n_answered > 0
