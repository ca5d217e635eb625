"""The tools of one agent: search, reading, calculating and Python."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from elmas.agents.tools import calculator
from elmas.agents.tools.documents import read_document
from elmas.agents.tools.python_sandbox import Ending, PythonSandbox
from elmas.agents.tools.search import WebSearch
from elmas.agents.tools.tool import Tool, ToolError
from elmas.errors import UserError

N_HITS = 3
_HIT_CHARACTERS = 500
PAGE_CHARACTERS = 2400
"""What one call of the reading tool returns."""

_PAGE = re.compile(r"^(?P<name>.*?)(?:\s+page\s+(?P<page>\d{1,6}))?$", re.IGNORECASE | re.DOTALL)


def make_tools(
    search: WebSearch, files: Mapping[str, Path], attachments: Sequence[Path], sandbox: PythonSandbox
) -> dict[str, Tool]:
    """Return the tools by name. `files` can be read by their names, no other ones; Python gets copies of
    `attachments`."""

    async def find(query: str) -> str:
        hits = await search.search(query, N_HITS)
        if not hits:
            raise ToolError("nothing found: use other words")
        return "\n\n".join(f"[{hit.address}] {hit.title}\n{hit.text[:_HIT_CHARACTERS]}" for hit in hits)

    async def read(wanted: str) -> str:
        match = _PAGE.match(wanted.strip())
        name, page = (match["name"], int(match["page"] or 1)) if match is not None else (wanted, 1)
        if name not in files:
            some = ", ".join(sorted(files)[:20]) or "none"
            raise ToolError(f"there is no file {name[:100]!r}; files that can be read: {some}")
        text = await asyncio.to_thread(read_document, files[name])
        n_pages = max(1, -(-len(text) // PAGE_CHARACTERS))
        if not 1 <= page <= n_pages:
            raise ToolError(f"{name} has pages 1 to {n_pages}")
        shown = text[(page - 1) * PAGE_CHARACTERS : page * PAGE_CHARACTERS]
        return (
            shown if n_pages == 1 else f"{shown}\n[page {page} of {n_pages}; write: {name} page {page % n_pages + 1}]"
        )

    async def calculate(expression: str) -> str:
        return calculator.calculate(expression)

    async def python(code: str) -> str:
        try:
            result = await sandbox.run(code, attachments)
        except UserError as error:
            raise ToolError(f"Python is not available: {error}") from None
        output = result.output or "(nothing was printed)"
        return output if result.ending in (Ending.DONE, Ending.FAILED) else f"{output}\n[{result.ending}]"

    tools = (
        Tool("search", "words to look up; gives passages of documents and the documents' names", find, 0.5),
        Tool("read", f"the name of a file or document, and for a long one the page: {'NAME page 2'!r}", read, 0.5),
        Tool("calculate", calculator.DESCRIPTION, calculate, 0.1),
        Tool(
            "python",
            "a Python program without network and packages; its output is shown, and the value of its last line; the "
            "files of the question are in its folder",
            python,
            2.0,
        ),
    )
    return {tool.name: tool for tool in tools}
