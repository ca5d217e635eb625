"""How many tokens of prompts a step computes beside the requests that decode.

When the device has no room for all that wait, a request's place is free again only after it has decoded all of its
answer, in as many steps. A step that only decodes reads all weights for a handful of tokens; beside prompts, which are
bound by arithmetic, that costs little. So prompts had better be spread over all steps than computed as fast as possible
and followed by steps that only decode. With chunked prefill (Sarathi-Serve, OSDI 2024) that is a matter of the step's
budget of tokens, which is constant there. Here it follows what the steps of the recent past could use: where some
computed no prompt although others waited, it falls towards their mean; where all are full, it grows.

It does not fall below what is computed in the time that a step with prompts takes at least, however few tokens these
have: launching its kernels, where no graph of them is replayed. Both times are measured.
"""

LEAST_TOKENS = 512
"""Fewer tokens than this would not hide the reading of the weights, on accelerators of today by a factor of two."""

_LEAST_UNMEASURED_TOKENS = 2048
"""As long as it is not known how long the shortest step takes."""

_SHORT_STEP_TOKENS = 256
_LONG_STEP_TOKENS = 1024
"""Steps with no more tokens of prompts than the first show how long a step takes at least; such with no fewer than the
second how long a token takes."""

_MEMORY_STEPS = 16
"""The mean is over about so many steps, half of a short answer: over more it follows a round's phases too late."""

_ROOM_TO_GROW = 1.25


class Pacing:
    """See the module. A step computes `max_tokens` of prompts at most."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._mean_tokens = float(max_tokens)
        self._short_step_s = _Mean()
        self._token_s = _Mean()

    def limit(self, n_decoding: int) -> int:
        """Return how many tokens of prompts the next step may compute, in which `n_decoding` requests decode."""
        if n_decoding == 0:
            return self._max_tokens
        return min(self._max_tokens, max(self._least_tokens(), int(_ROOM_TO_GROW * self._mean_tokens)))

    def scheduled(self, n_prompt_tokens: int, n_waiting: int, n_steps: int = 1) -> None:
        """So many steps are scheduled, which compute `n_prompt_tokens` of prompts together while `n_waiting` requests
        still wait. What nobody wanted to use says nothing."""
        if n_prompt_tokens == 0 and n_waiting == 0:
            return
        before = (1.0 - 1.0 / _MEMORY_STEPS) ** n_steps
        self._mean_tokens = before * self._mean_tokens + (1.0 - before) * n_prompt_tokens / n_steps

    def took(self, n_prompt_tokens: int, seconds: float) -> None:
        """A step that computed so many tokens of prompts, beside others that decoded or not, took `seconds`."""
        if 0 < n_prompt_tokens <= _SHORT_STEP_TOKENS:
            self._short_step_s.add(seconds)
        elif n_prompt_tokens >= _LONG_STEP_TOKENS:
            self._token_s.add(seconds / n_prompt_tokens)

    def _least_tokens(self) -> int:
        if not self._short_step_s.value or not self._token_s.value:
            return max(LEAST_TOKENS, _LEAST_UNMEASURED_TOKENS)
        return max(LEAST_TOKENS, int(self._short_step_s.value / self._token_s.value))


class _Mean:
    """A mean that forgets; 0 before the first value. Outliers count twice the mean at most."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        if not self.value:
            self.value = value
        else:
            self.value += (min(value, 2.0 * self.value) - self.value) / _MEMORY_STEPS
