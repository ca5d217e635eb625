"""Recorded data in its published formats, and the stand-ins that take its place.

Lengths of recorded texts are estimated as one token per four bytes, as tokenizers with large vocabularies make of
English: what is sent must not depend on the server's tokenizer.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elmas.agents.mmlu.questions import LETTERS, Question, read_questions
from elmas.bench.workloads.words import sentences
from elmas.errors import UserError

_BYTES_PER_TOKEN = 4

_LEAST_TOKENS, _MOST_PROMPT_TOKENS, _MOST_TOKENS = 4, 1024, 2048
"""The original's filter of conversations: of prompt and answer each, of the prompt, and of both together."""

_SHAREGPT_FORM = (
    'a JSON list of objects with "conversations", each a list of {"from": ..., "value": ...}, '
    "such as ShareGPT_V3_unfiltered_cleaned_split.json"
)

_QUESTION_CHARACTERS = (60, 520)
_OPTION_CHARACTERS = (10, 60)


@dataclass(frozen=True)
class Pair:
    """A question of a person, and how long the recorded answer is."""

    question: str
    answer_tokens: int


def n_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def is_wanted(n_prompt: int, n_answer: int) -> bool:
    """Whether the original's filter keeps a conversation of so many tokens."""
    return (
        _LEAST_TOKENS <= n_prompt <= _MOST_PROMPT_TOKENS
        and n_answer >= _LEAST_TOKENS
        and n_prompt + n_answer <= _MOST_TOKENS
    )


def read_sharegpt(path: Path, n_wanted: int, seed: int) -> list[Pair]:
    """Return the first two turns of `n_wanted` shuffled conversations that the filter keeps.

    Raises UserError for a file in another format, or with too few of them.
    """
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} is not {_SHAREGPT_FORM}")
    pairs = []
    for number, entry in enumerate(entries):
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list):
            raise UserError(f"{path}, entry {number}: no list of conversations; give {_SHAREGPT_FORM}")
        if len(turns) < 2:
            continue
        question, answer = (turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2])
        if not isinstance(question, str) or not isinstance(answer, str):
            raise UserError(f'{path}, entry {number}: a turn without a text as "value"; give {_SHAREGPT_FORM}')
        pairs.append(Pair(question, n_tokens(answer)))
    random.Random(seed).shuffle(pairs)
    wanted = [pair for pair in pairs if is_wanted(n_tokens(pair.question), pair.answer_tokens)][:n_wanted]
    if len(wanted) < n_wanted:
        raise UserError(f"{path} has {len(wanted)} usable conversations, {n_wanted} are needed: lower --scale")
    return wanted


def mmlu_questions(path: Path, n_wanted: int, seed: int) -> list[Question]:
    """Return `n_wanted` shuffled questions of a file, or of all CSV files of a directory (MMLU's `val`).

    Raises UserError for a file in another format, or with too few of them.
    """
    questions = read_questions(path)
    if len(questions) < n_wanted:
        raise UserError(f"{path} has {len(questions)} questions, {n_wanted} are needed: lower --scale")
    random.Random(seed).shuffle(questions)
    return questions[:n_wanted]


def synthetic_questions(n_wanted: int, seed: int) -> list[Question]:
    """Return seeded questions of MMLU's lengths; the letter is drawn as well."""
    questions = []
    for index in range(n_wanted):
        draw = np.random.default_rng([seed, index])
        question = _cut(draw, _QUESTION_CHARACTERS)
        a, b, c, d = (_cut(draw, _OPTION_CHARACTERS) for _ in LETTERS)
        questions.append(Question("synthetic", question, (a, b, c, d), LETTERS[int(draw.integers(len(LETTERS)))]))
    return questions


def _cut(random: np.random.Generator, bounds: tuple[int, int]) -> str:
    length = int(random.integers(*bounds, endpoint=True))
    return sentences(random, length)[:length].rstrip()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError:
        raise UserError(f"{path} is no JSON: give {_SHAREGPT_FORM}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give the path of the data set") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file in UTF-8: give the data set as it was published, unpacked") from None
