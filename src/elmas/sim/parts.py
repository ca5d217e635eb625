"""Parts of a trace, one for each replica: by session, or in turn where a request names none."""

import re
import zlib
from dataclasses import dataclass

_GLANCE = re.compile(
    rb'\{"timestamp": ?(\d+(?:\.\d+)?), ?"input_length": ?\d+, ?"output_length": ?\d+, ?"hash_ids": ?\[[\d, ]*\]'
    rb'(?:, ?"out_hash_ids": ?\[[\d, ]*\])?(?:, ?"session_id": ?"([^"\\]*)")?\}\s*'
)
"""A line as it is usually written, with its time and the bytes of its session. They need not be correct otherwise."""


@dataclass(frozen=True)
class Part:
    """One of `n` parts, the whole by default. A session is in one part only."""

    index: int = 0
    n: int = 1

    def has(self, number: int, session_id: bytes | None) -> bool:
        """Return whether the request of this number, counted from 0, and this session is in the part."""
        key = number if session_id is None else zlib.crc32(session_id)
        return key % self.n == self.index

    def passed_ms(self, number: int, line: bytes) -> float | None:
        """Return the time of a line of a trace that is another part's; None where only reading the line could tell."""
        if self.n == 1:
            return None
        seen = _GLANCE.fullmatch(line)
        return None if seen is None or self.has(number, seen[2]) else float(seen[1])


WHOLE = Part()
