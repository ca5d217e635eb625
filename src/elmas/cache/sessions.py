"""Which session a request belongs to."""

NO_SESSION = -1
"""Stands where a request's session is not known."""


class Sessions:
    """The sessions of one server."""
