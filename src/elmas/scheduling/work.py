"""What a waiting request needs: the tokens that are in no cache, and a little for those to be loaded.

Tokens that only the device has are taken off: they would have to be computed, too, if others ran before and evicted
them.

An estimate takes a few probes of the caches, however long the prompt is: prefixes are given up from their end, so what
is resident of one is searched by halving. Where that does not hold the estimate is too low until the server looks
itself.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from elmas.cache.rows import BlockHash
from elmas.scheduling.ranking import Estimate

LOAD_COST_SHARE = 0.02
"""The cost of loading a token, as a share of computing it: enough to prefer what is on the device already."""

_COMING_SHARE = 0.5
"""A request waits for another one that brings at least this share of what the device lacks of it."""

_ON_DEVICE_SHARE = 0.5
"""So much of a prompt is on the device where it has been before."""

Probe = Callable[[BlockHash], bool]


class Work:
    """Estimates over two caches, given as questions whether they hold a block, and over what requests bring that have
    begun. `block_tokens` is the number of tokens in a block."""

    def __init__(self, block_tokens: int, is_on_device: Probe, is_in_host: Probe) -> None:
        self._block_tokens = block_tokens
        self._is_on_device = is_on_device
        self._is_in_host = is_in_host
        self._coming: dict[str, tuple[int, Sequence[BlockHash]]] = {}
        # The same by the first block that the device lacked then, whose place in the prompt is counted: a device does
        # not lose blocks of a request that has begun, so whoever shares more has this block at this place.
        self._by_first: dict[BlockHash, dict[str, Sequence[BlockHash]]] = {}
        self._n_at_place: Counter[int] = Counter()

    def begin(self, name: str, blocks: Sequence[BlockHash]) -> None:
        """A request has begun: it brings those of its blocks that the device lacks, until its `end`. One that has
        loaded begins once more."""
        self.end(name)
        first = run_end(self._is_on_device, blocks, 0, len(blocks))
        if first < len(blocks):
            self._coming[name] = (first, blocks)
            self._by_first.setdefault(blocks[first], {})[name] = blocks
            self._n_at_place[first] += 1

    def end(self, name: str) -> None:
        """The request has brought its blocks, or does not run after all; it need not have begun."""
        first, blocks = self._coming.pop(name, (0, ()))
        if not blocks:
            return
        same = self._by_first[blocks[first]]
        del same[name]
        if not same:
            del self._by_first[blocks[first]]
        self._n_at_place[first] -= 1
        if not self._n_at_place[first]:
            del self._n_at_place[first]

    def estimate(self, n_tokens: int, blocks: Sequence[BlockHash]) -> Estimate:
        """Return what a request of `n_tokens` needs, whose complete blocks are `blocks`; its cost is in tokens to
        compute. One token is always left to compute."""
        block_tokens, is_on_device, is_in_host = self._block_tokens, self._is_on_device, self._is_in_host
        n_usable = min(len(blocks), (n_tokens - 1) // block_tokens)
        n_device = run_end(is_on_device, blocks, 0, n_usable)
        n_load = run_end(is_in_host, blocks, n_device, n_usable) - n_device
        n_at_risk = 0
        if n_device > 0 and not is_in_host(blocks[n_device - 1]):
            n_at_risk = n_device - run_end(is_in_host, blocks, 0, n_device)
        n_compute = n_tokens - (n_device + n_load + n_at_risk) * block_tokens
        cost = n_compute + LOAD_COST_SHARE * n_load * block_tokens
        if n_device == n_usable:
            return Estimate(cost)
        return Estimate(cost, blocks[n_device], bool(self._coming) and self._is_coming(blocks, n_device, n_usable))

    def needs_room(self, n_tokens: int, blocks: Sequence[BlockHash]) -> bool:
        """Return whether the request would bring blocks to the device that it is known to have had: some of it is in a
        cache, and not most of it on the device."""
        n_usable = min(len(blocks), (n_tokens - 1) // self._block_tokens)
        n_device = run_end(self._is_on_device, blocks, 0, n_usable)
        if n_device < n_usable and self._is_in_host(blocks[n_device]):
            return True
        return 0 < n_device < _ON_DEVICE_SHARE * n_usable

    def _is_coming(self, blocks: Sequence[BlockHash], n_device: int, n_usable: int) -> bool:
        """Whether a request that has begun brings most of the blocks `n_device .. n_usable - 1`."""
        last = n_device + max(0, int(_COMING_SHARE * (n_usable - n_device)) - 1)
        wanted = blocks[last]
        return any(
            len(others) > last and others[last] == wanted
            for place in self._n_at_place
            if place <= n_device
            for others in self._by_first.get(blocks[place], {}).values()
        )


def run_end(is_there: Probe, blocks: Sequence[BlockHash], first: int, end: int) -> int:
    """Return the end of the run of places from `first` on whose blocks are there, if these come before all others."""
    if first >= end or not is_there(blocks[first]):
        return first
    if is_there(blocks[end - 1]):
        return end
    low, high = first, end - 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_there(blocks[middle]):
            low = middle
        else:
            high = middle
    return high
