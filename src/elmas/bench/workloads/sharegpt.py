"""Questions of people, each once, in an open loop: essentially nothing is reused. What a cache costs shows here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from elmas.bench.workloads.calls import Tokens, arrival_times_s, completion, fewer
from elmas.bench.workloads.datasets import is_wanted, read_sharegpt
from elmas.bench.workloads.steps import AtOnce, Due, Scripted, Step
from elmas.bench.workloads.workload import Vocabulary

_ARRIVAL, _LENGTHS, _PROMPT = range(3)
_LEAST_REQUESTS = 10

_PROMPT_MEDIAN, _PROMPT_SIGMA = 150.0, 1.7
_ANSWER_MEDIAN, _ANSWER_SIGMA = 130.0, 1.0
"""Of log-normal lengths which, filtered, have means near 210 and 200 tokens, as ShareGPT's conversations have."""


@dataclass(frozen=True)
class ShareGpt(Scripted):
    """Independent requests at random times, `requests_per_s` on average."""

    name: str
    n_requests_wanted: int
    requests_per_s: float
    seed: int
    vocabulary: Vocabulary
    dataset: Path | None = None
    burstiness: float = 1.0
    """Of the arrivals, as for `arrival_times_s`: 1 is a Poisson process."""

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer requests at the same rate."""
        return replace(self, n_requests_wanted=fewer(self.n_requests_wanted, factor, _LEAST_REQUESTS))

    def source(self) -> str:
        """Return the file of the conversations, or "synthetic"."""
        return "synthetic" if self.dataset is None else str(self.dataset)

    def make_script(self) -> Step:
        """Return all requests with the times at which they are due."""
        n_requests, tokens = self.n_requests_wanted, Tokens(self.seed, self.vocabulary)
        pairs = self._synthetic(tokens) if self.dataset is None else self._recorded(self.dataset)
        due_s = arrival_times_s(tokens.random(_ARRIVAL), n_requests, self.requests_per_s, self.burstiness)
        return AtOnce(
            tuple(
                Due(float(time_s), completion(prompt, n_answer, agent=f"person-{index:05}"))
                for index, (time_s, (prompt, n_answer)) in enumerate(zip(due_s, pairs, strict=False))
            )
        )

    def _recorded(self, dataset: Path) -> list[tuple[str | list[int], int]]:
        return [
            (pair.question, pair.answer_tokens) for pair in read_sharegpt(dataset, self.n_requests_wanted, self.seed)
        ]

    def _synthetic(self, tokens: Tokens) -> list[tuple[str | list[int], int]]:
        """Return prompts and answer lengths; lengths that the filter refuses are drawn again."""
        lengths = tokens.random(_LENGTHS)
        pairs: list[tuple[str | list[int], int]] = []
        while len(pairs) < self.n_requests_wanted:
            n_prompt = int(lengths.lognormal(np.log(_PROMPT_MEDIAN), _PROMPT_SIGMA))
            n_answer = int(lengths.lognormal(np.log(_ANSWER_MEDIAN), _ANSWER_SIGMA))
            if is_wanted(n_prompt, n_answer):
                pairs.append((tokens.draw(n_prompt, _PROMPT, len(pairs)), n_answer))
        return pairs
