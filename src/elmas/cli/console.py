"""Where tables are printed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(log_width: int, **options: Any) -> "Console":
    """Return a console that is as wide as the terminal, and `log_width` columns where there is none.

    A log has no width of its own: tables must not be cut to 80 columns there. `options` are rich's.
    """
    from rich.console import Console

    console = Console(**options)
    return console if console.is_terminal else Console(width=log_width, **options)
