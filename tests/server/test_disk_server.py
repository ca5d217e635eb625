"""A real server with a disk tier, whatever happens to its directory: right tokens, a counter, no crash and no stall.

The tests are one story, told in order: a first server fills the directory and stops; a second one finds what it left,
and has to live with all that is done to its files, until they are gone.
"""

import errno
import json
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from elmas.bench.arms import ServerShape, arm_command, free_port, running_server
from elmas.serve.process import ServerProcess
from elmas.tiers.disk.directory import segment_name, segment_of
from elmas.tiers.disk.format import PAGE_BYTES, RecordFormat, SegmentHeader
from elmas.tiers.disk.inspect import inspect_directory
from elmas.tiers.disk.verify import verify_directory
from tests.server.client import Answer
from tests.server.disk import (
    Agents,
    come_to_rest,
    disk_count,
    disk_shape,
    found_at_start,
    is_alive,
    metric,
    n_blocks,
    scan,
    wait_until,
)

MAX_WAIT_S = 2.0
CAPACITY = "384MiB"

ARM = f"mt-apc:disk_admission=all:disk_write_rate=1GiB:cost_gate=false:disk_max_wait_s={MAX_WAIT_S}"
"""Read and write whatever can be, so that every request meets the disk."""

N_AGENTS, N_TOKENS = 22, 416
"""More blocks than device and host tier hold, so that a round in which all are asked reads all of them from disk."""

GRACE_S = 4.0
"""How much longer a request may take here than the wait for the disk and the longest one without a cache."""

pytestmark = pytest.mark.server


@dataclass
class Story:
    """The servers' shape and directory, the agents, the server that runs, and the plan of its disk's faults."""

    shape: ServerShape
    scratch: Path
    stack: ExitStack
    agents: Agents = field(default_factory=lambda: Agents("agents"))
    strangers: Agents = field(default_factory=lambda: Agents("strangers"))
    cold_s: float = 0.0
    """How long the slowest request took without any cache, with as many at once."""
    _server: ServerProcess | None = None
    _n_starts: int = 0

    @property
    def directory(self) -> Path:
        assert self.shape.disk is not None
        return self.shape.disk

    @property
    def server(self) -> ServerProcess:
        assert self._server is not None, "an earlier test of this file starts the server: run the whole file"
        return self._server

    @property
    def plan(self) -> Path:
        return self.scratch / "faults.json"

    def start(self) -> None:
        command = arm_command(ARM, self.shape)
        faults = {"PYTHONPATH": str(Path(__file__).parent / "faults"), "ELMAS_TEST_FAULTS": str(self.plan)}
        command = replace(command, environment={**command.environment, **faults})
        self._n_starts += 1
        log_path = self.scratch / f"{self._n_starts}.log"
        self._server, _ = self.stack.enter_context(running_server(command, log_path))

    def stop(self) -> None:
        self._server = None
        self.stack.pop_all().close()

    def ask_all(self) -> list[Answer]:
        """Ask all agents, check their tokens, and that none waits much longer than computing takes."""
        answers = self.agents.ask_all(self.server.base_url)
        slowest_s = max(self.agents.seconds)
        limit_s = self.cold_s + MAX_WAIT_S + GRACE_S
        assert slowest_s < limit_s, f"a request took {slowest_s:.1f} s of {limit_s:.1f} s"
        come_to_rest(self.server)
        assert is_alive(self.server)
        return answers

    def write_something(self) -> None:
        """Let new agents come, whose blocks are more than a segment's."""
        first = len(self.strangers)
        self.strangers.meet(self.server.base_url, range(5000 + first, 5000 + first + 5), N_TOKENS)
        come_to_rest(self.server)
        assert is_alive(self.server)

    def count(self, name: str) -> float:
        return disk_count(self.server, name)

    def wait_for_errors(self, n_before: float) -> None:
        """Write until it fails; after errors the server pauses for a while."""
        self._wait_for("write_errors", n_before, self.write_something)

    def wait_for_writes(self) -> None:
        """The disk is well again: wait until it is written to."""
        self._wait_for("write_blocks", self.count("write_blocks"), self.write_something)

    def wait_for_reads(self) -> None:
        """The disk is well again: wait until it is read."""
        self._wait_for("read_blocks", self.count("read_blocks"), self.ask_all)

    def _wait_for(self, name: str, n_before: float, work: Callable[[], object]) -> None:
        def has_risen() -> bool:
            work()
            return self.count(name) > n_before

        wait_until(has_risen, 90, f"{name} rises above {n_before}")

    @contextmanager
    def faults(self, **plan: dict[str, float]) -> Iterator[None]:
        scratch = self.plan.with_suffix(".partial")
        scratch.write_text(json.dumps(plan))
        scratch.replace(self.plan)
        try:
            yield
        finally:
            self.plan.unlink()


