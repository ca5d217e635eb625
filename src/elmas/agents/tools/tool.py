"""What a tool of an agent is: a name, a line that describes it to the model, and a call from text to text."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class ToolError(Exception):
    """A call that cannot be done as asked; its text is for the model, which may ask again."""


@dataclass(frozen=True)
class Tool:
    """One tool. A single text goes in: every model can write that as structured output."""

    name: str
    description: str
    """One line: what goes in and what comes out."""
    call: Callable[[str], Awaitable[str]]
    """Raises ToolError."""
    expected_s: float
    """How long a call usually takes; told to the server, which may move the agent's cache meanwhile."""
