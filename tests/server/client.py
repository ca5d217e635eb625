"""A plain client for the server tests: greedy completions with token ids and the two best log-probabilities."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from elmas.bench.arms import MODEL_NAME

NEAR_TIE = 1e-3
"""Two tokens whose log-probabilities differ by less may change places when sums are formed in another order."""


@dataclass(frozen=True)
class Answer:
    """A completion: its tokens, per token the log-probabilities of the best two, the prompt tokens from a cache."""

    tokens: list[int]
    gaps: list[float]
    n_cached: int


def tokens(seed: int, n_tokens: int) -> list[int]:
    """Return random token ids; equal seeds give equal tokens."""
    rng = random.Random(seed)
    return [rng.randrange(300, 2000) for _ in range(n_tokens)]


def complete(url: str, prompt: list[int], n_tokens: int, **fields: Any) -> list[Answer]:
    """Return the answers to one request, one per choice; raises for an HTTP error."""
    body = {
        "model": MODEL_NAME,
        "prompt": prompt,
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 2,
        "return_token_ids": True,
        **fields,
    }
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=300)
    response.raise_for_status()
    content = response.json()
    details = content["usage"].get("prompt_tokens_details") or {}
    return [
        Answer(choice["token_ids"], _gaps(choice["logprobs"]["top_logprobs"]), details.get("cached_tokens") or 0)
        for choice in content["choices"]
    ]


def complete_all(url: str, prompts: list[list[int]], n_tokens: int, **fields: Any) -> list[Answer]:
    """Send all prompts at once; returns the answers in order."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return [answers[0] for answers in pool.map(lambda prompt: complete(url, prompt, n_tokens, **fields), prompts)]


def assert_same_tokens(found: list[Answer], expected: list[Answer]) -> None:
    """Token by token. An answer may part from the expected one only where the model itself is undecided, and then
    only one answer in a hundred: wrong KV changes whole distributions, not near-ties."""
    n_ties = 0
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.tokens == other.tokens:
            continue
        first = next(i for i, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=True)) if a != b)
        gap = min(one.gaps[first], other.gaps[first])
        assert gap < NEAR_TIE, f"answer {place} differs at token {first}, where the best two are {gap} apart"
        n_ties += 1
    assert n_ties <= 1 + len(found) // 100, f"{n_ties} answers part at near-ties"


def _gaps(steps: list[dict[str, float]]) -> list[float]:
    best = (sorted(step.values(), reverse=True) for step in steps)
    return [values[0] - values[1] if len(values) > 1 else 0.0 for values in best]
