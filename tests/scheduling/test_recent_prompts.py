"""Requests are known by what they have in common with those that were served a moment ago."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from elmas.scheduling.recent_prompts import Mark, RecentPrompts, mark_of

SHARED = "You are one of many agents. " * 40


def body_of(agent: int, n_turns: int, **fields: Any) -> bytes:
    """A chat request of an agent after so many turns, with fields after the messages."""
    messages = [{"role": "system", "content": SHARED}]
    for turn in range(n_turns + 1):
        messages.append({"role": "user", "content": f"agent {agent} says {agent * 7919 + turn} " * 60})
    return json.dumps({"messages": messages, "model": "m", "max_tokens": 32, **fields}).encode()


def known_mark(body: bytes) -> Mark:
    mark = mark_of(body)
    assert mark is not None
    return mark


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 5))
def test_the_next_turn_is_known_and_no_other_agent_is(agent: int, other: int, n_turns: int) -> None:
    recent = RecentPrompts()
    recent.begun()
    recent.ended(known_mark(body_of(agent, n_turns, stream=True)))
    assert recent.has(body_of(agent, n_turns + 1, stream=True))
    assert recent.has(body_of(other, n_turns + 1)) == (other == agent)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10), st.integers(0, 8))
def test_an_answer_is_recent_until_more_than_four_others_have_begun(n_between: list[int], n_after: int) -> None:
    """Answers end, and `n_between` others begin before the next one ends."""
    recent = RecentPrompts()
    for agent, n in enumerate(n_between):
        recent.ended(known_mark(body_of(agent, 0)))
        for _ in range(n if agent < len(n_between) - 1 else n_after):
            recent.begun()
    begun_since = [sum(n_between[agent:-1]) + n_after for agent in range(len(n_between))]
    assert [recent.has(body_of(agent, 1)) for agent in range(len(n_between))] == [n <= 4 for n in begun_since]


def test_of_very_many_the_last_ones_are_known() -> None:
    recent = RecentPrompts()
    for agent in range(1000):
        recent.ended(known_mark(body_of(agent, 0)))
    known = [agent for agent in range(1000) if recent.has(body_of(agent, 1))]
    assert known == list(range(1000 - 256, 1000))


def test_short_requests_are_not_worth_recognising() -> None:
    assert mark_of(b'{"prompt": "hello"}') is None
    assert not RecentPrompts().has(b"")
