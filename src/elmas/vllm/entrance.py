"""The entrance of vLLM's API server, where requests go in one after the other: an ASGI middleware for
`vllm serve --middleware`.

The API server is one event loop. What comes at once it works on in turns, a few microseconds each, and all of it
reaches the engine when the loop is nearly done with all: 320 prompts of 2,000 tokens keep a GPU idle for 0.6 s at the
beginning of each round. Here they enter one after the other, so that the engine works on the first ones while the
others are parsed.

First come is first served, but for those whose last answer ended a moment ago: the device has most of their blocks (see
`elmas.scheduling.recent_prompts`). They can run at once, and should before others take the room; the engine would wait
for them meanwhile, wherever they stand in the line.

A request is let in when the one before it has had its turns of the loop; whether that has reached the engine by then,
waits for a tokenizer in another thread, or was refused, does not matter: nobody ever waits for somebody else's answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from elmas.scheduling.recent_prompts import Mark, RecentPrompts, mark_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

TURNS = 8
"""Turns of the loop that a request gets before the next one is let in: about as many as it takes to the engine. With
fewer, two or three are worked on at once."""

MOST_REQUEST_S, MOST_BYTE_S = 0.005, 150e-9
"""A request gets no more time than this, and so much per byte of its body, before the next one is let in: turns are
long when thousands of answers stream. A prompt of 5,000 tokens, 35 KB, gets 10 ms and needs 2.3 on a server."""

MOST_PASSED_S = 0.5
"""Whoever has waited for so long is passed by nobody."""

_MOST_BODY_BYTES = 4 << 20
"""A request with a longer body does not wait until all of it has come."""


@dataclass(slots=True)
class _Turn:
    """A request that wants in."""

    comes: asyncio.Future[None]
    n_bytes: int
    since_s: float


class Entrance:
    """See the module. Wraps the ASGI application `app`; only POST requests wait, once their bodies are complete."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._recent = RecentPrompts()
        self._known: deque[_Turn] = deque()
        """Those that were served a moment ago."""
        self._others: deque[_Turn] = deque()
        self._doorman: asyncio.Task[None] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection as the application does, when its turn has come."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        received = await _body(receive)

        async def replay() -> Message:
            return received.popleft() if received else await receive()

        body = b"".join(message.get("body", b"") for message in received)
        mark = mark_of(body)
        turn = _Turn(asyncio.get_running_loop().create_future(), len(body), time.monotonic())
        (self._known if mark is not None and self._recent.has(body) else self._others).append(turn)
        del body
        if self._doorman is None:
            self._doorman = asyncio.create_task(self._let_in())
        await turn.comes
        return await self._app(scope, replay, send if mark is None else self._watched(send, mark))

    def _watched(self, send: Send, mark: Mark) -> Send:
        """Return `send` for the answer to the request with this mark."""
        recent, has_begun = self._recent, False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.body":
                if not has_begun and message.get("body"):
                    has_begun = True
                    recent.begun()
                if has_begun and not message.get("more_body", False):
                    recent.ended(mark)
            await send(message)

        return watched

    async def _let_in(self) -> None:
        """Let in one after the other until nobody waits."""
        due_s = time.monotonic()
        while self._known or self._others:
            turn = self._next()
            if turn.comes.cancelled():
                continue
            turn.comes.set_result(None)
            due_s += MOST_REQUEST_S + turn.n_bytes * MOST_BYTE_S
            for _ in range(TURNS):
                if time.monotonic() >= due_s:
                    break
                await asyncio.sleep(0)
        self._doorman = None

    def _next(self) -> _Turn:
        if self._others and self._known:
            is_late = time.monotonic() - self._others[0].since_s > MOST_PASSED_S
            return (self._others if is_late else self._known).popleft()
        return (self._known or self._others).popleft()


async def _body(receive: Receive) -> deque[Message]:
    """Return the messages of a request's body, up to a size."""
    messages: deque[Message] = deque()
    n_bytes = 0
    while n_bytes <= _MOST_BODY_BYTES:
        message = await receive()
        messages.append(message)
        n_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return messages
