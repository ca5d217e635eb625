"""Hints reach the cache through vLLM's request, and none of them can harm the server."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elmas.cache.sessions import NO_SESSION
from tests.cache.truth import earn_trust
from tests.vllm.oracle import Server
from tests.vllm.test_scheduler_half import assert_nothing_left

PROMPT = [1, 2, 3, 4] * 7


def ask(server: Server, name: str, prompt: list[int], **given: Any) -> int:
    """Ask and wait for the answer; returns how many blocks were loaded for it."""
    before = server.n_loaded_blocks
    server.add(name, prompt, 4, **given)
    server.run()
    return server.n_loaded_blocks - before


def fill_up(server: Server, n: int = 12) -> None:
    for number in range(n):
        ask(server, f"other {number}", [number % 5, 0, number % 3, 4] * 8)


def test_sessions_are_named_by_vllms_session_id_or_by_the_hints(model_shape: str) -> None:
    server = Server(model_shape, {}, n_blocks=40, n_rows=40)
    ask(server, "a", PROMPT, session="x")
    ask(server, "b", PROMPT, hints={"session": "y"}, salt="s")
    sessions = server.half.sessions
    assert sessions.find("x") != NO_SESSION
    assert sessions.find("y", "s") != NO_SESSION
    assert sessions.find("y") == NO_SESSION, "another tenant's"


def test_what_a_believed_client_calls_done_goes_first(model_shape: str) -> None:
    server = Server(model_shape, {}, n_blocks=12, n_rows=16)
    earn_trust(server.half.sessions)
    ask(server, "kept", PROMPT, session="kept", hints={"next_use_s": 1})
    ask(server, "done", [9, 8, 7, 6] * 7, session="done", hints={"done": True})
    for number in range(2):
        ask(server, f"other {number}", [5, number, 3, 4] * 4, hints={"next_use_s": 0.05})
    hashes = server.maker.make("probe", PROMPT, 1).block_hashes
    assert (server.half.tier.index.lookup(hashes) >= 0).all()
    hashes = server.maker.make("probe", [9, 8, 7, 6] * 7, 1).block_hashes
    assert (server.half.tier.index.lookup(hashes) < 0).any()


def test_a_signal_speaks_for_a_session_without_being_part_of_it(model_shape: str) -> None:
    server = Server(model_shape, {}, n_blocks=40, n_rows=40)
    earn_trust(server.half.sessions)
    ask(server, "a", PROMPT, session="a")
    slot = server.half.sessions.find("a")
    ask(server, "over", [0, 1], session="a", hints={"done": True, "signal": True})
    assert server.half.sessions.values(np.array([slot])).tolist() == [0.0]
    assert server.half.sessions.find("a") == slot


def test_blocks_of_a_session_about_to_return_come_from_disk_ahead(model_shape: str, tmp_path: Path) -> None:
    settings = {"policy": "lru", "cost_gate": False, "disk_admission": "all", "disk_write_rate": "1GB"}
    server = Server(model_shape, settings, n_blocks=12, n_rows=14, disk=tmp_path)
    ask(server, "first", PROMPT, session="a")
    fill_up(server)
    index = server.half.tier.index
    hashes = server.maker.make("probe", PROMPT, 1).block_hashes
    assert (index.lookup(hashes) < 0).any(), "host memory still has it: nothing is proved"
    ask(server, "soon", [0, 1], session="a", hints={"prefetch": True, "signal": True})
    assert server.half.disk is not None
    for _ in range(200):
        server.half.disk.pump(1e6)  # any time
        server.half.disk.wait_for_any(0.01)
        if (index.lookup(hashes) >= 0).all():
            break
    assert (index.lookup(hashes) >= 0).all()
    n_read = server.half.tier.counts["disk_read_blocks"]
    assert ask(server, "second", PROMPT, session="a") == 6
    assert server.half.tier.counts["disk_read_blocks"] == n_read, "it was there already"
    server.half._forget_returns(1e12)
    assert_nothing_left(server)
    server.stop()


@pytest.mark.parametrize("hints", [{"done": 1}, {"nonsense": 1}, "x", 7, [], {"signal": True}, {"next_use_s": -1}])
def test_bad_hints_are_counted_and_the_request_is_served(model_shape: str, hints: object) -> None:
    server = Server(model_shape, {}, n_blocks=40, n_rows=40)
    ask(server, "a", PROMPT, hints=hints)
    assert len(server.answers["a"]) == 4
    assert server.half.tier.counts["hints_bad"] == 1
    assert not server.half.is_off


def test_hints_can_be_switched_off(model_shape: str) -> None:
    server = Server(model_shape, {"hints": False}, n_blocks=40, n_rows=40)
    ask(server, "a", PROMPT, hints={"session": "x", "done": True, "nonsense": 1})
    assert server.half.sessions.find("x") == NO_SESSION
    assert server.half.tier.counts["hints"] == server.half.tier.counts["hints_bad"] == 0
