"""Multiple-choice questions in the published format of MMLU (Hendrycks et al., 2021), and some of our own."""

import csv
from dataclasses import dataclass
from pathlib import Path

from elmas.errors import UserError

LETTERS = "ABCD"

SAMPLES = Path(__file__).parent / "samples"
"""Forty questions of our own over eight subjects, in the same format."""

_FORM = "CSV lines of question, four options and the letter of the right one, without a header"
_SUFFIXES = ("_test", "_val", "_dev")


@dataclass(frozen=True)
class Question:
    """One question with four options."""

    subject: str
    text: str
    options: tuple[str, str, str, str]
    right: str
    """The letter of the right option: A, B, C or D."""

    def laid_out(self) -> str:
        """Return the question with its options, a line each."""
        listed = (f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True))
        return "\n".join([self.text, *listed])


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a CSV file, or of all those of a directory (MMLU's `val` or `test`), in their order.

    The subject is the file's name without "_val". Raises UserError for anything in another format.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no CSV files: give the directory of MMLU that has, such as data/val")
    return [question for file in files for question in _read_file(file)]


def _read_file(path: Path) -> list[Question]:
    subject = path.stem
    for suffix in _SUFFIXES:
        subject = subject.removesuffix(suffix)
    questions = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if len(row) != 6 or row[5] not in set(LETTERS):
                    raise UserError(f"{path}, row {number}: give {_FORM}")
                a, b, c, d = row[1:5]
                questions.append(Question(subject.replace("_", " "), row[0], (a, b, c, d), row[5]))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV file ({error}): give {_FORM}") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give a file of MMLU, or a directory of them") from None
    if not questions:
        raise UserError(f"{path} is empty: give {_FORM}")
    return questions
