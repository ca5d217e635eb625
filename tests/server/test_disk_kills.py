"""kill -9 at random moments under load: every restart is clean, no token is wrong, and what was sealed is found.

ELMAS_KILLS says how often (2), ELMAS_KILLS_SEED makes a run like an earlier one, ELMAS_KILLS_RESULT names a JSON file
that takes what happened, kill by kill.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from elmas.bench.arms import ServerShape, arm_command, running_server, write_json
from elmas.errors import UserError
from elmas.tiers.disk.verify import verify_directory
from tests.server.client import Answer, assert_same_tokens
from tests.server.disk import Agents, disk_count, disk_shape, found_at_start, metric, n_blocks, scan, wait_until

N_KILLS = int(os.environ.get("ELMAS_KILLS", "2"))
SEED = int(os.environ.get("ELMAS_KILLS_SEED", str(time.time_ns() % 10**6)))
RESULT = os.environ.get("ELMAS_KILLS_RESULT")

ARM = "mt-apc:disk_admission=all:disk_write_rate=1GiB"
CAPACITY = "256MiB"

VICTIMS = ("all", "VLLM::EngineCore", "VLLM::Worker", "all", "all")
"""Who is killed, in turn: all processes at once, or one kind of them."""

N_FIRST_AGENTS, N_TOKENS = 24, 416
N_CLIENTS = 8
N_FINAL = 48
"""So many prompts, the newest, are asked for in the end."""

pytestmark = [pytest.mark.server, pytest.mark.timeout(400 + 90 * N_KILLS)]


@dataclass
class Load:
    """Clients that ask for known and for new prompts until the server is gone; what they got, and what failed before
    `killed_s`."""

    url: str
    agents: Agents
    fresh: list[int]
    seed: int
    killed_s: float = float("inf")
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(N_CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client hangs"

    def _ask(self, number: int) -> None:
        rng = random.Random(f"{self.seed}-{number}")
        while True:
            fresh = self.fresh.pop() if self.fresh and rng.random() < 0.4 else None
            place = rng.randrange(len(self.agents)) if fresh is None else fresh
            try:
                self.answers.append((place, self.agents.ask(self.url, place)))
            except httpx.HTTPError as error:
                if time.monotonic() < self.killed_s:
                    self.failures.append(repr(error))
                return


def command_of(process: psutil.Process) -> str:
    """Return its command line, empty for one that has just ended: servers start short-lived children of their own."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def kill(victims: str, family: list[psutil.Process]) -> None:
    chosen = [process for process in family if victims == "all" or victims in command_of(process)]
    assert chosen, f"no process is a {victims}: {list(map(command_of, family))}"
    if victims == "all":
        os.killpg(os.getpgid(family[0].pid), signal.SIGKILL)
    for process in chosen:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_gone(family: list[psutil.Process]) -> None:
    def is_left(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    wait_until(lambda: not any(map(is_left, family)), 60, "all processes of the server are gone")


def check_answers(answers: list[tuple[int, Answer]], agents: Agents) -> tuple[int, int]:
    """Return how many answers are wrong, and how many part from the expected one at a near-tie."""
    n_wrong = n_ties = 0
    for place, answer in answers:
        try:
            assert_same_tokens([answer], [agents.expected[place]])
            n_ties += answer.tokens != agents.expected[place].tokens
        except AssertionError as error:
            print(f"prompt {place}: {error}")
            n_wrong += 1
    return n_wrong, n_ties


def check_at_rest(directory: Path, torn: set[str]) -> Counter[str]:
    """Nothing that has a footer is bad, but for records that a kill tore in a segment which had none then.

    A restart gives such a segment its footer without reading payloads; whoever reads a record verifies it.
    """
    result = verify_directory(directory)
    segments = scan(directory)
    torn.update(name for name in result.bad_files if not segments[name].is_sealed)
    assert set(result.bad_files) <= torn, f"bad records in sealed segments: {result.bad_files}"
    return Counter({verdict.name.lower(): n for verdict, n in result.counts.items()})


def run_and_kill(
    number: int, shape: ServerShape, log_path: Path, agents: Agents, torn: set[str], rng: random.Random
) -> dict[str, Any]:
    """One server's life: it is compared with what it found, asked by many, and killed. Returns what happened."""
    directory = shape.disk
    assert directory is not None
    left = scan(directory) if directory.exists() else {}
    victims, delay_s = VICTIMS[number % len(VICTIMS)], rng.uniform(0.5, 6.0)
    with running_server(arm_command(ARM, shape), log_path) as (server, ready_s):
        n_found, n_segments = found_at_start(server)
        assert (n_found, n_segments) == (n_blocks(left), len(left)), "found something else than what is there"
        restored = scan(directory)
        assert all(restored[name].is_sealed for name in left), "what a crash left has not got its footer"
        assert all(restored[name].keys == segment.keys for name, segment in left.items()), "blocks are lost"
        if not agents:
            agents.meet(server.base_url, range(N_FIRST_AGENTS), N_TOKENS)
            fresh = list(range(len(agents)))
        else:
            first = len(agents)
            agents.go_on(server.base_url, rng.sample(range(first), 3), seed=number)
            agents.meet(server.base_url, range(1000 * number, 1000 * number + 3), N_TOKENS)
            fresh = list(range(first, len(agents)))
        load = Load(server.base_url, agents, fresh, seed=rng.randrange(2**32))
        family = server.processes()
        load.start()
        time.sleep(delay_s)
        n_read = disk_count(server, "read_blocks")
        sealed = {name for name, segment in scan(directory).items() if segment.is_sealed}
        load.killed_s = time.monotonic()
        kill(victims, family)
        load.join()
        if victims == "all":
            wait_until(lambda: not server.running, 10, "the server is gone")
        wait_until_gone(family)
    now = scan(directory)
    assert all(now[name].is_sealed for name in sealed & now.keys()), "a footer is gone"
    verdicts = check_at_rest(directory, torn)
    n_wrong, n_ties = check_answers(load.answers, agents)
    return {
        "victims": victims,
        "delay_s": round(delay_s, 2),
        "ready_s": round(ready_s, 1),
        "blocks_found": n_found,
        "segments_found": n_segments,
        "blocks_read_from_disk": int(n_read),
        "answers": len(load.answers),
        "wrong_answers": n_wrong,
        "near_ties": n_ties,
        "failed_before_the_kill": load.failures,
        "segments_left": len(now),
        "segments_left_without_footer": sum(not segment.is_sealed for segment in now.values()),
        "blocks_left": n_blocks(now),
        "records_left": dict(verdicts),
    }


def final_server(shape: ServerShape, log_path: Path, agents: Agents) -> dict[str, Any]:
    """A server that is not killed answers everything right, and with blocks from disk."""
    assert shape.disk is not None
    left = scan(shape.disk)
    with running_server(arm_command(ARM, shape), log_path) as (server, _):
        n_found, n_segments = found_at_start(server)
        assert (n_found, n_segments) == (n_blocks(left), len(left)), "found something else than what is there"
        places = list(range(len(agents)))[-N_FINAL:]
        answers = [(place, agents.ask(server.base_url, place)) for place in places]
        n_wrong, n_ties = check_answers(answers, agents)
        return {
            "blocks_found": n_found,
            "segments_found": n_segments,
            "answers": len(answers),
            "wrong_answers": n_wrong,
            "near_ties": n_ties,
            "requests_with_blocks_from_disk": int(disk_count(server, "landed")),
            "blocks_read_from_disk": int(disk_count(server, "read_blocks")),
            "errors": int(metric(server, "elmas:errors_total")),
        }


def test_kill_9_at_random_moments(shape: ServerShape, tmp_path: Path) -> None:
    print(f"ELMAS_KILLS={N_KILLS} ELMAS_KILLS_SEED={SEED}")
    shape = disk_shape(shape, tmp_path / "kv", CAPACITY)
    rng, agents, torn = random.Random(SEED), Agents(f"kills-{SEED}"), set[str]()
    kills: list[dict[str, Any]] = []
    summary: dict[str, Any] = {"n_kills": N_KILLS, "seed": SEED, "disk_capacity": CAPACITY, "kills": kills}
    for number in range(N_KILLS):
        try:
            happened = run_and_kill(number, shape, tmp_path / f"{number}.log", agents, torn, rng)
        except UserError as error:
            pytest.fail(f"kill {number} of seed {SEED}: {error}")
        kills.append(happened)
        print(number, happened)
        if RESULT:
            write_json(Path(RESULT), summary)
        assert not happened["failed_before_the_kill"], f"kill {number} of seed {SEED}: requests failed before it"
        assert happened["wrong_answers"] == 0, f"kill {number} of seed {SEED}: wrong tokens"
    summary["final"] = final = final_server(shape, tmp_path / "final.log", agents)
    print("final", final)
    assert shape.disk is not None
    final["records"] = dict(check_at_rest(shape.disk, torn))
    if RESULT:
        write_json(Path(RESULT), summary)
    n_answers = sum(happened["answers"] for happened in kills) + final["answers"]
    n_ties = sum(happened["near_ties"] for happened in kills) + final["near_ties"]
    assert final["wrong_answers"] == 0
    assert final["errors"] == 0
    assert n_ties <= 1 + n_answers // 100, f"{n_ties} of {n_answers} answers part at near-ties"
    assert sum(happened["answers"] for happened in kills) > 0
    assert final["requests_with_blocks_from_disk"] > 0
    assert final["blocks_read_from_disk"] > 0
