"""What a client may say about a session's future, and how far it is believed.

Hints are advice: what cannot be understood is dropped and counted, and a tenant whose hints turn out wrong is not
believed until they turn out right again.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_PRIORITY, _MOST_PRIORITY = 0.1, 10.0
_LONGEST_S = 30 * 86400.0
_MOST_STEPS = 1_000_000
_LONGEST_ID = 256
_LONGEST_PREFIX_TOKENS = 1 << 24

_TOLERANCE = 1.3
"""A return is as predicted within this factor, or within `_SLACK_S`."""
_SLACK_S = 0.25
_TRUST_MEMORY = 0.05
_TRUSTED_SHARE = 0.8
"""So many of a tenant's hints must have come true lately."""
_FIRST_TRUST, _FIRST_TRUST_COUNTS_AS = 0.5, 4
"""What is believed before the first hint counts as much as so many hints: half a dozen must come true first. A whole
round of a simulation may follow its first hints."""
_FIRST_TRUST_IN_ENDS = 0.75
_DISTRUSTED_SHARE = 0.4
"""Who is right no more often than this is not listened to at all."""
_MOST_TENANTS = 4096

MOST_PREFIXES = 16
"""More pairs than these in one hint are of no use."""


@dataclass(frozen=True)
class Hints:
    """What a request says about its session. All optional.

    `next_use_s` are the seconds from the end of this request to the session's next one, `next_use_steps` the same in
    requests of the session's usual interval; `ttl_s` are the seconds after which nothing of it is needed; `priority`
    multiplies its worth (1: as others); `is_done` means that it will not come back; `prefetch` that it is about to.
    `is_signal` means that the request only carries these hints and is not part of the session itself.

    `prefixes` are pairs of tokens and seconds, the shorter first: the first so many tokens of this prompt will be asked
    for again so many seconds after this request's arrival, by any session. What is beyond the longest of them is this
    session's alone. Who runs agents knows when the next one with the same system prompt or question is due (as the
    steps to execution in KVFlow: Pan et al. 2025).
    """

    session: str | None = None
    next_use_s: float | None = None
    next_use_steps: int | None = None
    ttl_s: float | None = None
    priority: float = 1.0
    is_done: bool = False
    prefetch: bool = False
    is_signal: bool = False
    prefixes: tuple[tuple[int, float], ...] | None = None


NO_HINTS = Hints()


def parse_hints(values: object) -> tuple[Hints, int]:
    """Return the hints in loose values (session, next_use_s, next_use_steps, ttl_s, priority, done, prefetch, signal,
    prefixes), and how many of them are of no use: unknown keys, wrong types, numbers out of range, a signal's prefixes.
    """
    if not isinstance(values, Mapping):
        return NO_HINTS, 0 if values is None else 1
    good: dict[str, Any] = {}
    n_bad = 0
    for key, value in values.items():
        name, is_good = _CHECKS.get(key, ("", _never)) if isinstance(key, str) else ("", _never)
        if is_good(value):
            good[name] = value
        else:
            n_bad += 1
    if good.get("is_signal") and good.pop("prefixes", None) is not None:
        n_bad += 1  # the prompt of a signal is nothing that anybody will ask for
    if "prefixes" in good:
        good["prefixes"] = tuple(sorted((n_tokens, float(s)) for n_tokens, s in good["prefixes"]))
    if "priority" in good:
        good["priority"] = min(_MOST_PRIORITY, max(_LEAST_PRIORITY, good["priority"]))
    return Hints(**good), n_bad


def _never(value: object) -> bool:
    return False


