"""Who was served a moment ago, by the text of the request: a full device still holds their blocks, but not for long.

A device that is full frees blocks when an answer ends and needs them when another one begins. So it holds the prompts
of answers after whose end hardly anybody began: at the end of a round those of its last requests. When these come back
they should run before others take the room.

Whoever comes back sends what was there before, and more: the same bytes at the same place.
"""

from collections import deque
from dataclasses import dataclass

_MOST_BEGUN = 4
"""An answer that ended before more than so many others began is recent no more. In the simulator 1 to 16 do as well."""

_MOST_KEPT = 256
"""Only so many of the last ones: each costs every request that comes 0.1 us."""

_PLACE_SHARE = 0.75
"""Where the mark of a request is, as a share of its length: behind what it shares with others, before what comes after
its prompt."""

_MARK_BYTES = 256
_LEAST_BYTES = 1024
"""Of a request that is worth recognising."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A few bytes of a request and their place."""

    place: int
    piece: bytes

    def is_in(self, body: bytes) -> bool:
        """Return whether a request has the same bytes there."""
        return body.startswith(self.piece, self.place)


def mark_of(body: bytes) -> Mark | None:
    """Return the mark by which this request's next turn will be known; None for a short one."""
    if len(body) < _LEAST_BYTES:
        return None
    place = int(_PLACE_SHARE * len(body)) - _MARK_BYTES
    return Mark(place, body[place : place + _MARK_BYTES])


class RecentPrompts:
    """See the module."""

    def __init__(self) -> None:
        self._n_begun = 0
        self._ended: deque[tuple[int, Mark]] = deque(maxlen=_MOST_KEPT)
        """With how many answers had begun by then, in rising order."""

    def begun(self) -> None:
        """An answer has begun."""
        self._n_begun += 1
        while self._ended and self._n_begun - self._ended[0][0] > _MOST_BEGUN:
            self._ended.popleft()

    def ended(self, mark: Mark) -> None:
        """The answer to the request with this mark has ended."""
        self._ended.append((self._n_begun, mark))

    def has(self, body: bytes) -> bool:
        """Return whether a request is the next turn of one whose answer has ended a moment ago."""
        return any(mark.is_in(body) for _, mark in self._ended)
