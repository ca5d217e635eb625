"""A workload as a tree of steps that is known before it begins, and how the tree is played."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from elmas.bench.workloads.sizes import request_tokens, returning_tokens
from elmas.bench.workloads.workload import Load, Request


@dataclass(frozen=True)
class InTurn:
    """Steps one after the other: each begins when the one before has ended."""

    steps: "tuple[Step, ...]"


@dataclass(frozen=True)
class AtOnce:
    """Steps that begin together; ended when the last one has. In turn, they make barrier rounds."""

    steps: "tuple[Step, ...]"


@dataclass(frozen=True)
class Pause:
    """A tool or a person takes this long, and nothing is sent."""

    duration_s: float


@dataclass(frozen=True)
class Due:
    """A step that begins at a given time after the start of the workload, whatever else is under way (open loop)."""

    due_s: float
    step: "Step"


Step = Request | InTurn | AtOnce | Pause | Due


def requests_of(step: Step) -> Iterator[Request]:
    """Yield the requests of a tree, those of one agent in their order."""
    match step:
        case Request():
            yield step
        case InTurn(steps) | AtOnce(steps):
            for each in steps:
                yield from requests_of(each)
        case Due():
            yield from requests_of(step.step)
        case Pause():
            return


async def perform(step: Step, load: Load, due_s: float | None = None) -> None:
    """Play a tree. `due_s` is when its first requests are sent; None: now."""
    match step:
        case Request():
            await load.send(step, due_s)
        case InTurn(steps):
            for each in steps:
                await perform(each, load, due_s)
                due_s = None
        case AtOnce(steps):
            requests = [each for each in steps if isinstance(each, Request)]
            if due_s is None and len(requests) == len(steps):
                await load.gather(requests)
            else:
                await asyncio.gather(*(perform(each, load, due_s) for each in steps))
        case Pause():
            await load.sleep_until((load.now_s if due_s is None else due_s) + step.duration_s)
        case Due():
            await perform(step.step, load, step.due_s)


class Scripted(ABC):
    """Base of the workloads whose requests are all known before the first one is sent.

    A subclass is a frozen dataclass with `make_script`. What it derives is kept: an instance is one script.
    """

    @abstractmethod
    def make_script(self) -> Step:
        """Return the whole workload as a tree of steps; the same for equal workloads."""

    @cached_property
    def script(self) -> Step:
        """The whole workload as a tree of steps."""
        return self.make_script()

    def requests(self) -> list[Request]:
        """Return all requests, so that a client can encode them before its clock runs."""
        return list(requests_of(self.script))

    @cached_property
    def n_requests(self) -> int:
        """Calls that a run makes when none fails."""
        return sum(1 for _ in requests_of(self.script))

    @cached_property
    def longest_request_tokens(self) -> int:
        """Tokens of the longest request with its answer; texts are counted with the project's tokenizer."""
        return max(request_tokens(request) for request in requests_of(self.script))

    @cached_property
    def working_set_tokens(self) -> int | None:
        """Tokens of all beginnings that two prompts or more share, each counted once; None when there are none."""
        return returning_tokens(requests_of(self.script)) or None

    def source(self) -> str:
        """Return where the texts are from."""
        return "synthetic"

    async def play(self, load: Load) -> None:
        """Send all requests, each when it is its turn, and return when the last answer has ended."""
        await perform(self.script, load)
