"""A real server: same tokens from every tier, and nothing that clients do upsets it.

The answers to compare with come from the same server with a `cache_salt` that nobody used before: then no block can be
found anywhere, which each test checks.
"""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from elmas.serve.process import ServerProcess
from tests.server.client import Answer, assert_same_tokens, complete, complete_all, tokens
from tests.server.conftest import N_DEVICE_BLOCKS

pytestmark = pytest.mark.server

SYSTEM = tokens(0, 200)


def metric(server: ServerProcess, name: str) -> float:
    return sum(server.metrics().get(name, {}).values())


def from_scratch(server: ServerProcess, prompts: list[list[int]], n_tokens: int) -> list[Answer]:
    """The answers without any cache."""

    def alone(prompt: list[int]) -> Answer:
        return complete(server.base_url, prompt, n_tokens, cache_salt=f"unique-{time.time_ns()}-{id(prompt)}")[0]

    with ThreadPoolExecutor(2) as pool:  # few at once: nothing is preempted here
        answers = list(pool.map(alone, prompts))
    assert all(answer.n_cached == 0 for answer in answers)
    return answers


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "the server did not come to rest"
        time.sleep(0.2)


def test_same_tokens_from_host_memory(server: ServerProcess) -> None:
    """Growing histories of more agents than the device holds: blocks are evicted and loaded back, answers included."""
    url, n_rounds, n_tokens = server.base_url, 3, 20
    histories = [SYSTEM + tokens(100 + agent, 400) for agent in range(18)]
    loads_before, prompts, answers = metric(server, "elmas:load_blocks_total"), [], []
    for round_ in range(n_rounds):
        found = complete_all(url, histories, n_tokens)
        prompts += [list(history) for history in histories]
        answers += found
        if round_:
            assert sum(answer.n_cached for answer in found) > 0.9 * 600 * len(histories)
        histories = [
            history + answer.tokens + tokens(1000 * round_ + agent, 30)
            for agent, (history, answer) in enumerate(zip(histories, found, strict=True))
        ]
    assert sum(len(history) for history in histories) > 1.5 * 32 * N_DEVICE_BLOCKS, "everything fits the device"
    assert metric(server, "elmas:load_blocks_total") - loads_before > N_DEVICE_BLOCKS
    assert_same_tokens(answers, from_scratch(server, prompts, n_tokens))


def test_same_tokens_through_preemption(server: ServerProcess) -> None:
    """Answers that outgrow the device cache are interrupted and resumed from host memory."""
    prompts = [SYSTEM + tokens(300 + agent, 350) for agent in range(8)]
    before = metric(server, "vllm:num_preemptions_total")
    found = complete_all(server.base_url, prompts, 260)
    assert metric(server, "vllm:num_preemptions_total") > before, "nothing was preempted: this proves nothing"
    assert_same_tokens(found, from_scratch(server, prompts, 260))


def test_same_tokens_when_requests_begin_together(server: ServerProcess) -> None:
    """Requests of one step share blocks that one of them is only computing: they must not be stored too early."""
    pairs = [tokens(800 + pair, 96) for pair in range(12)]
    prompts = [prefix + tokens(900 + 2 * pair + side, 40) for pair, prefix in enumerate(pairs) for side in range(2)]
    complete_all(server.base_url, prompts, 4)
    wait_until(lambda: metric(server, "vllm:num_requests_running") == 0)
    httpx.post(f"{server.base_url}/reset_prefix_cache", timeout=10).raise_for_status()  # the device's only
    before = metric(server, "elmas:load_blocks_total")
    found = complete_all(server.base_url, prompts, 8)
    assert metric(server, "elmas:load_blocks_total") > before
    assert_same_tokens(found, from_scratch(server, prompts, 8))


def test_requests_longer_than_the_free_part_of_the_device(server: ServerProcess) -> None:
    prompts = [tokens(400 + agent, 2900) for agent in range(3)]
    first = complete_all(server.base_url, prompts, 8)
    again = complete_all(server.base_url, prompts, 8)
    assert all(answer.n_cached >= 2880 for answer in again)
    assert_same_tokens(again, first)
    assert_same_tokens(first, from_scratch(server, prompts, 8))


def test_several_choices_and_salts(server: ServerProcess) -> None:
    prompt = tokens(500, 300)
    answers = complete(server.base_url, prompt, 12, n=3, temperature=1, top_k=1)
    assert len(answers) == 3
    assert_same_tokens(answers, [answers[0]] * 3)
    salted = complete(server.base_url, prompt, 12, cache_salt="tenant-a")[0]
    assert salted.n_cached == 0
    assert complete(server.base_url, prompt, 12, cache_salt="tenant-a")[0].n_cached == 288
    assert complete(server.base_url, prompt, 12, cache_salt="tenant-b")[0].n_cached == 0
    assert_same_tokens([salted], answers[:1])


def test_clients_that_hang_up_at_any_moment(server: ServerProcess) -> None:
    """Half of the requests are dropped while they wait, load, compute or generate; the others get the right tokens."""
    url, rng = server.base_url, random.Random(0)
    prompts = [SYSTEM + tokens(600 + agent, 500) for agent in range(8)]
    complete_all(url, prompts, 4)

    def hang_up(prompt: list[int]) -> None:
        body = {"model": "bench", "prompt": prompt, "max_tokens": 200, "stream": True, "ignore_eos": True}
        try:
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=rng.uniform(0.02, 1.5)) as response:
                for _ in response.iter_bytes():
                    if rng.random() < 0.2:
                        return
        except httpx.HTTPError:
            pass  # gone, as intended

    with ThreadPoolExecutor(12) as pool:
        dropped = [pool.submit(hang_up, rng.choice(prompts) + tokens(rng.randrange(10**6), 60)) for _ in range(40)]
        found = [pool.submit(complete, url, prompt, 16) for prompt in prompts]
        answers = [future.result()[0] for future in found]
        for future in dropped:
            future.result()
    assert_same_tokens(answers, from_scratch(server, prompts, 16))
    wait_until(lambda: metric(server, "vllm:num_requests_running") == 0)
    complete(url, tokens(9, 64), 4)  # a step in which the gauges are written
    assert metric(server, "elmas:host_blocks_pinned") == 0
    assert metric(server, "elmas:errors_total") == 0


def test_reset_empties_every_tier(server: ServerProcess) -> None:
    prompt = tokens(700, 320)
    complete(server.base_url, prompt, 4)
    assert complete(server.base_url, prompt, 4)[0].n_cached > 0
    wait_until(lambda: metric(server, "vllm:num_requests_running") == 0)
    server.reset_caches()
    assert complete(server.base_url, prompt, 4)[0].n_cached == 0
