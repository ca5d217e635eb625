"""The connector in vLLM's own scheduler: never wrong KV, same tokens, nothing left behind."""

import random
from typing import Any

import pytest

from elmas.cache.retention import POLICIES
from elmas.vllm.scheduler import make_scheduler
from tests.vllm.oracle import BLOCK_SIZE, Server


def play(server: Server, seed: int, n_requests: int = 60, abort_share: float = 0.15) -> dict[str, list[int]]:
    """Agents with a shared prefix come back turn after turn; some requests are aborted. Returns whole answers."""
    rng = random.Random(seed)  # what is asked: the same in every arm
    chaos = random.Random(seed + 1)  # when, and what is aborted
    shared = [rng.randrange(5) for _ in range(10)]
    histories = {agent: shared + [rng.randrange(5) for _ in range(6)] for agent in range(8)}
    aborted = set()
    for number in range(n_requests):
        agent = rng.randrange(8)
        history = histories[agent]
        if len(history) > 60:
            histories[agent] = history = shared + [rng.randrange(5) for _ in range(6)]
        name = f"request-{number}"
        salt = "tenant" if agent == 7 else None
        server.add(name, list(history), rng.randint(1, 9), salt)
        histories[agent] = history + [rng.randrange(5) for _ in range(rng.randint(1, 8))]
        for _ in range(chaos.randint(0, 4)):
            server.step()
        if chaos.random() < abort_share:
            victim = f"request-{chaos.randrange(number + 1)}"
            if victim in server.scheduler.requests:
                aborted.add(victim)
            server.abort(victim)
    server.run()
    return {name: answer for name, answer in server.answers.items() if name not in aborted}


SHAPES = {
    "roomy": {"n_blocks": 60, "n_rows": 200},
    "tight device": {"n_blocks": 24, "n_rows": 200},
    "preempting": {"n_blocks": 24, "n_rows": 40, "max_num_seqs": 8},
    "tiny tier": {"n_blocks": 24, "n_rows": 20},
    "one row": {"n_blocks": 24, "n_rows": 1},
    "chunked": {"n_blocks": 40, "n_rows": 100, "max_batched_tokens": 5},
}


@pytest.mark.parametrize("scheduler", [None, make_scheduler], ids=["first come", "reordered"])
@pytest.mark.parametrize("pipelined", [False, True], ids=["in turn", "pipelined"])
@pytest.mark.parametrize("shape", SHAPES)
def test_never_wrong_kv(model_shape: str, shape: str, pipelined: bool, scheduler: Any) -> None:
    plain = Server(model_shape, {}, **SHAPES[shape], connector=None, pipelined=pipelined)
    expected = play(plain, seed=1, abort_share=0.0)
    n_loaded = n_asked_for = 0
    for seed, policy in enumerate(sorted(POLICIES)):
        settings, is_asked = {"policy": policy}, seed % 2 == 1
        server = Server(
            model_shape,
            settings,
            **SHAPES[shape],
            pipelined=pipelined,
            scheduler_class=scheduler,
            seed=seed,
            same_process=is_asked,
        )
        answers = play(server, seed=1)
        for name, answer in answers.items():
            assert answer == expected[name], f"{name} got other tokens"
        assert_nothing_left(server)
        n_loaded += server.n_loaded_blocks
        n_asked_for += server.n_asked_for
    assert n_loaded > 0 or shape == "one row", "the tier was never used: this shape proves nothing"
    assert n_asked_for > 0 or shape == "one row" or scheduler is None, "nothing was heard of because it was asked for"


def test_synchronous_copies(model_shape: str) -> None:
    server = Server(model_shape, {"async_copies": False}, **SHAPES["tight device"])
    expected = play(Server(model_shape, {}, **SHAPES["tight device"], connector=None), seed=2, abort_share=0.0)
    answers = play(server, seed=2)
    assert all(answer == expected[name] for name, answer in answers.items())
    assert server.n_loaded_blocks > 0
    assert_nothing_left(server)


