"""A server that only streams: it answers every completion with as many events as asked for, at a fixed rate.

It stands in for vLLM where the client is what is measured, as a process of its own: `python -m
elmas.bench.stream_server`. Events have the form and length of vLLM's, and the text of each one is the time at which it
was written, on the clock of `time.perf_counter`, which all processes of a Linux machine share.

Streams emit one event per `gap_s`, each at a phase of its own. With `running` only so many emit, all in the same
moment as a batch of vLLM does, and the others wait for their turn.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from typing import cast

_TICK_S = 0.002

_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_MODELS = b'{"object":"list","data":[{"id":"stream","object":"model","owned_by":"vllm"}]}'
_TAIL = (
    'data: {{"id":"cmpl-8f8a2c8b7f8e4d6c9d1f","object":"text_completion","created":1800000000,"model":"stream",'
    '"choices":[],"usage":{{"prompt_tokens":{n_prompt},"total_tokens":{n_all},"completion_tokens":{n_out},'
    '"prompt_tokens_details":{{"cached_tokens":0}}}}}}\n\ndata: [DONE]\n\n'
)


class Streams:
    """All open streams, and when each of them emits next."""

    def __init__(self, gap_s: float, running: int) -> None:
        self._gap_s = gap_s
        self._running = running
        self._n_slots = max(1, round(gap_s / _TICK_S))
        self._slots: list[list[_Stream]] = [[] for _ in range(self._n_slots)]
        self._next_slot = 0
        self._batch: list[_Stream] = []
        self._waiting: deque[_Stream] = deque()

    def add(self, stream: "_Stream") -> None:
        """Let a stream begin: in the next slot, or when there is room in the batch."""
        if self._running:
            self._waiting.append(stream)
        else:
            self._slots[self._next_slot].append(stream)
            self._next_slot = (self._next_slot + 1) % self._n_slots

    async def run(self) -> None:
        """Emit for ever, in time with the clock."""
        begin_s = time.perf_counter()
        period_s = self._gap_s if self._running else _TICK_S
        step = 0
        while True:
            step += 1
            await asyncio.sleep(begin_s + step * period_s - time.perf_counter())
            if self._running:
                while self._waiting and len(self._batch) < self._running:
                    self._batch.append(self._waiting.popleft())
                self._batch = [stream for stream in self._batch if stream.emit()]
            else:
                slot = step % self._n_slots
                self._slots[slot] = [stream for stream in self._slots[slot] if stream.emit()]


class _Stream(asyncio.Protocol):
    """One connection, one answer at a time."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._received = b""
        self._n_left = self._n_tokens = self._n_prompt = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio

    def data_received(self, data: bytes) -> None:
        """Take what the client sends; a complete request begins a stream."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        if head.startswith(b"GET"):
            self._received = body
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_MODELS), _MODELS))
            return
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
        length = int({name: value for name, _, value in lines}[b"content-length"])
        if len(body) < length:
            return
        self._received = body[length:]
        fields = json.loads(body[:length])
        self._n_left = self._n_tokens = int(fields["max_tokens"])
        self._n_prompt = len(fields["prompt"])
        self._transport.write(_HEAD)
        self._streams.add(self)

    def emit(self) -> bool:
        """Write the next event; False after the last one, or when the client is gone."""
        if self._transport.is_closing():
            return False
        self._n_left -= 1
        end = '"length"' if self._n_left == 0 else "null"
        event = (
            'data: {"id":"cmpl-8f8a2c8b7f8e4d6c9d1f","object":"text_completion","created":1800000000,"model":"stream",'
            f'"choices":[{{"index":0,"text":" {time.perf_counter():.6f}","logprobs":null,"finish_reason":{end},'
            f'"stop_reason":null,"token_ids":[{self._n_left}],"prompt_logprobs":null,"prompt_token_ids":null}}],'
            '"usage":null}\n\n'
        )
        self._transport.write(_chunk(event))
        if self._n_left:
            return True
        n_prompt, n_out = self._n_prompt, self._n_tokens
        tail = _TAIL.format(n_prompt=n_prompt, n_out=n_out, n_all=n_prompt + n_out)
        self._transport.write(_chunk(tail) + b"0\r\n\r\n")
        return False


def _chunk(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text.encode())


async def serve(port: int, gap_s: float, running: int) -> None:
    """Listen on `port` of this machine and stream until cancelled."""
    streams = Streams(gap_s, running)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Stream(streams), "127.0.0.1", port, backlog=65535)
    async with server:
        await streams.run()


def main() -> None:
    """Serve with the sizes of the command line."""
    parser = argparse.ArgumentParser(prog="python -m elmas.bench.stream_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gap-s", type=float, default=0.5, help="seconds between two events of a stream")
    parser.add_argument("--running", type=int, default=0, help="streams that emit at once, in step; 0: all, evenly")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.gap_s, arguments.running))


if __name__ == "__main__":
    main()
