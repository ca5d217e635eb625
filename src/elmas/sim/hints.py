"""Which hints a replay gives with each request: none, the trace's own, what will happen, or what will not."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.hints import NO_HINTS, Hints
from elmas.errors import UserError
from elmas.sim.optimal import NEVER, Future
from elmas.sim.packed import PackedTrace

HINT_KINDS = ("none", "trace", "correct", "wrong")


def hints_for(kind: str, trace: PackedTrace, future: Future, seed: int = 0) -> Sequence[Hints]:
    """Return the hints of each request.

    `correct` are derived from the trace: seconds until the session's next request, or until the request's deepest
    block is asked for again; done when that never happens. `wrong` misleads: the seconds are those of other requests,
    drawn by `seed`, half of the sessions that return are called done, and those that do not are expected.
    UserError for another kind.
    """
    if kind == "none":
        return [NO_HINTS] * trace.n_requests
    if kind == "trace":
        return [trace.hints.get(request, NO_HINTS) for request in range(trace.n_requests)]
    if kind not in HINT_KINDS:
        raise UserError(f"--hints is {kind!r}: choose one of {', '.join(HINT_KINDS)}")
    next_s = _seconds_to_next(trace, future)
    if kind == "correct":
        return [Hints(is_done=True) if np.isnan(s) else Hints(next_use_s=s) for s in next_s.tolist()]
    other_s = np.random.default_rng(seed).permutation(next_s[~np.isnan(next_s)]).tolist()
    if not other_s:
        return [NO_HINTS] * trace.n_requests
    hints: list[Hints] = []
    for request, is_last in enumerate(np.isnan(next_s).tolist()):
        is_called_done = not is_last and request % 2 == 0
        expected_s = other_s[request % len(other_s)]
        hints.append(Hints(is_done=True) if is_called_done else Hints(next_use_s=expected_s))
    return hints


def _seconds_to_next(trace: PackedTrace, future: Future) -> NDArray[np.float64]:
    """Return the seconds until each request's session asks again, NaN where it never does."""
    following = future.deepest_next.astype(np.int64)
    last_of: dict[int, int] = {}
    for request in range(trace.n_requests - 1, -1, -1):
        session = int(trace.session[request])
        if session >= 0:
            following[request] = last_of.get(session, NEVER)
            last_of[session] = request
    next_s = trace.arrival_s[following] - trace.arrival_s
    next_s[following == NEVER] = np.nan
    return next_s
