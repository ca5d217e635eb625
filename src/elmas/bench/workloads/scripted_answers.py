"""Seeded answers that are legal under a JSON schema: what an application is told instead of the model's own answer."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from elmas.bench.workloads.words import sentences, words
from elmas.models.phrases import phrases

_LONGEST_TEXT = 200
"""Characters of a text whose schema has no bound."""

_MOST_ITEMS = 8
"""Items of a list whose schema has no bound."""


def answer_text(random: np.random.Generator, schema: Mapping[str, Any] | None, max_tokens: int) -> str:
    """Return an answer: JSON that fits `schema`, or without one words, of half of `max_tokens` at least.

    Raises ValueError for a schema that it does not understand.
    """
    if schema is None:
        return words(random, int(random.integers(max(1, max_tokens // 2), max_tokens, endpoint=True)))
    return json.dumps(_value(random, schema), ensure_ascii=False)


def _value(random: np.random.Generator, schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][int(random.integers(len(schema["enum"])))]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            return {name: _value(random, each) for name, each in schema.get("properties", {}).items()}
        case "array":
            least = int(schema.get("minItems", 0))
            most = int(schema.get("maxItems", max(least, _MOST_ITEMS)))
            return [_value(random, schema["items"]) for _ in range(int(random.integers(least, most, endpoint=True)))]
        case "string":
            return _text(random, schema)
        case "integer":
            return int(random.integers(schema.get("minimum", 0), schema.get("maximum", 100), endpoint=True))
        case "number":
            return round(float(random.uniform(schema.get("minimum", 0), schema.get("maximum", 100))), 2)
        case "boolean":
            return bool(random.integers(2))
    raise ValueError(f"no answer is known for the schema {dict(schema)}")


def _text(random: np.random.Generator, schema: Mapping[str, Any]) -> str:
    """Return a text of a length between the schema's bounds; for a pattern, a word that fits it."""
    least = int(schema.get("minLength", 0))
    most = int(schema.get("maxLength", max(least, _LONGEST_TEXT)))
    if "pattern" not in schema:
        length = int(random.integers(least, most, endpoint=True))
        return sentences(random, length)[:length]
    known = sorted({word.strip(".,") for sentence in phrases() for word in sentence.split()})
    spelled = [form for word in known for form in (word, word.upper(), word.title())]
    fitting = [form for form in spelled if least <= len(form) <= most and re.search(schema["pattern"], form)]
    if not fitting:
        raise ValueError(f"no word fits the pattern {schema['pattern']}")
    return fitting[int(random.integers(len(fitting)))]
