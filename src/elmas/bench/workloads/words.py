"""Seeded English text of a wanted size, from the phrases and words of the project's tokenizer."""

from functools import cache

import numpy as np

from elmas.models.phrases import phrases
from elmas.models.tokenizer import output_ids, train


def sentences(random: np.random.Generator, n_characters: int) -> str:
    """Return whole sentences of `n_characters` at least, and less than one sentence more."""
    pool = phrases()
    chosen: list[str] = []
    length = 0
    while length < n_characters:
        chosen.append(pool[int(random.integers(len(pool)))])
        length += len(chosen[-1]) + 1
    return " ".join(chosen)


def words(random: np.random.Generator, n_tokens: int) -> str:
    """Return text of exactly `n_tokens` tokens of the project's tokenizer, about as many of others; as if generated."""
    pool = _pool()
    return "".join(pool[int(index)] for index in random.integers(len(pool), size=n_tokens)).strip()


@cache
def _pool() -> tuple[str, ...]:
    pieces = (train().decode([token]) for token in output_ids())
    return tuple(piece for piece in pieces if piece.startswith(" "))
