"""The HTTP client below the endpoint: every way in which an answer can be framed, and in which a connection can end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from elmas.agents.http import BrokenConnectionError, Connections, Response
from elmas.errors import UserError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """Read one request with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head


def answering(*pieces: bytes, gap_s: float = 0.0) -> Serve:
    """A server that answers every request with the same bytes, in pieces, and closes in the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(gap_s)
        writer.close()

    return serve


def fetch(serve: Serve, host: str = "127.0.0.1", n: int = 1) -> list[tuple[Response, list[bytes]]]:
    async def run() -> list[tuple[Response, list[bytes]]]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = Connections(f"http://{host}:{port}/v1")
        found = []
        async with server:
            for _ in range(n):
                pieces: list[bytes] = []
                response = await connections.request(
                    "POST", "/v1/x", {"A": "b"}, b"body", lambda _, data, pieces=pieces: pieces.append(data)
                )
                found.append((response, pieces))
            await connections.close()
        return found

    return asyncio.run(run())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kind: a\r\n\r\n"


def test_a_chunked_body_is_handed_on_piece_by_piece() -> None:
    ((response, pieces),) = fetch(answering(CHUNKED, b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n", gap_s=0.05))
    assert (response.status, response.headers["x-kind"]) == (200, "a")
    assert pieces == [b"abc", b"de"]


def test_bytes_may_be_cut_anywhere() -> None:
    whole = CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n"
    ((_, pieces),) = fetch(answering(*(whole[index : index + 1] for index in range(len(whole))), gap_s=0.001))
    assert b"".join(pieces) == b"hello world"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.0 404 Not Found\r\n\r\nnope",  # ends with the connection
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope",
    ],
    ids=["length", "until the end", "after an interim answer"],
)
def test_other_framings_are_understood(answer: bytes) -> None:
    ((response, pieces),) = fetch(answering(answer))
    assert response.status == 404
    assert b"".join(pieces) == b"nope"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        CHUNKED + b"5\r\nabc",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        CHUNKED + b"zz\r\nabc\r\n",
    ],
    ids=["nothing", "short", "broken chunk", "another protocol", "bad chunk"],
)
def test_what_breaks_off_or_is_no_http_is_an_error(answer: bytes) -> None:
    with pytest.raises(BrokenConnectionError):
        fetch(answering(answer))


def test_connections_are_used_again_until_the_server_wants_them_closed() -> None:
    n_connections = 0

    def counting(answer: bytes) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal n_connections
            n_connections += 1
            try:
                while True:
                    await head_of(reader)
                    writer.write(answer)
            except asyncio.IncompleteReadError:
                writer.close()

        return serve

    fetch(counting(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), n=3)
    assert n_connections == 1
    fetch(counting(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), n=3)
    assert n_connections == 4


def test_a_name_with_several_addresses_is_tried_through() -> None:
    # "localhost" is also ::1, where this server does not listen.
    ((response, _),) = fetch(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), host="localhost")
    assert response.status == 204


def test_what_the_taker_raises_ends_the_request() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answering(CHUNKED, b"3\r\nabc\r\n", gap_s=0.5), "127.0.0.1", 0)
        connections = Connections(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

        def refuse(status: int, data: bytes) -> None:
            raise ValueError("no such thing")

        with pytest.raises(ValueError, match="no such thing"):
            await connections.request("GET", "/", {}, b"", refuse)
        await connections.close()
        server.close()

    asyncio.run(run())


def test_headers_cannot_smuggle_a_second_request() -> None:
    async def run() -> None:
        with pytest.raises(ValueError, match="more than one line"):
            await Connections("http://127.0.0.1:9").request("GET", "/", {"A": "b\r\nC: d"}, b"", lambda *_: None)

    asyncio.run(run())


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:0", "http://host:99999"])
def test_addresses_that_are_none_are_one_clear_line(address: str) -> None:
    with pytest.raises(UserError, match="is no address: give one such as http://"):
        Connections(address)
