"""Mini crosswords: 5x5 boards without black cells, ten words, ten clues; how they are read, filled and scored.

The task and its published format are those of Yao et al., "Tree of Thoughts" (2023): a JSON list of puzzles, each a
pair of ten clues (five across, then five down) and the 25 letters of the solution, row by row.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elmas.errors import UserError

SIZE = 5
N_CELLS = SIZE * SIZE
BLANK = "_"

SAMPLES = Path(__file__).parent / "samples.json"
"""Puzzles of our own, in the published format."""

PLACES = tuple(f"{kind}{number}" for kind in "hv" for number in range(1, SIZE + 1))
"""Where words go: h1 to h5 across from the top, v1 to v5 down from the left; the order of the clues."""

_FORM = "a JSON list of puzzles, each a list of 10 clues (5 across, then 5 down) and a list of 25 letters, row by row"


def cells_of(place: str) -> tuple[int, ...]:
    """Return the cells of a place in the order of its letters; cells count row by row from 0."""
    index = int(place[1]) - 1
    if place[0] == "h":
        return tuple(range(index * SIZE, (index + 1) * SIZE))
    return tuple(range(index, N_CELLS, SIZE))


@dataclass(frozen=True)
class Puzzle:
    """Ten clues by place, and the letters of the solution, row by row, in capitals."""

    clues: Mapping[str, str]
    letters: str

    def word(self, place: str) -> str:
        """Return the right word of a place."""
        return "".join(self.letters[cell] for cell in cells_of(place))


@dataclass(frozen=True)
class Board:
    """25 letters, row by row; `BLANK` where there is none yet."""

    letters: str = BLANK * N_CELLS

    def pattern(self, place: str) -> str:
        """Return the letters of a place, blanks included."""
        return "".join(self.letters[cell] for cell in cells_of(place))

    def fits(self, place: str, word: str) -> bool:
        """Whether a word contradicts no letter of its place."""
        return all(mine in (BLANK, theirs) for mine, theirs in zip(self.pattern(place), word, strict=True))

    def with_word(self, place: str, word: str) -> "Board":
        """Return the board with a word of five letters in a place."""
        letters = list(self.letters)
        for cell, letter in zip(cells_of(place), word, strict=True):
            letters[cell] = letter
        return Board("".join(letters))

    @property
    def open_places(self) -> list[str]:
        """The places that have a blank."""
        return [place for place in PLACES if BLANK in self.pattern(place)]

    @property
    def n_letters(self) -> int:
        """Cells that are filled."""
        return N_CELLS - self.letters.count(BLANK)

    def rows(self) -> str:
        """Return the board as five lines of letters with spaces between them."""
        return "\n".join(" ".join(self.letters[row * SIZE : (row + 1) * SIZE]) for row in range(SIZE))


def crossing(place: str) -> Iterator[str]:
    """Yield the five places that share a cell with a place."""
    other = "v" if place[0] == "h" else "h"
    return (f"{other}{number}" for number in range(1, SIZE + 1))


@dataclass(frozen=True)
class Score:
    """How much of a board is right: of 25 letters, of 10 words, and whether all of it is."""

    n_letters: int
    n_words: int

    @property
    def is_solved(self) -> bool:
        """The whole game is right."""
        return self.n_letters == N_CELLS


def score(puzzle: Puzzle, board: Board) -> Score:
    """Return the score of a board; blanks are wrong."""
    n_letters = sum(mine == right for mine, right in zip(board.letters, puzzle.letters, strict=True))
    n_words = sum(board.pattern(place) == puzzle.word(place) for place in PLACES)
    return Score(n_letters, n_words)


def read_puzzles(path: Path) -> list[Puzzle]:
    """Return the puzzles of a file in the published format; raises UserError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON: give {_FORM}") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give a file of mini crosswords") from None
    if not isinstance(content, list) or not content:
        raise UserError(f"{path} has no puzzles: give {_FORM}")
    return [_parse(path, number, entry) for number, entry in enumerate(content, start=1)]


def _parse(path: Path, number: int, entry: object) -> Puzzle:
    if isinstance(entry, list) and len(entry) == 2:
        clues, letters = entry
        if (
            isinstance(clues, list)
            and isinstance(letters, list)
            and len(clues) == len(PLACES)
            and len(letters) == N_CELLS
            and all(isinstance(clue, str) for clue in clues)
            and all(isinstance(letter, str) and len(letter) == 1 and letter.isalpha() for letter in letters)
        ):
            return Puzzle(dict(zip(PLACES, clues, strict=True)), "".join(letters).upper())
    raise UserError(f"{path}, puzzle {number}: give {_FORM}")