def test_a_prefix_that_two_requests_begin_together_is_not_stored_before_it_is_computed(model_shape: str) -> None:
    """vLLM lets the second request use blocks that the first one computes in the same step."""
    for seed in range(10):
        server = Server(model_shape, {}, n_blocks=60, n_rows=100, max_batched_tokens=64, seed=seed)
        prompts = {f"{turn}-{place}": [turn] * 8 + [place] * 8 for turn in range(4) for place in range(3)}
        for turn in range(4):
            for place in range(3):
                server.add(f"{turn}-{place}", prompts[f"{turn}-{place}"], 2)
            server.run()
        assert server.scheduler.kv_cache_manager.reset_prefix_cache()
        for name, prompt in prompts.items():
            server.add(f"again-{name}", prompt, 2)
        server.run()
        assert server.n_loaded_blocks > 0


@pytest.mark.parametrize("settings", [{"store": False}, {"load": False}])
def test_switches_turn_a_mechanism_off(model_shape: str, settings: dict[str, Any]) -> None:
    server = Server(model_shape, settings, **SHAPES["tight device"])
    play(server, seed=3)
    assert server.n_loaded_blocks == 0
    assert (server.half.tier.counts["store_blocks"] > 0) == settings.get("store", True)
    assert_nothing_left(server)


def test_a_return_is_served_from_host_memory_after_eviction(model_shape: str) -> None:
    server = Server(model_shape, {}, n_blocks=12, n_rows=100)
    prompt = [1, 2, 3, 4] * 7
    server.add("first", prompt, 6)
    server.run()
    answer = server.answers["first"]
    for number in range(6):
        server.add(f"other-{number}", [number % 5, 0, number % 3, 4] * 8, 4)
        server.run()
    before = server.n_loaded_blocks
    server.add("second", prompt + answer + [2, 2], 6)
    server.run()
    # Decode blocks count too: the answer's tokens are part of what comes back.
    assert server.n_loaded_blocks - before == (len(prompt) + len(answer) - 1) // BLOCK_SIZE


@pytest.mark.parametrize("kind", ["salt", "lora"])
def test_tenants_and_adapters_share_nothing(model_shape: str, kind: str) -> None:
    server = Server(model_shape, {}, n_blocks=12, n_rows=100)
    prompt = [3, 1, 4, 1] * 6
    server.add("a", prompt, 4, **{kind: "a"})
    server.run()
    for number in range(4):
        server.add(f"other-{number}", [number, 0, 1, 4] * 8, 4)
        server.run()
    before = server.n_loaded_blocks
    server.add("b", prompt, 4, **{kind: "b"} if kind == "salt" else {})
    server.run()
    assert server.n_loaded_blocks == before
    server.add("again", prompt, 4, **{kind: "a"})
    server.run()
    assert server.n_loaded_blocks > before


def test_reset_empties_the_tier(model_shape: str) -> None:
    server = Server(model_shape, {}, n_blocks=24, n_rows=50)
    server.add("a", [1] * 20, 4)
    server.run()
    assert server.half.tier.index.occupancy().n_resident > 0
    assert server.scheduler.connector.reset_cache()
    assert server.half.tier.index.occupancy().n_resident == 0


def test_an_internal_error_leaves_a_server_that_recomputes(model_shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(model_shape, {}, **SHAPES["tight device"])
    expected = play(Server(model_shape, {}, **SHAPES["tight device"], connector=None), seed=4, abort_share=0.0)
    calls = 0
    store = server.half._store_completed

    def fails_later(tracked: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise RuntimeError("injected")
        store(tracked)

    monkeypatch.setattr(server.half, "_store_completed", fails_later)
    answers = play(server, seed=4)
    assert all(answer == expected[name] for name, answer in answers.items())
    assert server.half.is_off
    assert server.half.tier.counts["errors"] > 0
    assert_nothing_left(server)


def assert_nothing_left(server: Server) -> None:
    """No pin, no reservation, no held device block and no record of a request remains when the server is idle."""
    tier = server.half.tier
    occupancy = tier.index.occupancy()
    assert (occupancy.n_writing, occupancy.n_pinned, tier.n_loading, tier.n_storing) == (0, 0, 0, 0)
    assert server.half._tracked == {}
    pool = server.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1, "device blocks are still held"
