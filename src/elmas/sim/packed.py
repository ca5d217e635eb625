"""A whole trace in arrays, 4 bytes per block: for what must know the future, or goes over a trace several times."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmas.cache.hints import Hints
from elmas.sim.traces import Access

_NO_SESSION = -1
_SPARE = 4
"""Numbers of blocks are taken as they are while the largest is below so many times their count."""


@dataclass(frozen=True)
class PackedTrace:
    """Requests 0 .. n - 1. Request `k` has the blocks `blocks[starts[k] : starts[k + 1]]`, of which the first
    `n_prompt[k]` are its prompt's and the others its answer's.

    `session` is a number for each session, -1 where there is none; `session_names` gives their names.
    """

    block_tokens: int
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    starts: NDArray[np.int64]
    n_prompt: NDArray[np.int64]
    blocks: NDArray[np.int32]
    session: NDArray[np.int32]
    session_names: list[str]
    hints: dict[int, Hints]

    @property
    def n_requests(self) -> int:
        """Requests in the trace."""
        return int(self.n_prompt.size)

    @property
    def n_sessions(self) -> int:
        """Named sessions in the trace."""
        return len(self.session_names)

    @property
    def prompt_tokens(self) -> int:
        """Input tokens of all requests."""
        return int(self.input_tokens.sum())

    def hit_tokens(self, hit_blocks: NDArray[np.int64]) -> int:
        """Return the tokens that are hit when the first `hit_blocks[k]` blocks of each request's prompt are."""
        return int(np.minimum(hit_blocks * self.block_tokens, self.input_tokens).sum())


def pack_trace(accesses: Iterable[Access], block_tokens: int) -> PackedTrace:
    """Return a trace in arrays. Blocks get other numbers than in the file where those are far apart."""
    arrival_s, input_tokens = array("d"), array("q")
    starts, n_prompt, session = array("q", [0]), array("q"), array("i")
    blocks: array[int] = array("i")
    numbers: dict[str, int] = {}
    hints: dict[int, Hints] = {}
    for index, access in enumerate(accesses):
        arrival_s.append(access.arrival_s)
        input_tokens.append(access.input_tokens)
        n_prompt.append(len(access.hash_ids))
        try:
            blocks.extend(access.hash_ids + access.out_hash_ids)
        except OverflowError:
            # Numbers beyond 32 bits: what was entered of this request is taken back, and all become wide.
            blocks = array("q", blocks[: starts[-1]])
            blocks.extend(access.hash_ids + access.out_hash_ids)
        starts.append(len(blocks))
        name = access.session_id
        session.append(_NO_SESSION if name is None else numbers.setdefault(name, len(numbers)))
        if access.hints is not None:
            hints[index] = access.hints
    return PackedTrace(
        block_tokens=block_tokens,
        arrival_s=np.frombuffer(arrival_s),
        input_tokens=np.frombuffer(input_tokens, dtype=np.int64),
        starts=np.frombuffer(starts, dtype=np.int64),
        n_prompt=np.frombuffer(n_prompt, dtype=np.int64),
        blocks=_dense(blocks),
        session=np.frombuffer(session, dtype=np.int32),
        session_names=list(numbers),
        hints=hints,
    )


def _dense(numbers: "array[int]") -> NDArray[np.int32]:
    """Return the numbers, or others from 0 on that fit an array of places. Does not copy what is as it should be."""
    ids: NDArray[Any] = np.frombuffer(numbers, dtype=np.int32 if numbers.typecode == "i" else np.int64)
    if ids.size and ids.min() >= 0 and ids.max() < _SPARE * ids.size:
        return ids.astype(np.int32, copy=False)
    return np.unique(ids, return_inverse=True)[1].astype(np.int32)
