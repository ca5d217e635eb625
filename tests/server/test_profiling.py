"""A profiled server: one file in which torch's tracks and those of elmas lie beside each other."""

import gzip
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from elmas.bench.arms import ServerShape, arm_command, running_server
from elmas.serve.command import profiler_config
from elmas.vllm.tracing import TRACKS
from tests.server.client import assert_same_tokens, complete_all, tokens
from tests.server.disk import disk_shape

ARM = "mt-apc:trace=true:disk_admission=all:disk_write_rate=1GiB:cost_gate=false"
N_AGENTS, N_TOKENS, N_ANSWER_TOKENS = 22, 416, 2
"""More blocks than device and host tier hold."""
N_NEW = 4
"""Prompts that are first sent while profiling: what else there was to write may be on disk by then."""

pytestmark = pytest.mark.server


def test_a_profile_has_all_tracks_of_elmas_beside_those_of_torch(shape: ServerShape, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    profiler = json.dumps(profiler_config(traces))
    small = disk_shape(shape, tmp_path / "disk", "384MiB")
    small = replace(small, vllm_arguments=(*small.vllm_arguments, "--profiler-config", profiler))
    prompts = [tokens(seed, N_TOKENS) for seed in range(N_AGENTS)]
    with running_server(arm_command(ARM, small), tmp_path / "server.log") as (server, _):
        url = server.base_url
        before = complete_all(url, prompts, N_ANSWER_TOKENS)
        httpx.post(f"{url}/start_profile", timeout=60).raise_for_status()
        complete_all(url, [tokens(N_AGENTS + seed, N_TOKENS) for seed in range(N_NEW)], N_ANSWER_TOKENS)
        profiled = complete_all(url, prompts, N_ANSWER_TOKENS)
        httpx.post(f"{url}/stop_profile", timeout=120).raise_for_status()
    assert_same_tokens(profiled, before)

    written = [_events(path) for path in traces.glob("*.pt.trace.json.gz")]
    with_tracks = [events for events in written if any(map(_is_ours, events))]
    assert len(with_tracks) == 1, "the worker's trace has the tracks, and no other"
    events = with_tracks[0]
    names = {each["tid"]: each["args"]["name"] for each in events if _is_ours(each) and each["name"] == "thread_name"}
    assert set(TRACKS) <= set(names.values())
    n_bytes: defaultdict[str, int] = defaultdict(int)
    for each in events:
        if _is_ours(each) and each["ph"] == "X":
            n_bytes[names[each["tid"]].split(" (")[0]] += each["args"].get("bytes", 0)
    assert all(n_bytes[track] > 0 for track in TRACKS if track.startswith(("loads", "disk reads")))
    # One clock: what elmas did lies in the time that torch recorded.
    theirs = [each for each in events if each["ph"] == "X" and not _is_ours(each)]
    begin, end = min(each["ts"] for each in theirs), max(each["ts"] + each["dur"] for each in theirs)
    assert all(begin - 1e6 < each["ts"] < end + 1e6 for each in events if each["ph"] in "Xi" and _is_ours(each))
    begun = {each["args"]["request"] for each in events if _is_ours(each) and each["name"] in ("loads", "computes")}
    assert len(begun) == N_NEW + N_AGENTS


def _events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return list(json.load(file)["traceEvents"])


def _is_ours(event: dict[str, Any]) -> bool:
    return isinstance(event["pid"], int) and event["pid"] >= 10_000_000
