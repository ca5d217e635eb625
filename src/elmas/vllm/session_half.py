"""The sessions of vLLM's requests: who a request belongs to, and what its client says of the future.

A session is named by vLLM's own session id (`X-Session-ID`) or by the hints in `kv_transfer_params`, and else found by
what the request says. A request that is a signal only carries hints: it tells that a session is done, or about to
return, while nothing of the session itself runs.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from elmas.cache.hints import NO_HINTS, Hints, parse_hints
from elmas.cache.rows import BlockHash
from elmas.cache.sessions import NO_SESSION, Sessions

HINTS_KEY = "elmas"
"""Where the hints are in `kv_transfer_params`."""

_MOST_KNOWN_BLOCKS = 1 << 20


class SessionHalf:
    """Names the sessions of requests and takes their hints. `counts` gets the numbers of hints, good and bad."""

    def __init__(self, sessions: Sessions, uses_hints: bool, counts: Counter[str]) -> None:
        self.sessions = sessions
        self._uses_hints = uses_hints
        self._counts = counts
        self._blocks_of: dict[int, Sequence[BlockHash]] = {}
        self._n_known = 0

    def hints_of(self, request: Any) -> Hints:
        """Return what the request's client says; what makes no sense is counted and left out."""
        parameters = request.kv_transfer_params
        if not self._uses_hints or not isinstance(parameters, dict) or HINTS_KEY not in parameters:
            return NO_HINTS
        hints, n_bad = parse_hints(parameters[HINTS_KEY])
        self._counts["hints_bad"] += n_bad
        self._counts["hints"] += hints != NO_HINTS
        return hints

    def arrive(self, request: Any, hints: Hints, now_s: float) -> int:
        """Return the session that the request belongs to; NO_SESSION for one that only carries hints."""
        name = hints.session if hints.session is not None else request.session_id
        if not hints.is_signal:
            return self.sessions.arrive(request.block_hashes, now_s, name, request.cache_salt, hints)
        session = NO_SESSION if name is None else self.sessions.find(name, request.cache_salt)
        if session == NO_SESSION:
            self._counts["hints_bad"] += 1
        else:
            self.sessions.hint(session, hints, now_s)
        return NO_SESSION

    def end(self, session: int, request: Any, now_s: float) -> None:
        """The request has ended."""
        if session == NO_SESSION:
            return
        hashes = request.block_hashes
        n_prompt = int(request.num_prompt_tokens) * len(hashes) // max(1, int(request.num_tokens))
        self.sessions.end(session, n_prompt, hashes, now_s)
        self._n_known += len(hashes) - len(self._blocks_of.pop(session, ()))
        self._blocks_of[session] = hashes
        while self._n_known > _MOST_KNOWN_BLOCKS:
            self._n_known -= len(self._blocks_of.pop(next(iter(self._blocks_of))))

    def to_prefetch(self, request: Any, hints: Hints) -> Sequence[BlockHash]:
        """Return the blocks of the session that a signal says is about to return; none where they are not known."""
        if not (hints.is_signal and hints.prefetch):
            return ()
        name = hints.session if hints.session is not None else request.session_id
        return () if name is None else self._blocks_of.get(self.sessions.find(name, request.cache_salt), ())
