"""What the tests of servers with a disk tier share: the server's shape, an independent look into its directory, agents
whose answers are known, and the server's own account of what it found."""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from elmas.bench.arms import ServerShape
from elmas.serve.process import ServerProcess
from elmas.tiers.disk.files import ScratchPages
from elmas.tiers.disk.inspect import Contents, list_directory, open_segments
from tests.server.client import Answer, assert_same_tokens, complete, tokens

N_ANSWER_TOKENS = 12

_FOUND = re.compile(r"elmas: disk tier of .*: (\d+) blocks found in (\d+) segments, (\d+) segments of others")


def disk_shape(shape: ServerShape, directory: Path, capacity: str) -> ServerShape:
    """A server whose device holds 129 blocks and whose host tier holds as many, so that most blocks come from disk."""
    return replace(shape, host_memory="64MiB", disk=directory, disk_capacity=capacity)


@dataclass(frozen=True)
class Segment:
    """A segment file as it lies in the directory: whether it has a footer, and its blocks."""

    is_sealed: bool
    keys: frozenset[bytes]


def scan(directory: Path) -> dict[str, Segment]:
    """Look into a directory without the server's help: the segments that hold blocks, by name."""
    found = {}
    for segment in open_segments(list_directory(directory), ScratchPages()):
        contents = segment.contents
        if isinstance(contents, Contents) and contents.present.any():
            keys = frozenset(key.tobytes() for key in contents.keys[contents.present])
            found[segment.name] = Segment(contents.is_sealed, keys)
    return found


def n_blocks(segments: dict[str, Segment]) -> int:
    """How many different blocks the segments hold."""
    return len(frozenset().union(*(segment.keys for segment in segments.values())))


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def found_at_start(server: ServerProcess) -> tuple[int, int]:
    """The blocks and segments that a server says it has found; waits until it says so."""

    def said() -> re.Match[str] | None:
        return _FOUND.search(server.log_path.read_text(errors="replace"))

    wait_until(said, 30, "the server opens its disk tier")
    match = said()
    assert match is not None
    return int(match.group(1)), int(match.group(2))


def metric(server: ServerProcess, name: str) -> float:
    """A counter or gauge, summed over its labels."""
    return sum(server.metrics().get(name, {}).values())


def disk_count(server: ServerProcess, name: str) -> float:
    """One of the disk's counters."""
    return metric(server, f"elmas:disk_{name}_total")


class Agents:
    """Prompts by name, and their answers as the model gives them without any cache."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._system = tokens(77, 64)
        self._n_salts = 0
        self.prompts: list[list[int]] = []
        self.expected: list[Answer] = []
        self.seconds: list[float] = []
        """How long each answer of the last round took."""

    def __len__(self) -> int:
        return len(self.expected)

    def meet(self, url: str, seeds: Sequence[int], n_tokens: int) -> None:
        """Let new agents in, with prompts of `n_tokens` that begin alike."""
        self._learn(url, [self._system + tokens(10_000 + seed, n_tokens - len(self._system)) for seed in seeds])

    def go_on(self, url: str, places: Sequence[int], seed: int) -> None:
        """Add prompts that continue earlier ones: prompt, answer and something new."""
        earlier = [self.prompts[place] + self.expected[place].tokens for place in places]
        self._learn(url, [prompt + tokens(20_000 + seed, 40) for prompt in earlier])

    def ask(self, url: str, place: int) -> Answer:
        """Ask for one answer."""
        return complete(url, self.prompts[place], N_ANSWER_TOKENS)[0]

    def ask_all(self, url: str, n_at_once: int = 4) -> list[Answer]:
        """Ask for all answers, in order, and check them."""
        self.seconds = [0.0] * len(self)

        def timed(place: int) -> Answer:
            begin_s = time.monotonic()
            answer = self.ask(url, place)
            self.seconds[place] = time.monotonic() - begin_s
            return answer

        with ThreadPoolExecutor(n_at_once) as pool:
            answers = list(pool.map(timed, range(len(self))))
        assert_same_tokens(answers, self.expected)
        return answers

    def _learn(self, url: str, prompts: list[list[int]]) -> None:
        def alone(prompt: list[int]) -> Answer:
            self._n_salts += 1
            salt = f"{self._name}-{time.time_ns()}-{self._n_salts}"
            return complete(url, prompt, N_ANSWER_TOKENS, cache_salt=salt)[0]

        with ThreadPoolExecutor(2) as pool:  # few at once: nothing is preempted here
            answers = list(pool.map(alone, prompts))
        assert all(answer.n_cached == 0 for answer in answers)
        self.prompts += prompts
        self.expected += answers


def come_to_rest(server: ServerProcess, timeout_s: float = 30) -> None:
    """Wait until the server runs nothing and writes nothing."""
    seen = [-1.0]

    def is_at_rest() -> bool:
        complete(server.base_url, tokens(9, 64), 2)  # a step in which the counters are written
        before, seen[0] = seen[0], disk_count(server, "write_blocks")
        time.sleep(0.25)
        return before == seen[0] and metric(server, "vllm:num_requests_running") == 0

    wait_until(is_at_rest, timeout_s, "the server comes to rest")


def is_alive(server: ServerProcess) -> bool:
    """Whether the server answers, and has not turned its cache off."""
    return (
        httpx.get(f"{server.base_url}/health", timeout=10).status_code == 200
        and metric(server, "elmas:errors_total") == 0
    )
