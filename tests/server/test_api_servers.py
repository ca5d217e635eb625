"""Several API servers in front of one engine: the same answers, one set of figures, and nothing left behind."""

import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from elmas.bench.arms import ServerShape, arm_command, running_server
from tests.server.client import assert_same_tokens, complete, complete_all, tokens

pytestmark = pytest.mark.server

SHARED_TOKENS = 320
OWN_TOKENS = 480


def test_two_api_servers_answer_and_count_as_one(shape: ServerShape, tmp_path: Path) -> None:
    before = {path.name for path in Path("/dev/shm").iterdir()}
    shape = replace(shape, vllm_arguments=(*shape.vllm_arguments, "--api-server-count", "2"))
    command = arm_command("mt-apc", shape)
    with running_server(command, tmp_path / "server.log") as (server, _):
        family = server.processes()
        assert sum("VLLM::APIServer" in " ".join(process.cmdline()) for process in family) == 2
        prompts = [tokens(0, SHARED_TOKENS) + tokens(agent + 1, OWN_TOKENS) for agent in range(12)]
        first = complete_all(server.base_url, prompts, 4)
        n_asked = 2 * sum(len(prompt) for prompt in prompts)
        # Each request is a connection of its own, and any of the two may get it.
        again = [complete(server.base_url, prompt, 4)[0] for prompt in prompts]
        assert_same_tokens(again, first)
        assert all(answer.n_cached >= SHARED_TOKENS for answer in again)

        end_s = time.monotonic() + 30
        while (metrics := server.metrics())["vllm:prompt_tokens_total"] and time.monotonic() < end_s:
            if sum(metrics["elmas:load_blocks_total"].values()):
                break
            time.sleep(0.2)
        assert sum(metrics["vllm:prompt_tokens_total"].values()) == n_asked
        assert sum(metrics["elmas:load_blocks_total"].values()) > 0, "twelve prompts are more than the device holds"
        gauges = metrics["elmas:host_blocks_resident"]
        assert len(gauges) == 1, f"one figure for each engine, not for each API server: {gauges}"
        assert sum(gauges.values()) > 0

        server.reset_caches()
        assert complete(server.base_url, prompts[0], 4)[0].n_cached == 0
        assert httpx.get(f"{server.base_url}/health", timeout=10).status_code == 200
    end_s = time.monotonic() + 20
    while left := [process for process in family if process.is_running() and process.status() != "zombie"]:
        assert time.monotonic() < end_s, f"still running: {left}"
        time.sleep(0.2)
    assert {path.name for path in Path("/dev/shm").iterdir()} - before == set()
