"""Which hints a replay gives with each request: none, the trace's own, what will happen, or what will not."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elmas.cache.hints import MOST_PREFIXES, NO_HINTS, Hints
from elmas.errors import UserError
from elmas.sim.optimal import NEVER, Future
from elmas.sim.packed import PackedTrace

Prefixes = tuple[tuple[int, float], ...]

HINT_KINDS = ("none", "trace", "correct", "wrong")


def hints_for(kind: str, trace: PackedTrace, future: Future, seed: int = 0) -> Sequence[Hints]:
    """Return the hints of each request.

    `correct` are derived from the trace: seconds until the session goes on from where the prompt ends, or until that is
    asked for again where requests have no session; done when that never happens; and for each prefix of which others
    ask first, the seconds until they do. `wrong` misleads: the seconds are those of other requests, drawn by `seed`,
    half of the sessions that return are called done, those that do not are expected, and so are prefixes.
    UserError for another kind.
    """
    if kind == "none":
        return [NO_HINTS] * trace.n_requests
    if kind == "trace":
        return [trace.hints.get(request, NO_HINTS) for request in range(trace.n_requests)]
    if kind not in HINT_KINDS:
        raise UserError(f"--hints is {kind!r}: choose one of {', '.join(HINT_KINDS)}")
    next_request = _goes_on_at(trace, future)
    next_s = np.where(next_request == NEVER, np.nan, trace.arrival_s[next_request] - trace.arrival_s)
    prefixes = [_prefixes(trace, future, request, int(own)) for request, own in enumerate(next_request.tolist())]
    if kind == "wrong":
        return _misled(next_s, prefixes, np.random.default_rng(seed))
    return [
        Hints(is_done=True, prefixes=said) if np.isnan(s) else Hints(next_use_s=s, prefixes=said)
        for s, said in zip(next_s.tolist(), prefixes, strict=True)
    ]


def _misled(next_s: NDArray[np.float64], prefixes: Sequence[Prefixes], random: np.random.Generator) -> Sequence[Hints]:
    other_s = random.permutation(next_s[~np.isnan(next_s)]).tolist()
    if not other_s:
        return [NO_HINTS] * next_s.size
    other_prefix_s = random.permutation([s for said in prefixes for _, s in said]).tolist()
    hints: list[Hints] = []
    for request, is_last in enumerate(np.isnan(next_s).tolist()):
        said = tuple((n_tokens, other_prefix_s.pop()) for n_tokens, _ in prefixes[request])
        if not is_last and request % 2 == 0:
            hints.append(Hints(is_done=True, prefixes=said))
        else:
            hints.append(Hints(next_use_s=other_s[request % len(other_s)], prefixes=said))
    return hints


def _goes_on_at(trace: PackedTrace, future: Future) -> NDArray[np.int64]:
    """Return the request with which each one's session goes on from where its prompt ends, NEVER where it does not."""
    following = np.full(trace.n_requests, NEVER, dtype=np.int64)
    last_of: dict[int, int] = {}
    starts, n_prompt = trace.starts, trace.n_prompt
    for request in range(trace.n_requests - 1, -1, -1):
        session = int(trace.session[request])
        if session < 0:
            following[request] = future.deepest_next[request]
            continue
        other = last_of.get(session, NEVER)
        last_of[session] = request
        n = int(n_prompt[request])
        # Blocks are chained: where the last one is the same, all before it are.
        is_as_long = other != NEVER and n_prompt[other] >= n > 0
        if is_as_long and trace.blocks[starts[other] + n - 1] == trace.blocks[starts[request] + n - 1]:
            following[request] = other
    return following


def _prefixes(trace: PackedTrace, future: Future, request: int, own: int) -> Prefixes:
    """Return tokens of the prompt and seconds until others ask for them, where they do so before the session does."""
    depth_blocks = 0
    said: list[tuple[int, float]] = []
    for i in range(int(future.starts[request]), int(future.starts[request + 1])):
        target = int(future.targets[i])
        if target == own:
            break
        depth_blocks += int(future.counts[i])
        span_s = float(trace.arrival_s[target] - trace.arrival_s[request])
        said.append((min(depth_blocks, int(trace.n_prompt[request])) * trace.block_tokens, span_s))
    return tuple(said[:MOST_PREFIXES])