@pytest.fixture(scope="module")
def story(shape: ServerShape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    scratch = tmp_path_factory.mktemp("disk")
    # Without it vLLM kills its engine at once, which is another test's business.
    arguments = (*shape.vllm_arguments, "--shutdown-timeout", "20")
    with ExitStack() as stack:
        story = Story(
            replace(disk_shape(shape, scratch / "kv", CAPACITY), vllm_arguments=arguments), scratch, ExitStack()
        )
        stack.callback(lambda: story.stack.close())
        yield story


# The first server


def test_files_are_private(story: Story) -> None:
    story.start()
    assert found_at_start(story.server) == (0, 0)
    story.agents.meet(story.server.base_url, range(N_AGENTS), N_TOKENS)
    story.agents.ask_all(story.server.base_url)
    story.cold_s = max(story.agents.seconds)
    come_to_rest(story.server)
    assert stat.S_IMODE(story.directory.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in story.directory.iterdir()}
    assert modes == {0o600}
    assert len(list(story.directory.iterdir())) > 3


def test_a_second_server_is_refused(story: Story) -> None:
    arguments = ["--disk", str(story.directory), "--disk-capacity", CAPACITY, "--host-memory", "64MiB"]
    arguments += ["--port", str(free_port()), "--device-memory", "64MiB"]
    command = [sys.executable, "-m", "elmas.cli", "serve", str(story.shape.model), *arguments]
    command[1:3] = ["-c", "from elmas.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert f"disk directory {story.directory} is in use by another server (process " in lines[0]
    assert is_alive(story.server)


def test_a_round_comes_from_disk(story: Story) -> None:
    read, landed = story.count("read_blocks"), story.count("landed")
    answers = story.ask_all()
    assert story.count("landed") - landed > N_AGENTS // 2
    assert story.count("read_blocks") - read > N_AGENTS * N_TOKENS // 32 // 2
    assert sum(answer.n_cached for answer in answers) > 0.8 * N_AGENTS * N_TOKENS


def test_a_restart_finds_what_a_stop_has_left_but_for_what_was_damaged_meanwhile(story: Story) -> None:
    story.stop()
    left = scan(story.directory)
    assert all(segment.is_sealed for segment in left.values()), "a stop has left a segment without a footer"
    assert verify_directory(story.directory).is_good
    segments = sorted(story.directory.glob("segment-*"))
    shape = inspect_directory(story.directory).segments[0].header.shape
    os.truncate(segments[-3], shape.offset_of(shape.n_slots // 2))
    flip(segments[-2], [PAGE_BYTES + PAGE_BYTES + 77])
    number = segment_of(segments[-1].name)
    assert number is not None
    (story.directory / segment_name(number + 1)).write_bytes(random.Random(0).randbytes(100_000))
    (story.directory / "notes.txt").write_text("not of elmas")
    damaged = scan(story.directory)
    assert n_blocks(damaged) < n_blocks(left)
    story.start()
    assert found_at_start(story.server) == (n_blocks(damaged), len(damaged))
    answers = story.ask_all()
    assert story.count("landed") > 0
    assert story.count("read_blocks") > 0
    assert sum(answer.n_cached for answer in answers) > 0.4 * N_AGENTS * N_TOKENS
    assert (story.directory / "notes.txt").read_text() == "not of elmas"


# What is done to the files of a running server


def flip(path: Path, places: list[int]) -> None:
    with path.open("r+b", buffering=0) as file:
        for place in places:
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0x5A]), place)


def flip_anywhere(path: Path, header: SegmentHeader, rng: random.Random) -> None:
    flip(path, [rng.randrange(path.stat().st_size) for _ in range(2 * header.shape.n_slots)])


def cut_short(path: Path, header: SegmentHeader, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(header.shape.segment_bytes // 2))


def swap_and_double(path: Path, header: SegmentHeader, rng: random.Random) -> None:
    """Records of even slots and those after them change places; the last one becomes the first one's double."""
    shape = header.shape
    order = [slot ^ 1 if slot ^ 1 < shape.n_slots else 0 for slot in range(shape.n_slots)]
    with path.open("r+b", buffering=0) as file:
        records = [os.pread(file.fileno(), shape.record_bytes, shape.offset_of(slot)) for slot in order]
        for slot, record in enumerate(records):
            os.pwrite(file.fileno(), record, shape.offset_of(slot))


def forge(path: Path, header: SegmentHeader, rng: random.Random) -> None:
    """Each record becomes another block's, in even slots of another namespace, and with checksums that are right."""
    shape = header.shape
    with path.open("r+b", buffering=0) as file:
        for slot in range(shape.n_slots):
            digest = header.namespace_digest if slot % 2 else rng.randbytes(32)
            payload = np.frombuffer(rng.randbytes(shape.payload_bytes), dtype=np.uint8)
            page = np.zeros((1, PAGE_BYTES), dtype=np.uint8)
            record = RecordFormat(digest, shape.payload_bytes)
            record.encode(page, header.segment, slot, [rng.randbytes(32)], [payload])
            os.pwrite(file.fileno(), page.tobytes() + payload.tobytes(), shape.offset_of(slot))


def delete(path: Path, header: SegmentHeader, rng: random.Random) -> None:
    path.unlink()


DAMAGES = {
    "flipped bytes": (flip_anywhere, {"bad_corrupt"}),
    "files cut short": (cut_short, {"bad_truncated"}),
    "records swapped and doubled": (swap_and_double, {"bad_misplaced"}),
    "forged records": (forge, {"bad_wrong_key", "bad_foreign"}),
    "files deleted": (delete, {"read_errors"}),
}


def test_files_that_change_places_cost_no_token(story: Story) -> None:
    names = [segment.name for segment in inspect_directory(story.directory).segments]
    for one, other in zip(names[::2], names[1::2], strict=False):
        (story.directory / one).rename(story.directory / "between")
        (story.directory / other).rename(story.directory / one)
        (story.directory / "between").rename(story.directory / other)
    before = story.count("bad_misplaced")
    story.ask_all()
    assert story.count("bad_misplaced") > before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_cost_no_token(story: Story, damage: str) -> None:
    spoil, counters = DAMAGES[damage]
    rng = random.Random(damage)
    for segment in inspect_directory(story.directory).segments:
        spoil(story.directory / segment.name, segment.header, rng)
    before = {name: story.count(name) for name in counters}
    n_written, n_paused = story.count("write_blocks"), story.count("plan_paused")
    story.ask_all()
    for name in counters:
        assert story.count(name) > before[name], f"{name} did not count"
    assert story.count("write_blocks") > n_written, "what was lost is not written again"
    assert story.count("plan_paused") == n_paused, "reading pauses though the disk works"


def test_foreign_files_cost_no_token(story: Story) -> None:
    """Some have the names of the segments that the server is going to create."""
    numbers = [segment_of(path.name) for path in story.directory.glob("segment-*")]
    newest = max(number for number in numbers if number is not None)
    for number in (newest + 1, newest + 3):
        (story.directory / segment_name(number)).write_bytes(b"foreign")
    (story.directory / "more-notes.txt").write_text("not of elmas either")
    story.wait_for_errors(story.count("write_errors"))
    story.wait_for_writes()
    story.wait_for_reads()


# A disk that fails


EIO = {"error": errno.EIO}


def test_reads_that_fail_cost_no_token(story: Story) -> None:
    before = story.count("read_errors")
    with story.faults(preadv=EIO):
        story.ask_all()
    assert story.count("read_errors") > before
    story.wait_for_reads()


FAILING_WRITES = {
    "every call fails": dict.fromkeys(("open", "preadv", "pwritev", "posix_fallocate", "fdatasync", "unlink"), EIO),
    "the disk is full": {"posix_fallocate": {"error": errno.ENOSPC}},
}


@pytest.mark.parametrize("fault", FAILING_WRITES)
def test_writes_that_fail_cost_no_token(story: Story, fault: str) -> None:
    before = story.count("write_errors")
    with story.faults(**FAILING_WRITES[fault]):
        story.wait_for_errors(before)
        if fault == "every call fails":
            story.ask_all()
    story.wait_for_writes()
    story.wait_for_reads()


def test_a_limit_that_lets_no_file_grow(story: Story) -> None:
    """Here and in the next test it is the kernel that refuses."""
    with limited(the_engine(story.server), resource.RLIMIT_FSIZE, 1 << 20):
        story.wait_for_errors(story.count("write_errors"))
    story.wait_for_writes()


def test_a_directory_that_becomes_read_only(story: Story) -> None:
    with read_only(story.directory):
        story.wait_for_errors(story.count("write_errors"))
    story.wait_for_writes()


@pytest.mark.parametrize("speed", ["a hundredth", "1 MB/s"])
def test_a_slow_disk_stalls_nobody_beyond_the_deadline(story: Story, speed: str) -> None:
    measured = metric(story.server, "elmas:disk_read_bytes_per_s")
    assert measured > 0
    gone = story.count("gone_deadline")
    slow = {"bytes_per_s": measured / 100 if speed == "a hundredth" else 1e6}
    with story.faults(preadv=slow, pwritev=slow):
        story.ask_all()
    if speed == "1 MB/s":
        assert story.count("gone_deadline") > gone
    story.wait_for_reads()


# The end


def test_a_directory_that_vanishes_costs_no_token(story: Story) -> None:
    before = {name: story.count(name) for name in ("read_errors", "write_errors")}
    shutil.rmtree(story.directory)
    story.ask_all()
    story.write_something()
    for name, n_before in before.items():
        assert story.count(name) > n_before, f"{name} did not count"
    assert not story.directory.exists()
    story.stop()


def the_engine(server: ServerProcess) -> psutil.Process:
    (engine,) = [process for process in server.processes() if "VLLM::EngineCore" in " ".join(process.cmdline())]
    return engine


@contextmanager
def limited(process: psutil.Process, what: int, limit: int) -> Iterator[None]:
    soft, hard = process.rlimit(what)
    process.rlimit(what, (limit, hard))
    try:
        yield
    finally:
        process.rlimit(what, (soft, hard))


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Modes do not stop root: then it takes the file system's own flag, where there is one."""
    if os.geteuid() == 0:
        lock, unlock = (["chattr", sign, str(directory)] for sign in ("+i", "-i"))
        try:
            subprocess.run(lock, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"root cannot make a directory read-only here: {error}")
    else:
        lock, unlock = (["chmod", mode, str(directory)] for mode in ("500", "700"))
        subprocess.run(lock, check=True)
    try:
        yield
    finally:
        subprocess.run(unlock, check=True)
