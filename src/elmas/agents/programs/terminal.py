"""Lines in, text out: a person at a terminal, or a pipe at either end."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console, RenderableType


class Terminal:
    """Where a program reads and writes. Answers go to `out`; prompts and notes do not, so that a pipe gets answers."""

    def __init__(self, source: TextIO | None = None, out: TextIO | None = None, notes: TextIO | None = None) -> None:
        self._source = source or sys.stdin
        self._out = out or sys.stdout
        self._notes = notes or sys.stderr
        self.is_interactive = self._source.isatty() and self._out.isatty()

    def lines(self, prompt: str) -> Iterator[str]:
        """Yield what is entered until the end of input; a line that ends with a backslash goes on in the next one.

        At a terminal Ctrl-C drops what was typed.
        """
        if self.is_interactive:
            with contextlib.suppress(ImportError):
                # Gives input() a history and editing; not every Python has it.
                importlib.import_module("readline")

        begun = ""
        while True:
            try:
                line = self._read("... " if begun else prompt)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self.is_interactive:
                    raise
                begun = ""
                self.note("\n(Ctrl-D or /quit leaves)")
                continue
            if line.endswith("\\"):
                begun += line[:-1] + "\n"
            else:
                yield begun + line
                begun = ""
        if begun:
            yield begun

    def read_all(self) -> str:
        """Return everything until the end of input, without its last line break."""
        return self._source.read().removesuffix("\n")

    def write(self, text: str) -> None:
        """Show a piece of an answer at once."""
        self._out.write(text)
        self._out.flush()

    def note(self, text: str) -> None:
        """Show a line that is no answer."""
        print(text, file=self._notes, flush=True)

    def show(self, content: RenderableType) -> None:
        """Show a table."""
        console = Console(file=self._out)
        (console if console.is_terminal else Console(file=self._out, width=120)).print(content)

    def _read(self, prompt: str) -> str:
        if self.is_interactive:
            return input(prompt)
        line = self._source.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")
