"""How many tokens requests have, and how many of them come back.

Prompts of token ids are counted as they are. Texts are counted with the project's own tokenizer: its 2,048 tokens are
short, so a tokenizer with a large vocabulary makes fewer of the same text.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash

from elmas.bench.workloads.workload import Request
from elmas.models.tokenizer import token_id, train

UNIT_TOKENS = 16
"""Sharing is counted in whole units of so many tokens."""

_DEFAULT_ANSWER_TOKENS = 16
"""What the OpenAI API generates when a completion does not say how much."""


def request_tokens(request: Request) -> int:
    """Return the tokens of a prompt and the longest answer it may get."""
    return len(prompt_tokens(request)) + int(request.fields.get("max_tokens", _DEFAULT_ANSWER_TOKENS))


def prompt_tokens(request: Request) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the token ids of a prompt; a chat is laid out by the project's chat template."""
    if "messages" in request.fields:
        parts = [_message(message["role"], message["content"]) for message in request.fields["messages"]]
        return np.concatenate([*parts, _opening("assistant")])
    prompt = request.fields["prompt"]
    return _text(prompt) if isinstance(prompt, str) else np.asarray(prompt, dtype=np.int32)


def returning_tokens(requests: Iterable[Request]) -> int:
    """Return the tokens of all beginnings that at least two prompts share, each counted once, in whole units."""
    counts: dict[bytes, int] = {}
    for request in requests:
        for key in unit_keys(prompt_tokens(request)):
            counts[key] = counts.get(key, 0) + 1
    return UNIT_TOKENS * sum(count > 1 for count in counts.values())


def repeated_share(requests: Sequence[Request]) -> float:
    """Return the share of prompt tokens that an earlier request in the list has in the same place, in whole units."""
    seen: set[bytes] = set()
    n_repeated = n_all = 0
    for request in requests:
        prompt = prompt_tokens(request)
        keys = list(unit_keys(prompt))
        n_all += len(prompt)
        n_repeated += UNIT_TOKENS * sum(key in seen for key in keys)
        seen.update(keys)
    return n_repeated / n_all if n_all else 0.0


def unit_keys(prompt: np.ndarray[Any, np.dtype[np.int32]]) -> Iterator[bytes]:
    """Yield a key per whole unit, equal where the unit and all before it are equal."""
    state = xxhash.xxh3_128()
    for end in range(UNIT_TOKENS, len(prompt) + 1, UNIT_TOKENS):
        state.update(prompt[end - UNIT_TOKENS : end].tobytes())
        yield state.digest()


@lru_cache(maxsize=1 << 13)
def _text(text: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.asarray(train().encode(text).ids, dtype=np.int32)


@lru_cache(maxsize=8)
def _opening(role: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    return _text(f"<|im_start|>{role}\n")


@lru_cache(maxsize=1 << 13)
def _message(role: str, content: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    end = np.asarray([token_id("<|im_end|>")], dtype=np.int32)
    return np.concatenate([_opening(role), _text(content), end, _text("\n")])
