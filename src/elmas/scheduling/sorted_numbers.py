"""Numbers in ascending order, from which taking one out is cheap.

A plain sorted list moves all that is behind a number in memory when it is taken out, up to 80 KB at 10,000 numbers.
Here the place of the first one moves when it leaves; others stay where they are, marked, until they are at an end or
more are marked than not.
"""

from bisect import bisect_right, insort

_CUT = 512
"""So many places before the first number are cut off at once."""


class SortedNumbers:
    """Numbers, each once, in ascending order. Taking one out and adding the greatest are O(1), adding others is
    O(log n) and a move in memory."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        # The first place that counts, and the numbers from there on that are taken out; neither end is one.
        self._start = 0
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._numbers) - self._start - len(self._gone)

    @property
    def first(self) -> int | None:
        """The least number, None without one."""
        return self._numbers[self._start] if self._numbers else None

    @property
    def last(self) -> int:
        """The greatest number. IndexError without one."""
        return self._numbers[-1]

    def after(self, number: int) -> int:
        """Return the least number that is greater than this one, the least of all if there is none. IndexError without
        any."""
        numbers, place = self._numbers, bisect_right(self._numbers, number, lo=self._start)
        while place < len(numbers) and numbers[place] in self._gone:
            place += 1
        return numbers[place] if place < len(numbers) else numbers[self._start]

    def add(self, number: int) -> None:
        """Put a number in its place. It must not be there."""
        numbers = self._numbers
        if not numbers or number > numbers[-1]:
            numbers.append(number)
        elif number in self._gone:
            self._gone.remove(number)
        else:
            insort(numbers, number, lo=self._start)

    def remove(self, number: int) -> None:
        """Take a number out, which must be there."""
        numbers, start = self._numbers, self._start
        if number == numbers[start]:
            self._start = start = start + 1
            if self._gone or start >= _CUT or start == len(numbers):
                self._trim_front()
        elif number == numbers[-1]:
            numbers.pop()
            while numbers[-1] in self._gone:
                self._gone.remove(numbers.pop())
        else:
            self._gone.add(number)
            if 2 * len(self._gone) > len(numbers) - start:
                self._numbers = [number for number in numbers[start:] if number not in self._gone]
                self._start = 0
                self._gone.clear()

    def _trim_front(self) -> None:
        numbers, start = self._numbers, self._start
        while start < len(numbers) and numbers[start] in self._gone:
            self._gone.remove(numbers[start])
            start += 1
        if start >= _CUT or start == len(numbers):
            del numbers[:start]
            start = 0
        self._start = start