def _is_span(value: object) -> bool:
    return _is_number(value) and 0 <= float(value) <= _LONGEST_S  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_steps(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_STEPS


def _are_prefixes(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MOST_PREFIXES and all(map(_is_prefix, value))


def _is_prefix(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    n_tokens, seconds = value
    is_count = isinstance(n_tokens, int) and not isinstance(n_tokens, bool)
    return is_count and 0 < n_tokens <= _LONGEST_PREFIX_TOKENS and _is_span(seconds)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "session": ("session", _is_name),
    "next_use_s": ("next_use_s", _is_span),
    "next_use_steps": ("next_use_steps", _is_steps),
    "ttl_s": ("ttl_s", _is_span),
    "priority": ("priority", _is_number),
    "done": ("is_done", _is_flag),
    "prefetch": ("prefetch", _is_flag),
    "signal": ("is_signal", _is_flag),
    "prefixes": ("prefixes", _are_prefixes),
}

HINT_FIELDS = {key: name for key, (name, _) in _CHECKS.items()}
"""The field of `Hints` for each name that clients use."""


class Trust:
    """How often the hints of each tenant came true lately: when its sessions return, when its prefixes are asked for,
    and what has ended.

    Tenants get numbers; those beyond the first 4095 share one.
    """

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._returns, self._prefixes = _Record(), _Record()
        self._ends: NDArray[np.float64] = np.full(_MOST_TENANTS, _FIRST_TRUST_IN_ENDS)

    def tenant(self, salt: str | None) -> int:
        """Return the number of the tenant with this cache salt."""
        if salt is None:
            return 0
        number = self._number_of.get(salt)
        if number is None:
            number = min(len(self._number_of) + 1, _MOST_TENANTS - 1)
            if number < _MOST_TENANTS - 1:
                self._number_of[salt] = number
        return number

    def returned(self, tenant: int, predicted_s: float, actual_s: float) -> None:
        """A session came back after `actual_s`; inf: long after the predicted time it still had not."""
        self._returns.judge(tenant, predicted_s, actual_s)

    def used(self, tenant: int, predicted_s: float, actual_s: float) -> None:
        """A prefix was asked for after `actual_s`; inf: long after the predicted time it still was not."""
        self._prefixes.judge(tenant, predicted_s, actual_s)

    def ended(self, tenant: int, is_true: bool) -> None:
        """A session that was said to have ended stayed away for long, or came back."""
        self._ends[tenant] += _TRUST_MEMORY * (is_true - self._ends[tenant])

    def believes_returns(self, tenants: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tenant whether it is believed when its sessions return."""
        return np.asarray(self._returns.share[tenants] >= _TRUSTED_SHARE)

    def believes_prefixes(self, tenants: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tenant whether it is believed when its prefixes are asked for."""
        return np.asarray(self._prefixes.share[tenants] >= _TRUSTED_SHARE)

    def believes_ends(self, tenants: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tenant whether the ends it announces are believed: those that came true show late, so
        whose predictions are believed is believed in this until it is refuted."""
        predicts = self.believes_returns(tenants) | self.believes_prefixes(tenants)
        ends = self._ends[tenants]
        return np.asarray((predicts & (ends >= _FIRST_TRUST_IN_ENDS)) | (ends >= _TRUSTED_SHARE))

    def distrusts(self, tenants: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tenant whether what it predicted of its sessions or prefixes turned out wrong."""
        worst = np.minimum(self._returns.share[tenants], self._prefixes.share[tenants])
        return np.asarray(worst <= _DISTRUSTED_SHARE)


class _Record:
    """Which share of each tenant's predictions of one kind came true lately."""

    def __init__(self) -> None:
        self.share: NDArray[np.float64] = np.full(_MOST_TENANTS, _FIRST_TRUST)
        self._n: NDArray[np.int64] = np.full(_MOST_TENANTS, _FIRST_TRUST_COUNTS_AS)

    def judge(self, tenant: int, predicted_s: float, actual_s: float) -> None:
        is_near = abs(actual_s - predicted_s) <= max(_SLACK_S, (_TOLERANCE - 1) * predicted_s)
        self._n[tenant] += 1
        self.share[tenant] += max(_TRUST_MEMORY, 1 / float(self._n[tenant])) * (is_near - self.share[tenant])
