"""The requests that decode, all one token per step, without work for each of them in each step.

A request's numbers are those of the step at which it began to decode; steps are counted. Since each needs a new device
block every `block_tokens` steps, the requests are kept by the phase in which they do. Ends are kept in a heap.
"""

import heapq
from collections.abc import Iterator

from elmas.sim.device import DeviceCache
from elmas.sim.requests import Live


class DecodingRequests:
    """See the module."""

    def __init__(self, block_tokens: int) -> None:
        self.step = 0
        """Decoding steps so far."""
        self.kv_tokens = 0
        """Tokens before the next ones of all requests together."""
        self._block_tokens = block_tokens
        self._requests: dict[Live, None] = {}
        self._phases: list[dict[Live, None]] = [{} for _ in range(block_tokens)]
        self._ends: list[tuple[int, int, Live]] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: Live) -> bool:
        return request in self._requests

    def add(self, request: Live) -> None:
        """The request has got its first token in the last step, and is not at its end."""
        request.answered_at_step = self.step
        request.phase = (self.step - request.n_computed) % self._block_tokens
        self._requests[request] = None
        self._phases[request.phase][request] = None
        self.kv_tokens += request.n_computed
        end_step = self.step + request.job.n_answer_tokens - request.n_answered
        heapq.heappush(self._ends, (end_step, request.number, request))

    def remove(self, request: Live) -> None:
        """The request decodes no more; its numbers are brought up to date."""
        del self._requests[request]
        del self._phases[request.phase][request]
        n_steps = self.step - request.answered_at_step
        request.n_computed += n_steps
        request.n_answered += n_steps
        self.kv_tokens -= request.n_computed

    def need_block(self) -> list[Live]:
        """Return the requests that need another device block in the step to come."""
        return list(self._phases[self.step % self._block_tokens])

    def advance(self, n_steps: int) -> None:
        """So many steps are done."""
        self.step += n_steps
        self.kv_tokens += n_steps * len(self._requests)

    def take_ended(self) -> Iterator[Live]:
        """Remove and return the requests that have their last token."""
        while self._ends and self._ends[0][0] <= self.step:
            end_step, _, request = heapq.heappop(self._ends)
            if self._is_current(end_step, request):
                self.remove(request)
                yield request

    def steps_to_end(self) -> int:
        """Return after how many steps the next request ends. There must be one."""
        while not self._is_current(self._ends[0][0], self._ends[0][2]):
            heapq.heappop(self._ends)
        return self._ends[0][0] - self.step

    def reserve(self, n_steps: int, device: DeviceCache) -> int:
        """Allocate what the steps after the next one need, `n_steps` in all or as many as the device has room for.

        The next step has its blocks already; returns for how many steps there are blocks, at least 1.
        """
        needed: list[Live] = []
        n_free, phases, n_phases = device.n_free, self._phases, self._block_tokens
        n_covered = 1
        while n_covered < n_steps:
            phase = phases[(self.step + n_covered) % n_phases]
            if phase:
                if len(needed) + len(phase) > n_free:
                    break
                needed.extend(phase)
            n_covered += 1
        if needed:
            for request, block in zip(needed, device.allocate(len(needed)).tolist(), strict=True):
                request.device_blocks[request.n_device_blocks] = block
                request.n_device_blocks += 1
        return n_covered

    def _is_current(self, end_step: int, request: Live) -> bool:
        """Whether an entry of the heap is not left over from before a preemption."""
        return (
            request in self._requests
            and end_step == request.answered_at_step + request.job.n_answer_tokens - request.n_answered
        )
