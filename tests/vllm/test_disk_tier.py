"""The disk tier in vLLM's own scheduler, with a real directory and real threads: same tokens whatever the disk does."""

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from elmas.tiers.disk.faulty import Fault, FaultyFiles
from elmas.tiers.disk.files import DirectFiles
from elmas.tiers.disk.throttled import ThrottledFiles
from elmas.vllm.scheduler import make_scheduler
from tests.vllm.oracle import Server
from tests.vllm.test_scheduler_half import assert_nothing_left, play

ALWAYS = {
    "policy": "lru",
    "cost_gate": False,
    "disk_admission": "all",
    "disk_write_rate": "1GB",
    "disk_max_wait_s": 20.0,
}
"""Read and write whatever can be: costs are decided elsewhere."""

SHAPES = {
    "small host": {"n_blocks": 24, "n_rows": 24},
    "preempting": {"n_blocks": 24, "n_rows": 30, "max_num_seqs": 8},
    "host smaller than a request": {"n_blocks": 40, "n_rows": 8},
    "chunked": {"n_blocks": 40, "n_rows": 30, "max_batched_tokens": 5},
}


def expected_answers(model: str, shape: str, seed: int = 1) -> dict[str, list[int]]:
    return play(Server(model, {}, **SHAPES[shape], connector=None), seed, abort_share=0.0)


@pytest.mark.parametrize("scheduler", [None, make_scheduler], ids=["stock", "ours"])
@pytest.mark.parametrize("pipelined", [False, True], ids=["in turn", "pipelined"])
@pytest.mark.parametrize("shape", SHAPES)
def test_never_wrong_kv(model_shape: str, tmp_path: Path, shape: str, pipelined: bool, scheduler: Any) -> None:
    expected = expected_answers(model_shape, shape)
    n_read = 0
    for seed, policy in enumerate(["lru", "next-use"]):  # the second begins with what the first has left
        server = Server(
            model_shape,
            {**ALWAYS, "policy": policy},
            **SHAPES[shape],
            pipelined=pipelined,
            scheduler_class=scheduler,
            seed=seed,
            disk=tmp_path,
            same_process=seed == 1,
        )
        answers = play(server, seed=1)
        for name, answer in answers.items():
            assert answer == expected[name], f"{name} got other tokens"
        assert_nothing_left(server)
        assert not server.half.is_off
        n_read += server.half.tier.counts["disk_read_blocks"]
        server.stop()
    assert n_read > 0, "the disk was never read: this shape proves nothing"


