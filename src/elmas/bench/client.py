"""Load for benchmarks: many requests at once over one endpoint, each with as many output tokens as asked for."""

import asyncio
from collections.abc import Callable, Sequence

from elmas.agents.endpoint import Endpoint, RequestRecord

__all__ = ["Endpoint", "RequestRecord", "encode_completion", "send_all"]

Progress = Callable[[], None]
"""Called once per finished request."""


def encode_completion(endpoint: Endpoint, prompt: Sequence[int], n_output_tokens: int) -> bytes:
    """Return the body of a greedy request for exactly `n_output_tokens` tokens, whose ids come back with the text."""
    return endpoint.encode(
        prompt=list(prompt),
        max_tokens=n_output_tokens,
        temperature=0.0,
        ignore_eos=True,
        return_token_ids=True,
    )


async def send_all(endpoint: Endpoint, bodies: Sequence[bytes], on_done: Progress | None = None) -> list[RequestRecord]:
    """Send all completion bodies at once, wait for every answer and return the records in the order of the bodies."""

    async def send(body: bytes) -> RequestRecord:
        record = await endpoint.stream("/completions", body)
        if on_done is not None:
            on_done()
        return record

    return list(await asyncio.gather(*(send(body) for body in bodies)))
