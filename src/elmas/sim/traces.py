"""Traces of requests: the Mooncake format, one JSON object per line, read and written as a stream.

Fields (Qin et al., "Mooncake", FAST 2025): `timestamp` in ms, not going backwards; `input_length` and `output_length`
in tokens; `hash_ids`, one whole number for each block of the prompt, also for a partial last one, equal where the block
and all before it are equal. Three more are optional: `session_id`; `out_hash_ids`, the blocks that the answer
completes; `hints`, an object with any of those of `elmas.cache.hints`, by the names that they have in requests to a
server.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from elmas.cache.hints import HINT_FIELDS, NO_HINTS, Hints, parse_hints
from elmas.errors import UserError
from elmas.sim.parts import WHOLE, Part

DEFAULT_BLOCK_TOKENS = 512
"""Tokens per block in Mooncake's traces."""


@dataclass(frozen=True, slots=True)
class Access:
    """One request: when it arrives, how many tokens it has, and its blocks in prefix order."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]
    out_hash_ids: tuple[int, ...] = ()
    session_id: str | None = None
    hints: Hints | None = None


def read_trace(path: Path, block_tokens: int = DEFAULT_BLOCK_TOKENS, part: Part = WHOLE) -> Iterator[Access]:
    """Yield the requests of a trace file, or of a part of it, in its order; holds one line at a time. Of the lines of
    other parts only the times are looked at.

    Raises UserError that names file and line, and what to change, for anything that is not as the module says.
    """
    try:
        with path.open("rb") as file:
            last_ms, requests = 0.0, count()
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                request = next(requests)
                passed_ms = part.passed_ms(request, line)
                if passed_ms is not None and passed_ms >= last_ms:
                    last_ms = passed_ms
                    continue
                try:
                    access, last_ms = _parse(line, last_ms, block_tokens)
                except _BadLineError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
                if part.has(request, None if access.session_id is None else access.session_id.encode()):
                    yield access
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give the path of a trace file") from None


def write_trace(path: Path, accesses: Iterable[Access]) -> int:
    """Write requests to a file, replacing it; returns how many. UserError when it cannot be written."""
    n_written = 0
    try:
        with path.open("w") as file:
            for access in accesses:
                file.write(format_access(access))
                n_written += 1
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another file") from None
    return n_written


def format_access(access: Access) -> str:
    """Return a request as a line of the format. Times are rounded to microseconds."""
    fields: dict[str, Any] = {
        "timestamp": _plain_ms(access.arrival_s),
        "input_length": access.input_tokens,
        "output_length": access.output_tokens,
        "hash_ids": access.hash_ids,
    }
    if access.out_hash_ids:
        fields["out_hash_ids"] = access.out_hash_ids
    if access.session_id is not None:
        fields["session_id"] = access.session_id
    if access.hints is not None:
        fields["hints"] = _hint_fields(access.hints)
    return json.dumps(fields, separators=(",", ":")) + "\n"


_ONLY_WHOLE = frozenset((int,))


class _BadLineError(Exception):
    """What is wrong with a line, and what to change."""


def _plain_ms(seconds: float) -> float | int:
    milliseconds = round(seconds * 1e3, 3)
    return int(milliseconds) if milliseconds.is_integer() else milliseconds


def _parse(line: bytes, last_ms: float, block_tokens: int) -> tuple[Access, float]:
    """Return the request of a line and its time in ms."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError):
        raise _BadLineError("not a JSON object: write one object per line") from None
    if not isinstance(fields, dict):
        raise _BadLineError("not a JSON object: write one object per line")
    arrival_ms: Any = fields.get("timestamp")
    if not _is_number(arrival_ms) or arrival_ms < 0:
        raise _BadLineError(f"timestamp is {arrival_ms!r}: give milliseconds, 0 or more")
    if arrival_ms < last_ms:
        raise _BadLineError(f"timestamp {arrival_ms} is before the {last_ms} above it: sort the lines by timestamp")
    n_input, n_output = _n_tokens(fields, "input_length", 1), _n_tokens(fields, "output_length", 0)
    hash_ids = _ids(fields, "hash_ids")
    out_hash_ids = _ids(fields, "out_hash_ids") if "out_hash_ids" in fields else ()
    # Traces differ in whether a partial last block has a number: both are understood.
    n_complete, n_all = n_input // block_tokens, -(-n_input // block_tokens)
    if not n_complete <= len(hash_ids) <= n_all:
        raise _BadLineError(
            f"{len(hash_ids)} hash_ids for {n_input} input tokens in blocks of {block_tokens}: "
            f"give {n_all}, or the block size of this trace with --block-size"
        )
    n_most = -(-(n_input + n_output) // block_tokens) - n_complete
    if len(out_hash_ids) > n_most:
        raise _BadLineError(
            f"{len(out_hash_ids)} out_hash_ids for {n_output} output tokens in blocks of {block_tokens}: "
            f"give {n_most} at most, or the block size of this trace with --block-size"
        )
    if len({*hash_ids, *out_hash_ids}) < len(hash_ids) + len(out_hash_ids):
        raise _BadLineError("a block is twice in the request: give each place in a prompt a number of its own")
    session_id = fields.get("session_id")
    if session_id is not None and not isinstance(session_id, str) and not _is_whole(session_id):
        raise _BadLineError(f"session_id is {session_id!r}: give a text or a whole number")
    access = Access(
        arrival_s=arrival_ms / 1e3,
        input_tokens=n_input,
        output_tokens=n_output,
        hash_ids=hash_ids,
        out_hash_ids=out_hash_ids,
        session_id=None if session_id is None else str(session_id),
        hints=_hints(fields),
    )
    return access, arrival_ms


def _n_tokens(fields: dict[str, Any], name: str, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or value < least:
        raise _BadLineError(f"{name} is {value!r}: give a whole number of tokens, {least} or more")
    return value


def _ids(fields: dict[str, Any], name: str) -> tuple[int, ...]:
    values = fields.get(name)
    if not isinstance(values, list) or not _ONLY_WHOLE.issuperset(map(type, values)):
        raise _BadLineError(f"{name} is not a list of whole numbers: give one for each block")
    if values and not -(2**63) <= min(values) <= max(values) < 2**63:
        raise _BadLineError(f"{name} has a number beyond 64 bits: number the blocks from 0 on")
    return tuple(values)


def _hints(fields: dict[str, Any]) -> Hints | None:
    """Return the hints as the server understands them: what it does not understand is ignored."""
    values = fields.get("hints")
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _BadLineError(f"hints is {values!r}: give an object")
    return parse_hints(values)[0]


def _hint_fields(hints: Hints) -> dict[str, Any]:
    """Return what hints say, by the names that `parse_hints` understands."""
    return {key: said for key, name in HINT_FIELDS.items() if (said := getattr(hints, name)) != getattr(NO_HINTS, name)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int
