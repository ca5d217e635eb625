"""Web search behind an interface, and an implementation that searches a folder of documents on this machine."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from elmas.agents.relevance import Bm25
from elmas.agents.tools.documents import SUFFIXES, read_document
from elmas.agents.tools.tool import ToolError
from elmas.errors import UserError

_PASSAGE_CHARACTERS = 700
_MAX_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Hit:
    """One passage that was found."""

    title: str
    address: str
    """By which it can be read in full: a URL, or the name of a document."""
    text: str


class WebSearch(Protocol):
    """Finds passages. Raises ToolError when it cannot."""

    async def search(self, query: str, n_hits: int) -> Sequence[Hit]:
        """Return the best hits for a query, best first."""
        ...


class LocalSearch:
    """Searches the documents of a folder by BM25 over passages of some hundred characters; no network.

    Raises UserError for a folder that is none. Documents that cannot be read are left out.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: give --documents a folder of text, CSV, XLSX or PDF files")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if len(paths) > _MAX_DOCUMENTS:
            raise UserError(f"{folder} holds {len(paths)} documents: at most {_MAX_DOCUMENTS} can be searched")
        self.documents = {path.relative_to(folder).as_posix(): path for path in paths}
        """Path by name, for reading one in full."""
        self._index = Bm25()
        self._passages: list[Hit] = []
        for name, path in self.documents.items():
            try:
                text = read_document(path)
            except ToolError:
                continue
            title = next((line.strip("# ") for line in text.splitlines() if line.strip()), name)
            for passage in _passages(text):
                self._passages.append(Hit(title, name, passage))
                # The title belongs to every passage: most of them do not name their subject again.
                self._index.add(f"{title} {passage}")

    async def search(self, query: str, n_hits: int) -> Sequence[Hit]:
        """Return the best passages, at most one of each document."""
        scores = self._index.scores(query)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        found: dict[str, Hit] = {}
        for place in order:
            if scores[place] <= 0 or len(found) == n_hits:
                break
            found.setdefault(self._passages[place].address, self._passages[place])
        return list(found.values())


def _passages(text: str) -> list[str]:
    """Cut a text at empty lines, and put short paragraphs together; a long one is cut where it is full."""
    found = [""]
    for paragraph in re.split(r"\n\s*\n", text):
        if len(found[-1]) + len(paragraph) > _PASSAGE_CHARACTERS:
            found.append("")
        found[-1] += paragraph.strip() + "\n"
    pieces = (
        part[begin : begin + 2 * _PASSAGE_CHARACTERS]
        for part in found
        for begin in range(0, len(part), 2 * _PASSAGE_CHARACTERS)
    )
    return [piece.strip() for piece in pieces if piece.strip()]
