"""The order of waiting requests: cheapest first, within a bound on how often a request is overtaken.

Running what is resident first turns a tier's capacity into hits: when all agents of a round wait at once, first come
first served would evict each prefix shortly before its turn (the cyclic scan that defeats LRU).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A waiting request as the order sees it; a window lists them in order of arrival.

    `cost` estimates the work it needs, in any unit. `n_overtaken` counts the later arrivals that ran before it.
    """

    cost: float
    n_overtaken: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True)
class Bounds:
    """No request is overtaken more than `max_overtaken` times, nor after it has waited `max_wait_s`."""

    max_overtaken: int
    max_wait_s: float


def order(window: Sequence[Waiting], bounds: Bounds) -> list[int]:
    """Return the positions of `window` in the order they should run.

    Cheapest first, arrival order among equals, except that nobody overtakes a request that is at one of its bounds:
    such a request, and whoever arrived before it, comes first. Running any beginning of the result keeps the bounds.
    """
    if all(window[place].cost <= window[place + 1].cost for place in range(len(window) - 1)):
        return list(range(len(window)))
    due = [
        position
        for position, request in enumerate(window)
        if request.n_overtaken >= bounds.max_overtaken or request.waited_s >= bounds.max_wait_s
    ]
    n_first = due[-1] + 1 if due else 0
    result = list(range(n_first))
    # What later arrivals may still do to each request; the smallest allowance among the earlier ones is what counts.
    allowance = [bounds.max_overtaken - request.n_overtaken for request in window]
    left = list(range(n_first, len(window)))
    for position in sorted(left, key=lambda position: (window[position].cost, position)):
        if position not in left:
            continue
        place = left.index(position)
        while any(allowance[earlier] == 0 for earlier in left[:place]):
            # Someone earlier has no allowance left: everybody up to it goes in order of arrival.
            last = max(index for index, earlier in enumerate(left[:place]) if allowance[earlier] == 0)
            result += left[: last + 1]
            del left[: last + 1]
            place = left.index(position)
        for earlier in left[:place]:
            allowance[earlier] -= 1
        result.append(left.pop(place))
    return result
