"""Files as text: plain text, CSV, XLSX and PDF."""

import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from elmas.agents.tools.tool import ToolError

MAX_FILE_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 256 << 20
"""Of a spreadsheet, which is a ZIP archive."""
MAX_CHARACTERS = 400_000
"""Of the text of one file; the rest is left out, and the text says so."""
_MAX_PDF_PAGES = 500

SUFFIXES = frozenset(
    {".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".jsonld", ".xml", ".html", ".py", ".log", ".xlsx", ".pdf"}
)
"""Kinds of files that can be read."""


def read_document(path: Path) -> str:
    """Return a file as text: sheets and pages one after the other, rows of a sheet as lines with tabs.

    Raises ToolError for a file that is missing, too large, broken or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ToolError(f"{path.name} is of a kind that cannot be read; these can: {' '.join(sorted(SUFFIXES))}")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ToolError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB")
        if suffix == ".xlsx":
            return _bounded(_spreadsheet_lines(path), path)
        if suffix == ".pdf":
            return _bounded(_pdf_pages(path), path)
        return _bounded(iter([path.read_text(encoding="utf-8-sig", errors="replace")]), path)
    except ToolError:
        raise
    except Exception as error:  # parsers of foreign formats raise many kinds
        raise ToolError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from None


def _bounded(parts: Iterator[str], path: Path) -> str:
    """Join the parts with line breaks, up to the limit."""
    found: list[str] = []
    n_left = MAX_CHARACTERS
    for part in parts:
        found.append(part[:n_left])
        n_left -= len(part) + 1
        if n_left < 0:
            found.append(f"[{path.name} is longer; the rest is left out]")
            break
    return "\n".join(found)


def _spreadsheet_lines(path: Path) -> Iterator[str]:
    from openpyxl import load_workbook

    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise ToolError(f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        for sheet in book.worksheets:
            yield f"[sheet {sheet.title}]"
            for row in sheet.iter_rows(values_only=True):
                cells = ["" if value is None else str(value) for value in row]
                if any(cells):
                    yield "\t".join(cells)
    finally:
        book.close()


def _pdf_pages(path: Path) -> Iterator[str]:
    from pypdf import PdfReader

    with path.open("rb") as file:
        pages = PdfReader(file).pages
        for number, page in enumerate(islice(pages, _MAX_PDF_PAGES), start=1):
            yield f"[page {number}]\n{page.extract_text()}"
