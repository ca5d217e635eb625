"""How well a text answers a query, by words alone: the same on every machine, and without an embedding model."""

import math
import re
from collections import Counter

_WORD = re.compile(r"[a-z]+|\d+")

_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "been", "by", "did", "do", "does", "for", "from", "had"),
        *("has", "have", "he", "her", "his", "in", "into", "is", "it", "its", "not", "of", "on", "or", "said"),
        *("she", "that", "the", "their", "them", "then", "they", "this", "to", "was", "were", "what", "which"),
        *("while", "who", "will", "with"),
    )
)

_SATURATION = 1.2
_LENGTH_WEIGHT = 0.75
"""k1 and b of BM25, at the values that Robertson and Zaragoza give as usual."""


def words(text: str) -> list[str]:
    """Return words and numbers of a text in lower case, without the commonest words and without the s of a plural."""
    found = (word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


class Bm25:
    """Texts that are added one by one, scored against a query (Robertson and Zaragoza, 2009; Okapi BM25 with the
    logarithm of 1 + odds, so that no word counts against a text)."""

    def __init__(self) -> None:
        self._counts: list[Counter[str]] = []
        self._lengths: list[int] = []
        self._n_texts_with: Counter[str] = Counter()
        self._n_words = 0

    def add(self, text: str) -> None:
        """Add a text; its number is how many were added before it."""
        counts = Counter(words(text))
        self._counts.append(counts)
        self._lengths.append(counts.total())
        self._n_texts_with.update(counts.keys())
        self._n_words += counts.total()

    def scores(self, query: str) -> list[float]:
        """Return one score per text, 0 for a text that shares no word with the query."""
        n_texts = len(self._counts)
        mean_length = max(1.0, self._n_words / n_texts) if n_texts else 1.0
        weights = {
            word: math.log1p((n_texts - self._n_texts_with[word] + 0.5) / (self._n_texts_with[word] + 0.5))
            for word in sorted(set(words(query)))
            if word in self._n_texts_with
        }
        return [
            sum(weight * self._share(counts[word], length / mean_length) for word, weight in weights.items())
            for counts, length in zip(self._counts, self._lengths, strict=True)
        ]

    @staticmethod
    def _share(n: int, relative_length: float) -> float:
        """Return what `n` occurrences in a text count: more for a short text, and ever less per occurrence."""
        return n * (_SATURATION + 1) / (n + _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * relative_length))
