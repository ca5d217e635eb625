"""Questions in GAIA's format: a folder with metadata.jsonl and the files that the questions come with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elmas.errors import UserError

METADATA = "metadata.jsonl"
_UNKNOWN = frozenset({"", "?"})
"""What stands for the answer where it is not published (GAIA's test part)."""


@dataclass(frozen=True)
class Question:
    """One line of the metadata."""

    task_id: str
    text: str
    level: int
    """1 to 3, by the number of steps and tools that people need."""
    right_answer: str | None
    """None where it is not published."""
    file: Path | None = None
    """What comes with the question."""


def read_questions(folder: Path, level: int | None = None) -> list[Question]:
    """Return the questions of a folder, of one level if one is given.

    Raises UserError for a folder without metadata, a line that is no question, a file that is missing, and none left.
    """
    path = folder / METADATA
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give --questions a folder with {METADATA}") from None
    found = [_question(line, folder, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len({question.task_id for question in found}) < len(found):
        raise UserError(f"{path} has two questions with the same task_id: give each its own")
    chosen = [question for question in found if level in (None, question.level)]
    if not chosen:
        raise UserError(f"{path} has no questions" + (f" of level {level}" if level is not None else ""))
    return chosen


def _question(line: str, folder: Path, place: str) -> Question:
    try:
        fields: dict[str, Any] = json.loads(line)
        name = str(fields.get("file_name") or "")
        answer = str(fields.get("Final answer", "")).strip()
        question = Question(
            str(fields["task_id"]),
            str(fields["Question"]),
            int(fields["Level"]),
            None if answer in _UNKNOWN else answer,
            folder / name if name else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{place} is no question: it needs task_id, Question and Level as in GAIA") from None
    if name and (Path(name).name != name or not (folder / name).is_file()):
        raise UserError(f"{place} names the file {name!r}, which is not in {folder}")
    return question
