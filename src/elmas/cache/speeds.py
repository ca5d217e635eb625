"""Speeds learned from measurements: of prefill, and of the paths that bytes take.

Knows no clock: durations come in as arguments. Every estimate is made of decayed sums, so that old measurements lose
their weight.
"""

_MIN_STEP_TOKENS = 64
"""Steps with less prefill are mostly overhead and other requests' decoding: they say little about prefill."""

_STEP_HALF_LIFE = 32
_TRUSTED_STEPS = 8
_MAX_STEP_FACTOR = 4.0
"""A step counts at most this many times its prediction. A lasting change by 20 is followed in 100 steps."""

_RIDGE_SHARE = 0.002
_RIDGE = float(512 * 512**2)
"""Pull the slope to zero while contexts hardly differ. Weighs as one step of 512 tokens, 512 tokens off the mean."""

_MAX_ATTENTION_SHARE = 0.9

_HALF_LIFE_S = 0.25
_HALF_LIFE_OBSERVATIONS = 6
_GIVEN_RATE_S = 0.1
_LATENCY_GROWTH = 1.05
_MIN_BYTES_PER_S = 1.0


class PrefillSpeed:
    """Fits seconds = a * tokens + b * context sum: a token costs its layers, and attention to each token before it.

    Least squares of relative weight 1 / tokens (the noise of a step grows with its size), exponentially forgetting,
    with a >= 0.1 of the mean cost and b >= 0.
    """

    def __init__(self) -> None:
        self._n_steps = 0
        self._tokens = self._context = self._context_squared = self._seconds = self._seconds_context = 0.0
        self._per_token_s = self._per_context_s = 0.0

    def observe(self, n_tokens: int, context_sum: float, seconds: float) -> None:
        """One step computed `n_tokens` of prefill whose numbers of preceding tokens sum to `context_sum`."""
        if n_tokens < _MIN_STEP_TOKENS or seconds <= 0:
            return
        if self._n_steps >= _TRUSTED_STEPS:
            seconds = min(seconds, _MAX_STEP_FACTOR * self._predict_s(n_tokens, context_sum))
        self._n_steps += 1
        keep = 0.5 ** (1 / _STEP_HALF_LIFE)
        context = context_sum / n_tokens
        self._tokens = keep * self._tokens + n_tokens
        self._context = keep * self._context + context_sum
        self._context_squared = keep * self._context_squared + context_sum * context
        self._seconds = keep * self._seconds + seconds
        self._seconds_context = keep * self._seconds_context + seconds * context
        self._fit()

    def seconds(self, first_token: int, n_tokens: int) -> float | None:
        """Return what it takes to compute `n_tokens` from position `first_token` on, None before the first step."""
        return self._predict_s(n_tokens, n_tokens * (first_token + n_tokens / 2)) if self._n_steps else None

    def coefficients(self) -> tuple[float, float] | None:
        """Return seconds per token, and per token and token before it; None before the first step."""
        return (self._per_token_s, self._per_context_s) if self._n_steps else None

    def _predict_s(self, n_tokens: int, context_sum: float) -> float:
        return self._per_token_s * n_tokens + self._per_context_s * context_sum

    def _fit(self) -> None:
        ridge = _RIDGE_SHARE * self._context_squared + _RIDGE
        covariance = self._seconds_context - self._seconds * self._context / self._tokens
        variance = self._context_squared - self._context**2 / self._tokens
        slope = max(0.0, covariance / (variance + ridge))
        if slope * self._context > _MAX_ATTENTION_SHARE * self._seconds:
            slope = _MAX_ATTENTION_SHARE * self._seconds / self._context
        self._per_context_s = slope
        self._per_token_s = (self._seconds - slope * self._context) / self._tokens


class Channel:
    """Bandwidth and latency of a path, from bytes moved and the time in which anything moved.

    Bandwidth is the ratio of two decayed sums, so a long wait counts for as much as it was long: a disk that becomes
    100 times slower is known for it after a few operations, or 2 seconds without progress.
    """

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0
        self._latency_s: float | None = None

    def observe(self, n_bytes: float, seconds: float) -> None:
        """`n_bytes` were completed (0: none yet) in `seconds` during which the path was in use."""
        if seconds <= 0:
            return
        n_half_lives = seconds / _HALF_LIFE_S + (1 / _HALF_LIFE_OBSERVATIONS if n_bytes else 0.0)
        keep = 0.5**n_half_lives
        was_measured = self.is_measured
        self._bytes = keep * self._bytes + n_bytes
        self._seconds = keep * self._seconds + seconds
        if was_measured:
            self._bytes = max(self._bytes, _MIN_BYTES_PER_S * self._seconds)
        if n_bytes:
            known_s = seconds if self._latency_s is None else _LATENCY_GROWTH * self._latency_s
            self._latency_s = min(seconds, known_s)

    def set_rate(self, bytes_per_s: float) -> None:
        """Begin from a bandwidth that was measured otherwise; the first observations outweigh it."""
        self._seconds = _GIVEN_RATE_S
        self._bytes = bytes_per_s * _GIVEN_RATE_S

    @property
    def is_measured(self) -> bool:
        """Whether anything was completed or a rate was given."""
        return self._bytes > 0

    @property
    def s_per_byte(self) -> float:
        """Seconds per byte at the present bandwidth; 0 before anything was measured."""
        return self._seconds / self._bytes if self._bytes > 0 else 0.0

    @property
    def latency_s(self) -> float:
        """The shortest recent observation: no smaller than the latency of one operation. 0 before the first."""
        return self._latency_s or 0.0
