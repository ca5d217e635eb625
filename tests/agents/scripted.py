"""An asker whose answers are written by a function: for applications without a model."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elmas.agents.endpoint import Message, RequestRecord
from elmas.agents.model import NOTHING_KNOWN, Answer, Expect


@dataclass(frozen=True)
class Call:
    """One question."""

    agent: str
    messages: list[dict[str, str]]
    max_tokens: int
    schema: Mapping[str, Any] | None
    expect: Expect

    @property
    def last(self) -> str:
        """What was said last."""
        return self.messages[-1]["content"]


@dataclass
class ScriptedAsker:
    """Answers every call with what `script` returns: a text, or None for a call that failed."""

    script: Callable[[Call], str | None]
    calls: list[Call] = field(default_factory=list)
    signals: list[tuple[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def ask(
        self,
        agent: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        expect: Expect = NOTHING_KNOWN,
    ) -> Answer:
        call = Call(agent, [dict(message) for message in messages], max_tokens, schema, expect)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.running -= 1
        text = self.script(call)
        if text is None:
            return Answer("", (RequestRecord(0.0, 1.0, error="HTTP 503: busy", http_status=503),))
        return Answer(text, (RequestRecord(0.0, 1.0, (0.5,), 10, 5, text=text, http_status=200),))

    async def pause(self, agent: str, expected_s: float | None = None) -> None:
        self.signals.append((agent, "pause"))

    async def resume(self, agent: str) -> None:
        self.signals.append((agent, "resume"))

    async def done(self, agent: str) -> None:
        self.signals.append((agent, "done"))
