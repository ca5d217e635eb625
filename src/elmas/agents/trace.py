"""What an application asked, as a trace in the Mooncake format that `elmas simulate` and the benchmarks replay.

One JSON object per line (Qin et al., "Mooncake", FAST 2025): `timestamp` in ms since the first call, `input_length` and
`output_length` in tokens, `hash_ids`, one number for each block of the prompt, equal where the block and all before it
are equal, and `out_hash_ids`, the blocks that the answer completes. Numbers, not texts: a trace can be passed on.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elmas.agents.endpoint import Message, RequestRecord
from elmas.errors import UserError

BLOCK_TOKENS = 16
"""Tokens per block of a trace: vLLM's default on a GPU."""

_CHARACTERS_PER_TOKEN = 4
"""Stands for the tokenizer of a server that does not return token ids."""


@dataclass(frozen=True)
class _Call:
    submitted_s: float
    session: str
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]
    out_hash_ids: tuple[int, ...]


class TraceRecorder:
    """Collects calls and writes them as a trace; holds block numbers only, no texts and no tokens."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._number_of: dict[bytes, int] = {}

    def add(self, session: str, messages: Sequence[Message], record: RequestRecord) -> None:
        """Take one answered call. Blocks are those of the token ids where the record has them, else pieces of text."""
        if record.prompt_token_ids is not None and record.token_ids is not None:
            # Four bytes per token id, here and for the characters of a text, so that both are cut alike.
            width = 4
            prompt = array("I", record.prompt_token_ids).tobytes()
            answer = array("I", record.token_ids).tobytes()
        else:
            width = 4 * _CHARACTERS_PER_TOKEN
            prompt = _as_text(messages).encode("utf-32-le", "replace")
            answer = record.text.encode("utf-32-le", "replace")
        n_input = -(-len(prompt) // width)
        n_all = -(-(len(prompt) + len(answer)) // width)
        hash_ids = self._numbers(prompt, BLOCK_TOKENS * width)
        n_complete = len(prompt) // (BLOCK_TOKENS * width)
        all_ids = self._numbers(prompt + answer, BLOCK_TOKENS * width)
        n_all_complete = (len(prompt) + len(answer)) // (BLOCK_TOKENS * width)
        self._calls.append(
            _Call(
                record.submitted_s,
                session,
                n_input,
                n_all - n_input,
                hash_ids,
                all_ids[n_complete:n_all_complete],
            )
        )

    def write(self, path: Path) -> int:
        """Write the calls in the order of their submission, replacing the file; returns how many they are.

        Raises UserError when the file cannot be written.
        """
        calls = sorted(self._calls, key=lambda call: call.submitted_s)
        try:
            with path.open("w", encoding="utf-8") as file:
                for call in calls:
                    fields = {
                        "timestamp": round((call.submitted_s - calls[0].submitted_s) * 1e3, 3),
                        "input_length": call.input_tokens,
                        "output_length": call.output_tokens,
                        "hash_ids": call.hash_ids,
                        "out_hash_ids": call.out_hash_ids,
                        "session_id": call.session,
                    }
                    file.write(json.dumps(fields, separators=(",", ":")) + "\n")
        except OSError as error:
            raise UserError(f"cannot write the trace {path} ({error.strerror}): choose another file") from None
        return len(calls)

    def _numbers(self, data: bytes, block_bytes: int) -> tuple[int, ...]:
        """Return the number of each block, also of a partial last one; a number stands for the block and all before."""
        numbers = []
        parent = b""
        for begin in range(0, len(data), block_bytes):
            parent = hashlib.blake2b(parent + data[begin : begin + block_bytes], digest_size=16).digest()
            numbers.append(self._number_of.setdefault(parent, len(self._number_of)))
        return tuple(numbers)


def _as_text(messages: Sequence[Message]) -> str:
    """Return a conversation as it goes into a chat template: what grows at its end keeps its beginning."""
    turns = [f"{message['role']}\n{message['content']}\n" for message in messages]
    return "".join(turns) + "assistant\n"
