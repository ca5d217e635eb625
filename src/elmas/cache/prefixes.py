"""What a request said of the next use of its prefixes, and which of some blocks that speaks of.

Only the last block of each prefix is held. Blocks come in batches, in prefix order; a batch in which no prefix ends
lies behind those that were passed before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from elmas.cache.rows import BlockHash


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of one prompt, the shorter first. `tenant` is who spoke, at `said_s`; prefix `i` has `n_blocks[i]`
    blocks, the last of which is `ends[i]`, and will be used after `spans_s[i]` seconds."""

    tenant: int
    said_s: float
    n_blocks: tuple[int, ...]
    ends: tuple[BlockHash, ...]
    spans_s: tuple[float, ...]

    @property
    def n(self) -> int:
        """How many prefixes there are."""
        return len(self.ends)

    def span_s(self, number: int) -> float:
        """Return the seconds to the next use of a prefix; infinite beyond them all."""
        return self.spans_s[number] if number < self.n else float("inf")

    def n_passed(self, depth_blocks: int) -> int:
        """Return how many of the prefixes end within the first so many blocks."""
        return sum(n <= depth_blocks for n in self.n_blocks)

    def parts(self, blocks: Sequence[BlockHash], n_passed: int) -> list[tuple[int, int]]:
        """Cut a batch where prefixes end; returns the end of each part and the number of the shortest prefix that
        covers it, as many as there are prefixes for what is beyond them all.

        The first `n_passed` prefixes are known to end before the batch.
        """
        parts: list[tuple[int, int]] = []
        end = 0
        for number in range(n_passed, len(self.ends)):
            try:
                end = blocks.index(self.ends[number], end) + 1
            except ValueError:
                continue
            parts.append((end, number))
            n_passed = number + 1
        if end < len(blocks):
            parts.append((len(blocks), n_passed))
        return parts


def prefixes_in_blocks(
    prefixes: Sequence[tuple[int, float]],
    hashes: Sequence[BlockHash],
    block_tokens: int,
    tenant: int,
    now_s: float,
) -> Prefixes:
    """Return hints of tokens and seconds, said now of a prompt with these complete blocks. A block of which
    only a part is covered is not."""
    spans_s: dict[int, float] = {}
    for n_tokens, span_s in prefixes:
        n_blocks = min(n_tokens // block_tokens, len(hashes))
        if n_blocks:
            spans_s[n_blocks] = min(span_s, spans_s.get(n_blocks, span_s))
    ends = tuple(hashes[n - 1] for n in spans_s)
    return Prefixes(tenant, now_s, tuple(spans_s), ends, tuple(spans_s.values()))
