"""What is asked about a mini crossword: which words could go where, and whether a place can still be filled."""

import re
from collections.abc import Mapping
from typing import Any

from elmas.agents.crosswords.puzzle import BLANK, PLACES, SIZE, Board, Puzzle
from elmas.agents.model import Answer

CONFIDENCES: Mapping[str, float] = {"certain": 1.0, "high": 0.5, "medium": 0.2, "low": 0.1}
"""What a proposal weighs; the same word proposed twice weighs both (Yao et al., 2023)."""

VERDICTS = ("sure", "maybe", "impossible")

MAX_PROPOSALS = 5
PROPOSE_TOKENS = 56 * MAX_PROPOSALS + 40
"""Enough for a tokenizer that knows single letters only: an answer that is cut off proposes nothing."""

JUDGE_TOKENS = 30

_WORD = re.compile(rf"[A-Z]{{{SIZE}}}")

_PROPOSE = f"""\
You solve crosswords of five rows and five columns. Each row and each column is one word of five letters, and no cell \
is black. Places have names: h1 to h5 are the rows from the top, v1 to v5 the columns from the left. You see the clues \
of a puzzle, and then the board as far as it is filled; {BLANK} is an empty cell.

Propose up to {MAX_PROPOSALS} words for places that are not full yet, those first of which you are most certain. Each \
word must have five letters and agree with those that are there. Say for each how certain you are: certain, high, \
medium or low. Answer in JSON: {{"proposals": [{{"place": "h1", "word": "EXACT", "confidence": "high"}}]}}"""

_JUDGE = f"""\
You judge whether a word of a crossword can still be found. You see its clue and its five letters as far as they are \
known; {BLANK} is a letter that is not known yet. Answer in JSON with one field, "verdict": "sure" if you know a word \
that fits the clue and the letters, "impossible" if there cannot be one, and else "maybe"."""


def propose_messages(puzzle: Puzzle, board: Board) -> list[dict[str, str]]:
    """Return the question for words. What all boards of a puzzle have in common comes first."""
    clues = "\n".join(f"{place}: {puzzle.clues[place]}" for place in PLACES)
    open_places = "\n".join(f"{place}: {board.pattern(place)}" for place in board.open_places)
    return [
        {"role": "system", "content": _PROPOSE},
        {"role": "user", "content": f"Clues:\n{clues}\n\nBoard:\n{board.rows()}\n\nNot full yet:\n{open_places}"},
    ]


def propose_schema(board: Board) -> dict[str, Any]:
    """Return the JSON schema of proposals for the open places of a board."""
    proposal = _object(
        place={"type": "string", "enum": board.open_places},
        word={"type": "string", "pattern": f"^[A-Z]{{{SIZE}}}$", "minLength": SIZE, "maxLength": SIZE},
        confidence={"type": "string", "enum": list(CONFIDENCES)},
    )
    return _object(proposals={"type": "array", "items": proposal, "minItems": 1, "maxItems": MAX_PROPOSALS})


def judge_messages(clue: str, pattern: str) -> list[dict[str, str]]:
    """Return the question whether a place can still be filled."""
    return [
        {"role": "system", "content": _JUDGE},
        {"role": "user", "content": f"Clue: {clue}\nLetters: {' '.join(pattern)}"},
    ]


def judge_schema() -> dict[str, Any]:
    """Return the JSON schema of a verdict."""
    return _object(verdict={"type": "string", "enum": list(VERDICTS)})


def parse_proposals(answer: Answer, board: Board) -> list[tuple[str, str]]:
    """Return the legal proposals in an answer as place and word, the weightiest first, each once.

    Legal is a word of five letters for an open place that contradicts no letter there.
    """
    data = answer.data()
    proposals = data.get("proposals") if isinstance(data, dict) else data
    weights: dict[tuple[str, str], float] = {}
    for proposal in proposals if isinstance(proposals, list) else ():
        if not isinstance(proposal, dict):
            continue
        place, word = str(proposal.get("place", "")).lower(), str(proposal.get("word", "")).upper()
        if place in board.open_places and _WORD.fullmatch(word) and board.fits(place, word):
            weight = CONFIDENCES.get(str(proposal.get("confidence")), min(CONFIDENCES.values()))
            weights[place, word] = weights.get((place, word), 0.0) + weight
    return sorted(weights, key=lambda proposal: -weights[proposal])


def parse_verdict(answer: Answer) -> str:
    """Return the verdict in an answer; "maybe" when there is none: what is not known is not given up."""
    data = answer.data()
    verdict = data.get("verdict") if isinstance(data, dict) else None
    return verdict if verdict in VERDICTS else "maybe"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