@pytest.mark.parametrize("settings", [{}, {"prefetch": False}, {"disk_write": False}, {"cost_gate": False}])
def test_switches_change_no_token(model_shape: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = expected_answers(model_shape, "small host")
    server = Server(model_shape, settings, **SHAPES["small host"], scheduler_class=make_scheduler, disk=tmp_path)
    answers = play(server, seed=1)
    assert all(answer == expected[name] for name, answer in answers.items())
    assert (server.half.tier.counts["disk_write_blocks"] > 0) == settings.get("disk_write", True)
    assert_nothing_left(server)
    server.stop()


def returning_agent(server: Server, name: str) -> int:
    """Ask the same long prompt again; returns how many blocks were loaded for it."""
    before = server.n_loaded_blocks
    server.add(name, [1, 2, 3, 4] * 7, 4)
    server.run()
    return server.n_loaded_blocks - before


def fill_up(server: Server, n: int = 12) -> None:
    for number in range(n):
        server.add(f"other-{random.random()}", [number % 5, 0, number % 3, 4] * 8, 4)
        server.run()


def test_a_prefix_comes_back_from_disk_after_host_memory_has_lost_it_and_after_a_restart(
    model_shape: str, tmp_path: Path
) -> None:
    server = Server(model_shape, ALWAYS, n_blocks=12, n_rows=12, scheduler_class=make_scheduler, disk=tmp_path)
    returning_agent(server, "first")
    fill_up(server)
    assert returning_agent(server, "second") == 6
    assert server.half.tier.counts["disk_landed"] == 1
    server.stop()
    again = Server(model_shape, ALWAYS, n_blocks=12, n_rows=12, disk=tmp_path)
    assert again.disk is not None
    assert again.disk.tier is not None
    assert again.disk.tier.index.n_blocks > 0
    assert returning_agent(again, "third") == 6
    again.stop()


@pytest.mark.parametrize("scheduler", [None, make_scheduler], ids=["stock", "ours"])
def test_new_blocks_go_through_to_a_disk_until_it_is_known_to_be_slow(
    model_shape: str, tmp_path: Path, scheduler: Any
) -> None:
    server = Server(model_shape, {}, n_blocks=24, n_rows=24, scheduler_class=scheduler, disk=tmp_path)
    server.add("first", [1, 2, 3, 4] * 7, 4)
    server.step()
    assert server.half.sessions.takes_all_new
    for _ in range(100):
        server.half.costs.observe_step(1000, 0.0, 1e-3)
    server.half.costs.set_read_rate(1000.0)
    server.step()
    assert not server.half.sessions.takes_all_new
    server.run()
    server.stop()


def test_only_what_was_asked_for_again_is_written(model_shape: str, tmp_path: Path) -> None:
    server = Server(model_shape, {"policy": "lru", "disk_write_rate": "1GB"}, n_blocks=40, n_rows=60, disk=tmp_path)
    fill_up(server, 3)
    first = server.half.tier.counts["disk_write_blocks"]
    returning_agent(server, "first")
    assert server.half.tier.counts["disk_write_blocks"] == first
    returning_agent(server, "second")
    assert server.half.tier.counts["disk_write_blocks"] >= first + 6
    server.stop()


def test_a_daily_limit_ends_writing(model_shape: str, tmp_path: Path) -> None:
    settings = {**ALWAYS, "disk_write_per_day": 40_000}
    server = Server(model_shape, settings, n_blocks=12, n_rows=40, disk=tmp_path)
    fill_up(server)
    # What was begun within the limit is finished: one operation more at most.
    assert 0 < server.half.tier.counts["disk_write_blocks"] * 4096 <= 40_000 + 8 * (8 << 20)
    assert server.disk is not None
    assert server.disk.tier is not None
    assert server.disk.tier.write_back.n_queued > 0
    server.stop()


FAULTS = {
    "every read fails": [Fault("preadv", error_number=errno.EIO)],
    "every write fails": [Fault("pwritev", error_number=errno.EIO)],
    "the disk is full": [Fault("create", error_number=errno.ENOSPC)],
    "read only": [Fault("create", error_number=errno.EROFS), Fault("pwritev", error_number=errno.EROFS)],
    "a flipped bit in every read": [Fault("preadv", flip_at=5000)],
    "a flipped bit in some header": [Fault("preadv", nth=3, flip_at=100)],
    "short reads": [Fault("preadv", n_most=4096)],
    "the third read fails": [Fault("preadv", nth=3, error_number=errno.EIO)],
    "nothing can be opened": [Fault("open", error_number=errno.ENOENT)],
    "a footer cannot be written": [Fault("fdatasync", error_number=errno.EIO)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_disk_costs_no_token(model_shape: str, tmp_path: Path, fault: str) -> None:
    expected = expected_answers(model_shape, "small host")
    good = Server(model_shape, ALWAYS, **SHAPES["small host"], disk=tmp_path)
    play(good, seed=1)
    good.stop()
    files = FaultyFiles(DirectFiles(tmp_path), FAULTS[fault])
    server = Server(
        model_shape, ALWAYS, **SHAPES["small host"], scheduler_class=make_scheduler, disk=tmp_path, files=files
    )
    answers = play(server, seed=1)
    for name, answer in answers.items():
        assert answer == expected[name], f"{name} got other tokens"
    assert_nothing_left(server)
    assert not server.half.is_off
    server.stop()


def test_a_directory_that_vanishes_costs_no_token(model_shape: str, tmp_path: Path) -> None:
    expected = expected_answers(model_shape, "small host")
    server = Server(model_shape, ALWAYS, **SHAPES["small host"], scheduler_class=make_scheduler, disk=tmp_path)
    fill_up(server)
    for file in tmp_path.iterdir():
        file.unlink()
    tmp_path.rmdir()
    answers = play(server, seed=1)
    assert all(answers[name] == answer for name, answer in expected.items() if name in answers)
    assert_nothing_left(server)
    server.stop()


def test_files_that_are_gone_do_not_keep_others_from_being_read(model_shape: str, tmp_path: Path) -> None:
    server = Server(model_shape, ALWAYS, n_blocks=12, n_rows=12, scheduler_class=make_scheduler, disk=tmp_path)

    def ask(agent: int) -> None:
        server.add(f"{agent}-{random.random()}", [agent % 5, 1, agent // 5, 3] * 7, 4)
        server.run()

    for agent in range(8):
        ask(agent)
    for file in tmp_path.glob("segment-*"):
        file.unlink()
    for agent in range(8):
        ask(agent)
    counts = server.half.tier.counts
    assert counts["disk_read_errors"] > 3
    assert counts["disk_plan_paused"] == 0
    server.stop()


def test_a_disk_that_hardly_moves_stalls_nobody_beyond_the_deadline(model_shape: str, tmp_path: Path) -> None:
    first = Server(model_shape, ALWAYS, n_blocks=12, n_rows=12, disk=tmp_path)
    returning_agent(first, "first")
    fill_up(first)
    first.stop()
    slow = ThrottledFiles(DirectFiles(tmp_path), bytes_per_s=2e6, latency_s=0.5)
    settings = {**ALWAYS, "disk_max_wait_s": 0.2}
    server = Server(
        model_shape, settings, n_blocks=12, n_rows=12, scheduler_class=make_scheduler, disk=tmp_path, files=slow
    )
    assert returning_agent(server, "second") == 0
    assert server.half.tier.counts["disk_gone_deadline"] == 1
    server.stop()


def test_a_reset_empties_the_directory(model_shape: str, tmp_path: Path) -> None:
    server = Server(model_shape, ALWAYS, n_blocks=12, n_rows=12, disk=tmp_path)
    returning_agent(server, "first")
    fill_up(server)
    server.run()
    assert server.half.clear()
    assert not list(tmp_path.glob("segment-*"))
    server.scheduler.kv_cache_manager.reset_prefix_cache()
    assert returning_agent(server, "second") == 0
    server.stop()
