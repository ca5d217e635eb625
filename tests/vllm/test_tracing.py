"""Tracks of elmas in the traces of torch's profiler: complete, readable, on one clock, and only when asked for."""

import gzip
import json
import threading
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.rows import as_rows
from elmas.movement.transfers import Transfer
from elmas.tiers.host import HostRegion, align_row
from elmas.vllm.copy_cpu import ThreadCopyEngine
from elmas.vllm.geometry import geometry_of
from elmas.vllm.scheduler import make_scheduler
from elmas.vllm.trace_file import add_events, add_to_torch_traces, chrome_events
from elmas.vllm.tracing import ADMISSIONS, DISK_READS, DISK_WRITES, LOADS, ORDER, STORES, TRACKS, Event, Trace
from tests.vllm.oracle import Server
from tests.vllm.test_disk_tier import ALWAYS
from tests.vllm.test_scheduler_half import play

SHAPE = {"n_blocks": 24, "n_rows": 24}


class Watched(Server):
    """A simulated server that keeps what travels to its worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.recorded: list[Event] = []
        self.n_copied = Counter[str]()
        super().__init__(*args, **kwargs)

    def _execute(self, step: Any) -> Any:
        orders = step.output.kv_connector_metadata
        self.recorded += orders.trace
        self.n_copied["load"] += sum(transfer.n_blocks for transfer in orders.loads)
        self.n_copied["store"] += sum(transfer.n_blocks for transfer in orders.stores)
        return super()._execute(step)


def test_a_recording_server_gives_the_same_answers_and_tells_all_decisions(model_shape: str, tmp_path: Path) -> None:
    expected = play(Server(model_shape, {}, **SHAPE, connector=None), 1, abort_share=0.0)
    settings = {**ALWAYS, "trace": True}
    server = Watched(model_shape, settings, **SHAPE, scheduler_class=make_scheduler, disk=tmp_path)
    assert play(server, 1, abort_share=0.0) == expected
    counts = server.half.tier.counts
    server.stop()
    events = server.recorded + server.half.trace.take()
    by_track = defaultdict(list)
    for event in events:
        by_track[event.track].append(event)
        assert event.begin_ns <= event.end_ns
    for name in ("arrives", "ends"):
        named = [event.arguments["request"] for event in by_track[ADMISSIONS] if event.name == name]
        assert sorted(named) == sorted(expected)
    begun = {event.arguments["request"] for event in by_track[ADMISSIONS] if event.name in ("loads", "computes")}
    assert begun == set(expected) == {event.arguments["request"] for event in by_track[ORDER]}
    row_bytes = server.region.row_bytes
    assert sum(event.arguments["bytes"] for event in by_track[DISK_READS]) == counts["disk_read_blocks"] * row_bytes > 0
    n_written = sum(event.arguments["bytes"] for event in by_track[DISK_WRITES])
    assert n_written == counts["disk_write_blocks"] * row_bytes > 0
    planned = [event.arguments for event in events if event.name == "plan"]
    assert sum(each["blocks to load"] for each in planned) == server.n_copied["load"] > 0
    assert sum(each["blocks to store"] for each in planned) == server.n_copied["store"] > 0


def test_nothing_is_recorded_unless_asked_for(model_shape: str) -> None:
    server = Watched(model_shape, {}, **SHAPE, scheduler_class=make_scheduler)
    play(server, 1)
    assert server.half.trace is None
    assert server.recorded == []


def test_copies_are_recorded_with_their_bytes() -> None:
    caches = {f"layer.{number}": torch.randn(10, 2, 4, 8) for number in range(3)}
    geometry = geometry_of(caches, 10)
    trace = Trace()
    engine = ThreadCopyEngine(geometry, HostRegion.create(6, align_row(geometry.block_bytes)), 0, trace)
    engine.submit([], [Transfer(0, "a", as_rows([5, 0, 3]), [2, 7, 4])])
    engine.wait_for_all()
    engine.submit([Transfer(1, "b", as_rows([0, 3]), [1, 9])], [])
    engine.wait_for_all()
    engine.close()
    found = [(event.track, event.arguments["request"], event.arguments["bytes"]) for event in trace.take()]
    assert found == [(STORES, "a", 3 * geometry.block_bytes), (LOADS, "b", 2 * geometry.block_bytes)]


def test_the_buffer_is_bounded_and_keeps_the_newest() -> None:
    trace = Trace(max_events=3)
    for number in range(10):
        trace.mark(ORDER, str(number))
    assert [event.name for event in trace.since(0)] == ["7", "8", "9"]
    assert trace.since(time.time_ns() + 10**9) == []
    assert len(trace.take()) == 3
    assert trace.take() == []


def test_threads_may_record_while_others_look() -> None:
    trace = Trace(max_events=100)
    threads = [threading.Thread(target=lambda: [trace.mark(ORDER, "x") for _ in range(5000)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        trace.since(0)
    assert len(trace.take()) == 100


_SLICES = st.tuples(
    st.sampled_from(TRACKS), st.integers(0, 1000), st.integers(0, 300), st.sampled_from(["slice", "mark"])
)


@given(st.lists(_SLICES, max_size=60))
def test_slices_of_a_lane_do_not_overlap_and_every_lane_has_a_name(parts: list[tuple[str, int, int, Any]]) -> None:
    base = 10**18
    events = [
        Event(kind, track, "e", base + begin, base + begin + (length if kind == "slice" else 0), {})
        for track, begin, length, kind in parts
    ]
    found = chrome_events([*events, Event("count", "n", "n", base, base, {"a": 1})], base, rank=2)
    json.dumps(found)
    lanes = defaultdict(list)
    for entry in found:
        assert entry["ph"] in "XiCM"
        assert entry["ph"] == "M" or entry["ts"] >= 0
        if entry["ph"] == "X":
            lanes[entry["tid"]].append((entry["ts"], entry["ts"] + entry["dur"]))
    for slices in lanes.values():
        for (_, end), (begin, _) in pairwise(sorted(slices)):
            assert begin >= end - 1e-9
    named = {entry["tid"]: entry["args"]["name"] for entry in found if entry["name"] == "thread_name"}
    assert {entry["tid"] for entry in found if entry["ph"] in "Xi"} <= set(named)
    assert len(set(named.values())) == len(named)
    assert sum(entry["ph"] in "Xi" for entry in found) == len(events)
    assert {entry["pid"] for entry in found} == {10_000_002}


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_one_file_has_the_tracks_of_torch_and_of_elmas_on_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    # So that the original comes back after the test.
    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", torch.profiler.profile.export_chrome_trace)
    trace = Trace()
    add_to_torch_traces(trace, rank=0)
    trace.mark(ORDER, "before the profile")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function("of torch"):
        begin_ns = time.time_ns()
        torch.ones(300, 300) @ torch.ones(300, 300)
        trace.slice(LOADS, "of elmas", begin_ns, bytes=7)
    path = tmp_path / f"t{suffix}"
    profile.export_chrome_trace(str(path))
    content = path.read_bytes()
    events = json.loads(gzip.decompress(content) if suffix.endswith("gz") else content)["traceEvents"]
    by_name = {event["name"]: event for event in events}
    assert "before the profile" not in by_name
    outer, inner = by_name["of torch"], by_name["of elmas"]
    assert inner["args"] == {"bytes": 7}
    slack_us = 2000  # torch converts a processor's clock
    assert outer["ts"] - slack_us <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + slack_us
    assert {"name": "elmas, rank 0"} in [event["args"] for event in events if event["name"] == "process_name"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_that_cannot_be_extended_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"other": 1}')
    with pytest.raises(ValueError, match="does not begin like a trace"):
        add_events(path, [], 0)
    assert path.read_text() == '{"other": 1}'
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_trace_takes_events_too(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": [ ]}')
    add_events(path, [Event("mark", ORDER, "m", 5000, 5000, {})], 0)
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["ts"] for event in events if event["ph"] == "i"] == [5.0]
