"""What a waiting request needs: the tokens that are in no cache, and a little for those to be loaded.

Tokens that only the device has are taken off: they would have to be computed, too, if others ran before and evicted
them.

An estimate takes a few probes of the caches, however long the prompt is: prefixes are given up from their end, so what
is resident of one is searched by halving, and where an earlier estimate found its end two probes tell that it is still
there. Where prefixes have gaps the estimate is too low until the server looks itself.
"""

from collections.abc import Callable, Sequence

from elmas.cache.rows import BlockHash
from elmas.scheduling.ranking import Estimate

LOAD_COST_SHARE = 0.02
"""The cost of loading a token, as a share of computing it: enough to prefer what is on the device already."""

_COMING_SHARE = 0.5
"""A request waits for another one that brings at least this share of what the device lacks of it."""

_ON_DEVICE_SHARE = 0.5
"""So much of a prompt is on the device where it has been before."""

_NOTHING_KNOWN = Estimate(0.0)

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
        self._n_at_place: dict[int, int] = {}
        # Blocks on the device of the request that was looked at last.
        self._n_device = 0

    def begin(self, name: str, blocks: Sequence[BlockHash]) -> bool:
        """A request has begun: it brings those of its blocks that the device lacks, until its `end`; returns whether
        there are any. One that has loaded begins once more."""
        if name in self._coming:
            self.end(name)
        # Mostly all are allocated at once, or none that were not there when it was looked at, mostly just now.
        if not blocks or self._is_on_device(blocks[-1]):
            return False
        first = run_end(self._is_on_device, blocks, 0, len(blocks), self._n_device)
        if first == len(blocks):
            return False
        self._coming[name] = (first, blocks)
        self._by_first.setdefault(blocks[first], {})[name] = blocks
        self._n_at_place[first] = self._n_at_place.get(first, 0) + 1
        return True

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

    def estimate(self, n_tokens: int, blocks: Sequence[BlockHash], before: Estimate | None = None) -> Estimate:
        """Return what a request of `n_tokens` needs, whose complete blocks are `blocks`; its cost is in tokens to
        compute. One token is always left to compute. Returns the same estimate as `before` if nothing has changed."""
        block_tokens, is_on_device, is_in_host = self._block_tokens, self._is_on_device, self._is_in_host
        n_usable = min(len(blocks), (n_tokens - 1) // block_tokens)
        guess = _NOTHING_KNOWN if before is None else before
        n_device = guess.n_device
        if n_device < min(n_usable, self._n_device) and is_on_device(blocks[n_device]):
            n_device = self._n_device  # more than before, maybe as much as of the one that was looked at last
        n_device = self._n_device = run_end(is_on_device, blocks, 0, n_usable, n_device)
        n_resident = run_end(is_in_host, blocks, n_device, n_usable, guess.n_resident)
        n_kept = n_device
        if n_device > 0 and not is_in_host(blocks[n_device - 1]):
            n_kept = run_end(is_in_host, blocks, 0, n_device, guess.n_kept)
        n_load = n_resident - n_device
        n_compute = n_tokens - (n_resident + n_device - n_kept) * block_tokens
        cost = n_compute + LOAD_COST_SHARE * n_load * block_tokens
        next_block = blocks[n_device] if n_device < n_usable else None
        is_coming = next_block is not None and bool(self._coming) and self._is_coming(blocks, n_device, n_usable)
        found = cost, next_block, is_coming, n_device, n_resident, n_kept
        return before if before == found else Estimate(*found)

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
        for place in self._n_at_place:
            same = self._by_first.get(blocks[place]) if place <= n_device else None
            if same is not None:
                wanted = blocks[last]
                for others in same.values():
                    if len(others) > last and others[last] == wanted:
                        return True
        return False


def run_end(is_there: Probe, blocks: Sequence[BlockHash], first: int, end: int, guess: int = 0) -> int:
    """Return the end of the run of places from `first` on whose blocks are there, if these come before all others.
    Where that is the `guess`, two probes tell; a guess before `first` means `first`."""
    if first >= end:
        return first
    low, high = first - 1, end
    if first < guess:
        guess = min(guess, end)
        if is_there(blocks[guess - 1]):
            low = guess - 1
        else:
            high = guess - 1
    else:
        guess = first
    if guess < high:
        if not is_there(blocks[guess]):
            return guess
        low = guess
    # Mostly all are there, or none, or as many as before.
    if high == end and high - low > 1:
        high -= 1
        if is_there(blocks[high]):
            return end
    while high - low > 1:
        middle = (low + high) // 2
        if is_there(blocks[middle]):
            low = middle
        else:
            high = middle
    return high
