"""Events of elmas as part of the traces that torch's profiler writes: one file shows both in Perfetto.

The format is that of Chrome ("Trace Event Format", 2016): complete events X, instants i, counters C, and names M.
"""

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from elmas.vllm.log import logger
from elmas.vllm.tracing import TRACKS, Event, Trace

_FIRST_PID = 10_000_000
"""Beyond the process ids of Linux (2^22 at most) and the numbers of devices, which torch uses as such."""

_LANES = 100
"""Thread ids of one track: what overlaps goes to several lanes."""

_HEAD_BYTES = 1 << 20
_BEGIN = b'"traceEvents": ['


def chrome_events(events: Iterable[Event], base_ns: int, rank: int) -> list[dict[str, Any]]:
    """Return events in Chrome's format, with times relative to `base_ns`, as tracks of a process named after elmas.

    Slices that overlap on a track are put on lanes, since threads of a trace can only nest.
    """
    pid = _FIRST_PID + rank
    found: list[dict[str, Any]] = []
    lane_ends: dict[str, list[int]] = {}
    for event in sorted(events, key=lambda event: event.begin_ns):
        entry: dict[str, Any] = {"name": event.name, "cat": "elmas", "pid": pid, "ts": (event.begin_ns - base_ns) / 1e3}
        if event.kind == "count":
            found.append({**entry, "ph": "C", "args": event.arguments})
            continue
        ends = lane_ends.setdefault(event.track, [0])
        lane = 0
        if event.kind == "slice":
            free = (place for place, end_ns in enumerate(ends) if end_ns <= event.begin_ns)
            lane = next(free, min(len(ends), _LANES - 1))
            ends[lane : lane + 1] = [event.end_ns]
        entry |= {"tid": _tid(event.track, lane), "args": event.arguments}
        if event.kind == "slice":
            found.append({**entry, "ph": "X", "dur": (event.end_ns - event.begin_ns) / 1e3})
        else:
            found.append({**entry, "ph": "i", "s": "t"})
    return _names(pid, rank, {track: len(ends) for track, ends in lane_ends.items()}) + found


def add_events(path: Path, events: Sequence[Event], rank: int) -> None:
    """Add events to a trace that torch has written, plain or compressed (.gz); replaces the file as a whole.

    Raises ValueError when it is no such trace, and OSError.
    """
    scratch = path.with_name(f".{path.name}.elmas")
    compressed = path.suffix == ".gz"
    try:
        with _open(path, "rb", compressed) as source, _open(scratch, "wb", compressed) as target:
            head = source.read(_HEAD_BYTES)
            place = head.find(_BEGIN)
            if place < 0:
                raise ValueError(f"{path} does not begin like a trace of torch's profiler")
            place += len(_BEGIN)
            base = re.search(rb'"baseTimeNanoseconds": (\d+)', head[:place])
            entries = [
                json.dumps(entry)
                for entry in chrome_events(events, int(base.group(1)) if base is not None else 0, rank)
            ]
            is_last = head[place:].lstrip()[:1] == b"]"
            target.write(head[:place] + ",\n".join(entries).encode())
            target.write((b"\n" if is_last or not entries else b",\n") + head[place:])
            shutil.copyfileobj(source, target)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def add_to_torch_traces(trace: Trace, rank: int) -> None:
    """Let every trace that torch's profiler writes in this process, from now on, have the tracks of elmas too.

    vLLM tells a connector neither that profiling begins nor that it ends, and writes the trace itself. The moment at
    which torch exports it is the one place where its beginning, its clock and its file are known.
    """
    export: Callable[..., None] = torch.profiler.profile.export_chrome_trace

    def export_with_tracks(profile: Any, path: str, *args: Any, **kwargs: Any) -> None:
        export(profile, path, *args, **kwargs)
        try:
            begin_ns = profile.profiler.kineto_results.trace_start_ns()
            add_events(Path(path), trace.since(begin_ns), rank)
        except Exception:
            logger.exception("elmas: the tracks of elmas are missing in %s", path)

    torch.profiler.profile.export_chrome_trace = export_with_tracks


def _names(pid: int, rank: int, n_lanes: dict[str, int]) -> list[dict[str, Any]]:
    def name(what: str, tid: int, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments}

    found = [
        name("process_name", 0, {"name": f"elmas, rank {rank}"}),
        name("process_sort_index", 0, {"sort_index": rank - 1000}),
    ]
    for track, n in n_lanes.items():
        for lane in range(n):
            tid = _tid(track, lane)
            found.append(name("thread_name", tid, {"name": track if lane == 0 else f"{track} ({lane + 1})"}))
            found.append(name("thread_sort_index", tid, {"sort_index": tid}))
    return found


def _tid(track: str, lane: int) -> int:
    return (TRACKS.index(track) + 1) * _LANES + lane


def _open(path: Path, mode: str, compressed: bool) -> BinaryIO:
    if compressed:
        return cast(BinaryIO, gzip.open(path, mode, compresslevel=6))
    return cast(BinaryIO, path.open(mode))
