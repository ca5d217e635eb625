"""Conversations that grow turn by turn: what the generated traces are made of.

Lengths are whole blocks, so that a family means the same at any block size: a prompt ends with a block, and its answer
some tokens into the next one, which the next prompt completes. (The newest token of an answer has no KV.)
"""

from dataclasses import dataclass, field

import numpy as np

from elmas.sim.traces import Access

_BEYOND_TOKENS = 8
"""An answer goes so far beyond its last complete block."""


@dataclass
class Maker:
    """What a family makes its requests with. `load` says how many times as often sessions come as they usually do."""

    random: np.random.Generator
    block_tokens: int
    load: float = 1.0
    _n_blocks: int = 0

    def new_blocks(self, n_blocks: int) -> range:
        """Return numbers, counted up from 0, for `n_blocks` new blocks."""
        first = self._n_blocks
        self._n_blocks += n_blocks
        return range(first, self._n_blocks)

    def between(self, bounds: tuple[int, int]) -> int:
        """Return a random whole number, both bounds included."""
        return int(self.random.integers(*bounds, endpoint=True))


@dataclass(slots=True)
class Conversation:
    """One session, whose prompts go on where the answer before ended. Blocks are held as ranges: a million fit."""

    name: str
    parts: list[range] = field(default_factory=list)

    def turn(self, maker: Maker, arrival_s: float, n_new: int, n_answer: int) -> Access:
        """Return the next request: its prompt has `n_new` blocks more, and its answer completes `n_answer`."""
        added = maker.new_blocks(n_new + n_answer)
        prompt = [block for part in self.parts for block in part]
        prompt.extend(added[:n_new])
        self.parts.append(added)
        return Access(
            arrival_s=arrival_s,
            input_tokens=len(prompt) * maker.block_tokens,
            output_tokens=n_answer * maker.block_tokens + min(_BEYOND_TOKENS, maker.block_tokens),
            hash_ids=tuple(prompt),
            out_hash_ids=tuple(added[n_new:]),
            session_id=self.name,
        )
