"""What an agent remembers: a stream of texts, retrieved by recency, importance and relevance (Park et al., 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

from elmas.agents.relevance import Bm25

HOURLY_DECAY = 0.995
"""What an hour without recall leaves of a memory's recency: the value of the paper."""


@dataclass(frozen=True)
class Memory:
    """One thing that an agent saw, did or heard."""

    minute: int
    """When it was stored, in minutes of the town's clock."""
    text: str
    poignancy: int
    """From 1, everyday, to 10, unforgettable: the paper's importance."""
    heard_from: str | None = None
    """Who told it; None for what the agent saw."""
    news: int | None = None
    """The number of the town's news that it tells of; None for everything else."""

    @property
    def sentence(self) -> str:
        """The memory as prompts tell it."""
        return self.text if self.heard_from is None else f"{self.heard_from} said that {self.text}"


class MemoryStream:
    """Memories in the order in which they came; nothing is ever forgotten, only not recalled."""

    def __init__(self) -> None:
        self._memories: list[Memory] = []
        self._recalled: list[int] = []
        self._texts = Bm25()

    @property
    def memories(self) -> tuple[Memory, ...]:
        """All of them, oldest first."""
        return tuple(self._memories)

    def add(self, memory: Memory) -> None:
        """Store a memory; it counts as recalled just now."""
        self._memories.append(memory)
        self._recalled.append(memory.minute)
        self._texts.add(memory.text)

    def retrieve(self, query: str, minute: int, n: int) -> list[Memory]:
        """Return the `n` memories of highest score at `minute`, best first, and note that they were recalled.

        The score is the sum of recency (HOURLY_DECAY to the power of the hours since the last recall), importance and
        relevance to the query, each scaled to 0..1 over all memories. Of equal ones the newer comes first.
        """
        scores = self._scores(query, minute)
        order = sorted(range(len(scores)), key=lambda index: (scores[index], index), reverse=True)[:n]
        for index in order:
            self._recalled[index] = minute
        return [self._memories[index] for index in order]

    def _scores(self, query: str, minute: int) -> list[float]:
        recency = _scaled([HOURLY_DECAY ** ((minute - recalled) / 60) for recalled in self._recalled])
        importance = _scaled([float(memory.poignancy) for memory in self._memories])
        relevance = _scaled(self._texts.scores(query))
        return [sum(parts) for parts in zip(recency, importance, relevance, strict=True)]


def _scaled(values: Sequence[float]) -> list[float]:
    """Return the values moved and stretched to 0..1; all 0 when they are all the same."""
    least, most = min(values, default=0.0), max(values, default=0.0)
    return [(value - least) / (most - least) if most > least else 0.0 for value in values]
