"""First come, first served in front of the engine: an ASGI middleware for `vllm serve --middleware`.

vLLM's API server is one event loop. What comes at once it works on in turns, a few microseconds each, and all of it
reaches the engine when the loop is nearly done with all: 320 prompts of 2,000 tokens keep a GPU idle for 0.6 s at the
beginning of each round. Here requests enter the server one after the other, as they came, so that the engine works on
the first ones while the others are parsed.

A request is let in when the one before it has had its turns of the loop; whether that has reached the engine by then,
waits for a tokenizer in another thread, or was refused, does not matter: nobody ever waits for somebody else's answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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

_MOST_BODY_BYTES = 4 << 20
"""A request with a longer body does not wait until all of it has come."""


class FirstComeFirstServed:
    """See the module. Wraps the ASGI application `app`; only POST requests wait, in the order in which their bodies
    were complete."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        """Requests that want in, with the bytes of their bodies."""
        self._doorman: asyncio.Task[None] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection as the application does, when its turn has come."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        received = await _body(receive)

        async def replay() -> Message:
            return received.popleft() if received else await receive()

        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, sum(len(message.get("body", b"")) for message in received)))
        if self._doorman is None:
            self._doorman = asyncio.create_task(self._let_in())
        await turn
        return await self._app(scope, replay, send)

    async def _let_in(self) -> None:
        """Let in one after the other until nobody waits."""
        due_s = time.monotonic()
        while self._waiting:
            turn, n_bytes = self._waiting.popleft()
            if turn.cancelled():
                continue
            turn.set_result(None)
            due_s += MOST_REQUEST_S + n_bytes * MOST_BYTE_S
            for _ in range(TURNS):
                if time.monotonic() >= due_s:
                    break
                await asyncio.sleep(0)
        self._doorman = None


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
