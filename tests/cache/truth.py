"""Clients whose hints have come true, so that they are believed."""

from elmas.cache.hints import Hints
from elmas.cache.sessions import Sessions


def earn_trust(sessions: Sessions, salt: str | None = None) -> None:
    """Let a dozen hints of the tenant come true, at times before 0."""
    for turn in range(12):
        slot = sessions.arrive([], -1000.0 + turn, "punctual", salt, Hints(next_use_s=1.0))
        sessions.end(slot, 0, [], -1000.0 + turn)
    for turn in range(12):
        ended = sessions.arrive([], -900.0, f"ended {turn}", salt, Hints(is_done=True))
        sessions.end(ended, 0, [], -900.0)
    sessions.arrive([], -800.0, "punctual", salt)
    sessions.refresh()
    sessions.end(slot, 0, [], -800.0)
