"""Keys of which the least is wanted, most of them added in ascending order.

Requests that cost the same line up by arrival: their keys join at the end of a list and leave at its front, both O(1).
The others are in a heap beside it. Keys that are taken out elsewhere stay, marked, until their turn comes or more are
marked than not.
"""

from heapq import heapify, heappop, heappush

Key = tuple[int, float, int]

_CUT = 512
"""So many places before the first key are cut off at once."""


class KeyQueue:
    """Keys, each once. Adding one and taking out the least are O(log n) at most, taking out another one O(1)."""

    def __init__(self) -> None:
        # In ascending order from the first place that counts on.
        self._line: list[Key] = []
        self._start = 0
        self._heap: list[Key] = []
        # Those of both that are taken out; the least of neither is one.
        self._gone: set[Key] = set()

    def __len__(self) -> int:
        return len(self._line) - self._start + len(self._heap) - len(self._gone)

    @property
    def first(self) -> Key | None:
        """The least key, None without one."""
        heap = self._heap
        if self._start == len(self._line):
            return heap[0] if heap else None
        first = self._line[self._start]
        return heap[0] if heap and heap[0] < first else first

    def add(self, key: Key) -> None:
        """Add a key, which must not be there."""
        line = self._line
        if key in self._gone:
            self._gone.remove(key)
        elif not line or key > line[-1]:
            line.append(key)
        else:
            heappush(self._heap, key)

    def remove(self, key: Key) -> None:
        """Take a key out, which must be there."""
        line, start = self._line, self._start
        if start < len(line) and key == line[start]:
            self._start = start = start + 1
            if self._gone or start >= _CUT or start == len(line):
                self._trim_line()
        elif self._heap and key == self._heap[0]:
            heappop(self._heap)
            while self._heap and self._heap[0] in self._gone:
                self._gone.remove(heappop(self._heap))
        else:
            self._gone.add(key)
            if len(self._gone) > len(self):
                self._drop_gone()

    def _trim_line(self) -> None:
        line, start = self._line, self._start
        while start < len(line) and line[start] in self._gone:
            self._gone.remove(line[start])
            start += 1
        if start >= _CUT or start == len(line):
            del line[:start]
            start = 0
        self._start = start

    def _drop_gone(self) -> None:
        self._line = [key for key in self._line[self._start :] if key not in self._gone]
        self._heap = [key for key in self._heap if key not in self._gone]
        heapify(self._heap)
        self._start = 0
        self._gone.clear()
