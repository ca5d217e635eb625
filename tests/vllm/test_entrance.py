"""Requests reach the engine one after the other, as they came, and nobody waits for somebody else's answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.vllm import entrance
from elmas.vllm.entrance import Entrance

POST = {"type": "http", "method": "POST"}


def receiving(*messages: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


def body(text: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": text, "more_body": more}


async def send(message: Any) -> None:
    raise AssertionError("nothing is sent here")


def order_of_events(turns: list[int], wrap: bool) -> list[tuple[str, int]]:
    """Return who began and who reached the engine, where request i takes `turns[i]` turns of the loop and all come at
    once."""
    events: list[tuple[str, int]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        name = int((await receive())["body"])
        events.append(("begun", name))
        for _ in range(turns[name]):
            await asyncio.sleep(0)
        events.append(("engine", name))

    async def play() -> None:
        app = Entrance(application) if wrap else application
        await asyncio.gather(*(app(dict(POST), receiving(body(b"%d" % i)), send) for i in range(len(turns))))

    asyncio.run(play())
    return events


def test_without_it_all_that_come_at_once_arrive_at_once() -> None:
    events = order_of_events([5] * 20, wrap=False)
    assert events.index(("engine", 0)) > events.index(("begun", 19))


@given(st.lists(st.integers(0, entrance.TURNS - 2), min_size=1, max_size=30))
def test_each_has_reached_the_engine_before_the_next_begins(turns: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entrance, "MOST_REQUEST_S", 60.0)
        events = order_of_events(turns, wrap=True)
    assert events == [(what, i) for i in range(len(turns)) for what in ("begun", "engine")]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_all_begin_in_the_order_in_which_they_came(turns: list[int]) -> None:
    events = order_of_events(turns, wrap=True)
    assert [name for what, name in events if what == "begun"] == list(range(len(turns)))
    assert sorted(name for what, name in events if what == "engine") == list(range(len(turns)))


def test_nobody_waits_for_an_answer() -> None:
    begun: list[bytes] = []

    async def play() -> None:
        answered = asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            begun.append((await receive())["body"])
            await answered.wait()

        app = Entrance(application)
        calls = [asyncio.create_task(app(dict(POST), receiving(body(b"%d" % i)), send)) for i in range(5)]
        while len(begun) < len(calls):
            await asyncio.sleep(0)
        answered.set()
        await asyncio.gather(*calls)

    asyncio.run(asyncio.wait_for(play(), 10))
    assert begun == [b"0", b"1", b"2", b"3", b"4"]


def test_long_turns_do_not_keep_requests_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [0.0]
    monkeypatch.setattr(entrance.time, "monotonic", lambda: clock_s[0])
    begun_s: list[float] = []

    async def play() -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            begun_s.append(clock_s[0])

        async def stream() -> None:
            while len(begun_s) < 100:
                clock_s[0] += 0.05
                await asyncio.sleep(0)

        app = Entrance(application)
        calls = [app(dict(POST), receiving(body(b"")), send) for _ in range(100)]
        await asyncio.gather(stream(), *calls)

    asyncio.run(play())
    # Each turn takes as long as ten requests may: ten are let in per turn.
    assert begun_s[-1] <= 100 * entrance.MOST_REQUEST_S + 0.15


def test_a_request_that_failed_or_was_cancelled_holds_nobody_up() -> None:
    served: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        text = (await receive())["body"]
        if text == b"bad":
            raise ValueError("bad")
        served.append(text)

    async def play() -> None:
        app = Entrance(application)
        texts = [b"a", b"bad", b"gone", b"b"]
        calls = [asyncio.create_task(app(dict(POST), receiving(body(text)), send)) for text in texts]
        await asyncio.sleep(0)
        calls[2].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ValueError, asyncio.CancelledError, type(None)]
        # And the next burst finds the door open.
        await app(dict(POST), receiving(body(b"c")), send)

    asyncio.run(play())
    assert served == [b"a", b"b", b"c"]


def test_the_application_receives_what_came_and_what_comes_later() -> None:
    received: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        received.extend([await receive() for _ in range(3)])

    pieces = [body(b"one", more=True), body(b"two")]
    asyncio.run(Entrance(application)(dict(POST), receiving(*pieces), send))
    assert received == [*pieces, {"type": "http.disconnect"}]


def test_a_very_long_body_is_not_kept_until_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "_MOST_BODY_BYTES", 10)
    n_received = 0

    async def receive() -> dict[str, Any]:
        nonlocal n_received
        n_received += 1
        return body(b"x" * 6, more=True)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert n_received == 2

    asyncio.run(Entrance(application)(dict(POST), receive, send))


def test_other_requests_pass_at_once() -> None:
    passed: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def play() -> None:
        app = Entrance(application)
        for scope in ({"type": "lifespan"}, {"type": "http", "method": "GET"}, {"type": "websocket"}):
            await app(scope, receiving(), send)
            assert app._doorman is None

    asyncio.run(play())
    assert passed == ["lifespan", "http", "websocket"]


class Line:
    """Requests at the entrance: who began, in order. Each is answered at once, in two pieces."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.app = Entrance(self._answer)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append((await receive())["body"][:10].strip())
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def come(self, *texts: bytes) -> None:
        """All at once, until all are answered."""

        async def take(message: Any) -> None:
            pass

        await asyncio.gather(*(self.app(dict(POST), receiving(body(text)), take) for text in texts))


def turn_of(agent: int, n_turns: int) -> bytes:
    """A long request, which begins with those before."""
    return b"%-10d" % agent + b"".join(b"%03d %d " % (turn, agent) * 300 for turn in range(n_turns + 1))


def test_who_was_served_a_moment_ago_is_let_in_first() -> None:
    line = Line()

    async def play() -> None:
        await line.come(*(turn_of(agent, 0) for agent in range(20)))
        await line.come(*(turn_of(agent, 1) for agent in range(20)))

    asyncio.run(play())
    # Each answer ends before the next one begins: after that of 15 four have begun.
    assert line.begun[20:] == [b"%d" % agent for agent in [*range(15, 20), *range(15)]]


def test_who_has_waited_too_long_is_passed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    clock_s = [0.0]
    monkeypatch.setattr(entrance.time, "monotonic", lambda: clock_s[0])

    async def play() -> None:
        await line.come(turn_of(7, 0))
        others = [asyncio.create_task(line.come(turn_of(agent, 0))) for agent in range(3)]
        back = asyncio.create_task(line.come(turn_of(7, 1)))
        while len(line.app._others) < 3 or not line.app._known:
            await asyncio.sleep(0)
        clock_s[0] += entrance.MOST_PASSED_S + 0.1
        await asyncio.gather(*others, back)

    asyncio.run(play())
    assert line.begun == [b"7", b"0", b"1", b"2", b"7"]


def test_an_answer_that_was_broken_off_makes_nobody_known() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise ConnectionError

    async def take(message: Any) -> None:
        pass

    app = Entrance(application)
    with pytest.raises(ConnectionError):
        asyncio.run(app(dict(POST), receiving(body(turn_of(1, 0))), take))
    assert not app._recent.has(turn_of(1, 1))
