"""Telling a person how far a run is: a live line on a terminal, plain lines in a log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class RunProgress:
    """Stages with an optional count. Use it as a context manager; what a stage says is printed once it is over.

    On a terminal the running stage is one live line. Elsewhere every stage is one line when it begins and one when it
    ends, so that a log shows where a run stands and does not fill up.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._live = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._overall: TaskID | None = None
        self._task: TaskID | None = None
        self._text = ""
        self._begin_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage(completed=error is None)
        if self._live is not None:
            self._live.stop()

    def overall(self, text: str, done: int, total: int) -> None:
        """Say how far everything is, on a terminal with a bar of its own above the stage; elsewhere with a line."""
        if self._live is None:
            self._end_stage(completed=True)
            self._print(f"{done} of {total} {text}")
        elif self._overall is None:
            self._overall = self._live.add_task(text, total=total, completed=done)
        else:
            self._live.update(self._overall, description=text, total=total, completed=done)

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps (None: unknown) and end the one before."""
        self._end_stage(completed=True)
        self._text = text
        self._begin_s = time.monotonic()
        if self._live is not None:
            self._task = self._live.add_task(text, total=total)
        else:
            self._print(f"{text} ...")

    def advance(self) -> None:
        """One more step of the stage is done."""
        if self._live is not None and self._task is not None:
            self._live.advance(self._task)

    def _end_stage(self, completed: bool) -> None:
        if not self._text:
            return
        if self._live is not None and self._task is not None:
            self._live.remove_task(self._task)
            self._task = None
        outcome = "done" if completed else "stopped"
        self._print(f"{self._text}: {outcome} in {time.monotonic() - self._begin_s:.1f} s")
        self._text = ""

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
