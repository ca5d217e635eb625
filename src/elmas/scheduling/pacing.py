"""How many tokens of prompts a step computes beside the requests that decode.

When the device has no room for all that wait, a request's place is free again only after it has decoded all of its
answer, in as many steps. A step that only decodes reads all weights for a handful of tokens; beside a few hundred
tokens of prompts, which are bound by arithmetic, it costs almost nothing. So prompts had better be spread over all
steps than computed as fast as possible and followed by steps that only decode. With chunked prefill (Sarathi-Serve,
OSDI 2024) that is a matter of the step's budget of tokens, which is constant there. Here it follows what the steps of
the recent past could use: where some computed no prompt although others waited, it falls towards their mean; where all
are full, it grows.
"""

LEAST_TOKENS = 512
"""Fewer tokens than this would not hide the reading of the weights, on accelerators of today by a factor of two."""

_MEMORY_STEPS = 16
"""The mean is over about so many steps, half of a short answer: over more it follows a round's phases too late."""

_ROOM_TO_GROW = 1.25


class Pacing:
    """See the module. A step computes `max_tokens` of prompts at most."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._mean_tokens = float(max_tokens)

    def limit(self, n_decoding: int) -> int:
        """Return how many tokens of prompts the next step may compute, in which `n_decoding` requests decode."""
        if n_decoding == 0:
            return self._max_tokens
        return min(self._max_tokens, max(LEAST_TOKENS, int(_ROOM_TO_GROW * self._mean_tokens)))

    def scheduled(self, n_prompt_tokens: int, n_waiting: int, n_steps: int = 1) -> None:
        """So many steps are scheduled, which compute `n_prompt_tokens` of prompts together while `n_waiting` requests
        still wait. What nobody wanted to use says nothing."""
        if n_prompt_tokens == 0 and n_waiting == 0:
            return
        before = (1.0 - 1.0 / _MEMORY_STEPS) ** n_steps
        self._mean_tokens = before * self._mean_tokens + (1.0 - before) * n_prompt_tokens / n_steps
