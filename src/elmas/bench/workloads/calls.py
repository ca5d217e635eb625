"""How calls are written: exact lengths, greedy, and with the token ids that digests and hit rates are computed from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elmas.bench.workloads.workload import Request, Vocabulary

_EXACT = {"ignore_eos": True, "return_token_ids": True}


def completion(
    prompt: str | Sequence[int],
    n_output_tokens: int,
    *,
    agent: str,
    turn: int = 0,
    round: int = 0,
    stop: Sequence[str] = (),
) -> Request:
    """Return a greedy completion of exactly `n_output_tokens` tokens; of at most so many where the server is not vLLM.

    `stop` is what ends an answer there.
    """
    fields = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": n_output_tokens,
        "temperature": 0.0,
        **_EXACT,
        # Only where something but the end of the text could stop it: servers pay for it in every step.
        **({"stop": list(stop), "min_tokens": n_output_tokens} if stop else {}),
    }
    return Request("/completions", fields, agent, turn, round)


def chat(
    messages: Sequence[Mapping[str, str]], n_output_tokens: int, *, agent: str, turn: int = 0, round: int = 0
) -> Request:
    """Return a greedy chat call, with an answer as for `completion`."""
    fields = {
        "messages": list(messages),
        "max_tokens": n_output_tokens,
        "temperature": 0.0,
        **_EXACT,
    }
    return Request("/chat/completions", fields, agent, turn, round)


def arrival_times_s(
    random: np.random.Generator, number: int, per_s: float, burstiness: float = 1.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return times from the first arrival, 0, on; `per_s` per second on average.

    Gaps are gamma distributed with shape `burstiness`: 1 is a Poisson process, less comes in bursts (as in vLLM's own
    benchmark).
    """
    times_s: np.ndarray[Any, np.dtype[np.float64]] = np.cumsum(
        random.gamma(burstiness, 1 / (per_s * burstiness), number)
    )
    times_s -= times_s[0]
    return times_s


class Tokens:
    """Seeded random token ids. Every stream has a purpose of its own, so that no two parts of a workload are alike."""

    def __init__(self, seed: int, vocabulary: Vocabulary) -> None:
        self._seed = seed
        self._vocabulary = vocabulary

    def random(self, *purpose: int) -> np.random.Generator:
        """Return the generator of a purpose, at its beginning."""
        return np.random.default_rng([self._seed, *purpose])

    def draw(self, n_tokens: int, *purpose: int) -> list[int]:
        """Return `n_tokens` token ids; the same for the same purpose."""
        first, last = self._vocabulary.first_token_id, self._vocabulary.last_token_id
        return [int(token) for token in self.random(*purpose).integers(first, last + 1, n_tokens)]


def fewer(number: int, factor: float, least: int) -> int:
    """Return `number` times `factor`, but no less than `least`, or than `number` where that is less already."""
    return max(min(number, least), round(number * factor))
