"""HTTP/1.1 as load needs it: thousands of requests at once, and every piece of an answer handed on when it arrives.

A general client wakes a task for every piece; here the protocol calls the taker directly, in the same turn of the event
loop in which the socket became readable. So a time stamp is as late as the loop is, and no later. What is HTTP is
left to llhttp (`httptools`). Nothing here knows what is in an answer.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from elmas.errors import UserError

_KEEPALIVE_S = 4.0
"""How long an idle connection is kept. Below the five seconds after which vLLM's HTTP server closes it: a request sent
on a connection that the server is closing would fail."""

_CONNECT_TIMEOUT_S = 30.0

_MOST_CONNECTING = 256
"""Connections that are being made at once. More of them than the server's backlog would wait for a second each, until
the kernel tries again."""

OnBody = Callable[[int, bytes], None]
"""Called with the status and every piece of the body as it comes; what it raises ends the request."""


class BrokenConnectionError(ConnectionError):
    """The connection broke, or what came is no HTTP."""


@dataclass(frozen=True)
class Response:
    """The head of an answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]


class Connections:
    """All connections to one server. No limit on their number: a queue in the client would be measured as the
    server's."""

    def __init__(self, base_url: str) -> None:
        """Raise UserError for an address that is none; nothing is opened yet."""
        parts = urlsplit(base_url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise UserError(f"{base_url!r} is no address: give one such as http://127.0.0.1:8000/v1")
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._named = parts.netloc.rpartition("@")[2]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._addresses: list[tuple[int, str]] = []
        self._resolving = asyncio.Lock()
        self._connecting = asyncio.Semaphore(_MOST_CONNECTING)
        self._idle: list[tuple[float, _Connection]] = []
        self._open: set[_Connection] = set()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, on_body: OnBody
    ) -> Response:
        """Send one request and return its answer's head when the body has ended.

        Raises OSError, of which BrokenConnectionError and TimeoutError are kinds, when the connection fails, and
        whatever `on_body` raises.
        """
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if head.count("\n") != len(headers):
            raise ValueError("a header has more than one line")
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._named}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        connection = self._take_idle() or await self._connect()
        try:
            response = await connection.exchange(head.encode("latin-1"), body, on_body)
        except BaseException:
            connection.abort()
            raise
        if connection.is_open:
            self._idle.append((time.monotonic(), connection))
        return response

    async def close(self) -> None:
        """Close all connections."""
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _take_idle(self) -> "_Connection | None":
        """Return the connection that was used last, if the server still keeps it."""
        while self._idle:
            since_s, connection = self._idle.pop()
            if connection.is_open and time.monotonic() - since_s < _KEEPALIVE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection":
        async with self._connecting, asyncio.timeout(_CONNECT_TIMEOUT_S):
            failure: OSError | None = None
            for family, address in await self._resolve():
                try:
                    _, connection = await asyncio.get_running_loop().create_connection(
                        lambda: _Connection(self._open),
                        address,
                        self._port,
                        family=family,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls else None,
                    )
                except OSError as error:
                    failure = error
                    continue
                # The one that answers is tried first from now on: "localhost" has two, of which often one is dead.
                self._addresses.sort(key=lambda each: each[1] != address)
                return connection
            self._addresses = []
            raise failure or BrokenConnectionError(f"no address for {self._host}")

    async def _resolve(self) -> list[tuple[int, str]]:
        """Return families and addresses of the server, looked up once."""
        async with self._resolving:
            if not self._addresses:
                found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses = [(family, str(address[0])) for family, _, _, _, address in found]
            return list(self._addresses)


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time. Also the callbacks of its parser."""

    def __init__(self, all_open: set["_Connection"]) -> None:
        self._all_open = all_open
        self._parser: Any = httptools.HttpResponseParser(self)
        self._ended: asyncio.Future[Response] | None = None
        self._headers: dict[str, str] = {}
        self._has_head = False
        self.is_open = False
        """Whether another request can be sent on it."""

    async def exchange(self, head: bytes, body: bytes, on_body: OnBody) -> Response:
        """Send a request and return the answer's head when its body has ended."""
        self._on_body = on_body
        self._headers, self._has_head = {}, False
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        return await self._ended

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio
        self._all_open.add(self)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
        except httptools.HttpParserError as error:
            self._fail(BrokenConnectionError(f"no HTTP ({error})"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_open.discard(self)
        self.is_open = False
        has_length = "content-length" in self._headers or "transfer-encoding" in self._headers
        if exc is None and self._has_head and not has_length:
            self._end()  # such a body ends with the connection
        else:
            self._fail(exc if isinstance(exc, OSError) else BrokenConnectionError("the server closed the connection"))

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = int(self._parser.get_status_code())
        self._has_head = self._status >= 200

    def on_body(self, body: bytes) -> None:
        self._on_body(self._status, body)

    def on_message_complete(self) -> None:
        if self._has_head:
            self.is_open = self.is_open and bool(self._parser.should_keep_alive())
            self._end()

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_result(Response(self._status, self._headers))
        if not self.is_open:
            self._transport.abort()

    def _fail(self, cause: BaseException) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_exception(cause)
        self.abort()
