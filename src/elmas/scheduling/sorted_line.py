"""A sorted list whose front is cheap to take.

In a queue most values leave at the front and join at the end. A plain sorted list moves all others in memory when the
first one leaves, 80 KB at 10,000 values; here the place of the first one moves, and what is before it is cut off now
and then.
"""

from bisect import bisect_left, insort
from typing import Generic, TypeVar

Value = TypeVar("Value", int, tuple[int, float, int])

_CUT = 512
"""So many places before the first value are cut off at once."""


class SortedLine(Generic[Value]):
    """Values, each once, in ascending order. Adding the greatest and removing the least are O(1), others O(log n) and a
    move in memory."""

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._values) - self._start

    @property
    def first(self) -> Value:
        """The least value. IndexError without one."""
        return self._values[self._start]

    @property
    def last(self) -> Value:
        """The greatest value. IndexError without one."""
        if self._start == len(self._values):
            raise IndexError("the line is empty")
        return self._values[-1]

    def add(self, value: Value) -> None:
        """Put a value in its place."""
        insort(self._values, value, lo=self._start)

    def remove(self, value: Value) -> None:
        """Take a value out, which must be there."""
        values, start = self._values, self._start
        if values[start] != value:
            del values[bisect_left(values, value, lo=start)]
            return
        self._start = start + 1
        if start + 1 >= _CUT or start + 1 == len(values):
            del values[: start + 1]
            self._start = 0
