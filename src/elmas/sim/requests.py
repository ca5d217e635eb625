"""Requests as the simulator sees them: what is asked for, and how far the server is with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elmas.cache.hints import NO_HINTS, Hints
from elmas.cache.rows import BlockHash
from elmas.cache.sessions import NO_SESSION
from elmas.sim.device import DeviceBlocks


@dataclass(frozen=True, slots=True)
class Job:
    """A request to be simulated.

    `blocks` are the complete blocks of prompt and answer together, the prompt's first: what the answer will be is known
    here, and nowhere before it has been generated. `tag` is the source's own, such as the agent it belongs to.
    """

    arrival_s: float
    n_prompt_tokens: int
    n_answer_tokens: int
    blocks: Sequence[BlockHash]
    session_id: str | None = None
    hints: Hints = NO_HINTS
    tag: int = 0


class Live:
    """A job in the server, until it has ended."""

    __slots__ = (
        "answered_at_step",
        "device_blocks",
        "first_token_s",
        "job",
        "key",
        "n_answered",
        "n_computed",
        "n_considered",
        "n_device_blocks",
        "n_preemptions",
        "n_registered",
        "number",
        "phase",
        "session",
    )

    def __init__(self, job: Job, number: int, n_most_blocks: int) -> None:
        self.job = job
        self.number = number
        self.key = str(number)
        self.session = NO_SESSION
        self.device_blocks: DeviceBlocks = np.empty(n_most_blocks, dtype=np.int64)
        self.n_device_blocks = 0
        self.n_computed = 0
        """Tokens whose KV is on the device, or is being loaded; while it decodes, what it was when that began."""
        self.n_answered = 0
        """Tokens of the answer so far; while it decodes, what it was when that began."""
        self.answered_at_step = 0
        """The number of the decoding step at which the two above were true."""
        self.phase = 0
        self.first_token_s = -1.0
        self.n_considered = 0
        """Blocks that were considered for storing."""
        self.n_registered = 0
        """Blocks that can be found on the device."""
        self.n_preemptions = 0

    @property
    def n_tokens(self) -> int:
        """Tokens known so far: the prompt's and the answer's. Not valid while it decodes."""
        return self.job.n_prompt_tokens + self.n_answered

    @property
    def own_blocks(self) -> DeviceBlocks:
        """The device blocks it has, in prefix order."""
        return self.device_blocks[: self.n_device_blocks]

    def add_blocks(self, blocks: DeviceBlocks) -> None:
        """It has these device blocks too, after those it had."""
        first = self.n_device_blocks
        self.n_device_blocks = first + blocks.size
        self.device_blocks[first : self.n_device_blocks] = blocks
