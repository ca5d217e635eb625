"""A recorded trace played again: every request when it came, with prompts made from its block numbers.

Equal numbers become equal tokens, so the sharing of the trace is kept exactly; what was really said is not in a trace.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self

from elmas.bench.workloads.calls import Tokens, completion, fewer
from elmas.bench.workloads.steps import AtOnce, Due, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary
from elmas.errors import UserError
from elmas.sim.generate import TraceRecipe, generate
from elmas.sim.traces import Access, read_trace

_BLOCK, _UNNUMBERED = range(2)
_ID_MASK = (1 << 64) - 1
_LEAST_REQUESTS = 20


@dataclass(frozen=True)
class Replay(Scripted):
    """The first `n_requests_wanted` requests of a trace, at its own times multiplied by `time_scale`."""

    name: str
    n_requests_wanted: int
    time_scale: float
    """Below 1 faster than it was recorded."""
    block_tokens: int
    most_prompt_tokens: int
    """Longer prompts are cut to their beginning."""
    most_answer_tokens: int
    seed: int
    vocabulary: Vocabulary
    trace: Path | None = None
    """None: a generated trace of agents with tools."""
    n_sessions: int = 60
    """Of the generated trace."""

    def __post_init__(self) -> None:
        """Raise UserError for numbers that cannot be played."""
        if not 0 < self.time_scale < float("inf"):
            raise UserError(f"the time scale is {self.time_scale}: give a factor above 0, 1 for the trace's own times")
        if min(self.block_tokens, self.most_prompt_tokens, self.most_answer_tokens) < 1:
            raise UserError("a replay needs blocks, prompts and answers of one token at least")

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer requests: the first of the trace."""
        return replace(self, n_requests_wanted=fewer(self.n_requests_wanted, factor, _LEAST_REQUESTS))

    def source(self) -> str:
        """Return the file of the trace, or "synthetic"."""
        return "synthetic" if self.trace is None else str(self.trace)

    def make_script(self) -> Step:
        """Return the requests with the times at which they are due; raises UserError for an unreadable trace."""
        accesses = list(islice(self._accesses(), self.n_requests_wanted))
        if not accesses:
            raise UserError(f"{self.source()} has no requests: give a trace with one line per request")
        turns: Counter[str] = Counter()
        steps = []
        for index, access in enumerate(accesses):
            agent = f"request-{index}" if access.session_id is None else f"session-{access.session_id}"
            n_answer = min(max(access.output_tokens, 1), self.most_answer_tokens)
            request = completion(self._prompt(index, access), n_answer, agent=agent, turn=turns[agent])
            turns[agent] += 1
            steps.append(Due((access.arrival_s - accesses[0].arrival_s) * self.time_scale, request))
        return AtOnce(tuple(steps))

    def _accesses(self) -> Iterable[Access]:
        if self.trace is not None:
            return read_trace(self.trace, self.block_tokens)
        return generate(TraceRecipe("tool-agents", self.n_sessions, self.seed, self.block_tokens))

    def _prompt(self, index: int, access: Access) -> Sequence[int]:
        """Return the token ids of a prompt: each block's are drawn from its number, an unnumbered rest's are unique."""
        tokens = Tokens(self.seed, self.vocabulary)
        n_prompt = min(access.input_tokens, self.most_prompt_tokens)
        ids: list[int] = []
        for hash_id in access.hash_ids:
            if len(ids) >= n_prompt:
                break
            ids += tokens.draw(self.block_tokens, _BLOCK, hash_id & _ID_MASK)
        if len(ids) < n_prompt:
            ids += tokens.draw(n_prompt - len(ids), _UNNUMBERED, index)
        return ids[:n_prompt]
