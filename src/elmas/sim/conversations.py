"""Conversations that grow turn by turn: what the generated traces are made of.

Lengths are whole blocks, so that a family means the same at any block size: a prompt ends with a block, and its answer
with some tokens into the next one, which the next prompt completes. The newest token of an answer has no KV.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from elmas.sim.traces import Access


class BlockNumbers:
    """Hands out numbers for new blocks, from 0 on."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, n_blocks: int) -> range:
        """Return the numbers of `n_blocks` new blocks."""
        first = self._next
        self._next += n_blocks
        return range(first, self._next)


@dataclass(slots=True)
class Conversation:
    """One session: its prompts go on where the answer before ended. Its blocks are ranges, so that a million fit."""

    name: str | None
    parts: list[range] = field(default_factory=list)

    def turn(self, arrival_s: float, n_new: int, n_answer: int, numbers: BlockNumbers, block_tokens: int) -> Access:
        """Return the next request: `n_new` blocks are added to the prompt, and `n_answer` blocks are answered."""
        if n_new:
            self.parts.append(numbers.take(n_new))
        prompt = tuple(self._blocks())
        answer = numbers.take(n_answer)
        if n_answer:
            self.parts.append(answer)
        return Access(
            arrival_s=arrival_s,
            input_tokens=len(prompt) * block_tokens,
            output_tokens=n_answer * block_tokens + min(8, block_tokens - 1) + 1,
            hash_ids=prompt,
            out_hash_ids=tuple(answer),
            session_id=self.name,
        )

    def _blocks(self) -> Iterator[int]:
        for part in self.parts:
            yield from part
