"""What a workload is, and what it is played against. Knows no server, no clock and no file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from elmas.agents.endpoint import RequestRecord


@dataclass(frozen=True)
class Request:
    """One call of one agent. `agent` and `turn` together are unique in a workload."""

    path: str
    """Below /v1: "/completions" or "/chat/completions"."""
    fields: Mapping[str, Any] = field(hash=False)
    """The body without `model` and `stream`; it is encoded in the order of its keys. May hold vLLM's own fields
    (`VLLM_FIELDS`), which the client leaves out for other servers."""
    agent: str
    """The session; every server gets it as X-Session-ID."""
    turn: int
    """Number of the agent's calls before this one."""
    round: int = 0
    """Barrier round, phase or question: figures over time are grouped by it."""


VLLM_FIELDS = frozenset({"ignore_eos", "min_tokens", "return_token_ids"})
"""Fields of a request that only vLLM knows: the first two make the length of an answer exact."""


class Load(Protocol):
    """What a workload is given to play against. No method raises for a failed request."""

    @property
    def now_s(self) -> float:
        """Seconds since the workload began."""
        ...

    async def send(self, request: Request, due_s: float | None = None) -> RequestRecord:
        """Send a request and return its record when its answer has ended; a failure is a record with an error.

        `due_s` is when it is sent, in seconds since the workload began (open loop); None: now.
        """
        ...

    async def gather(self, requests: Sequence[Request]) -> list[RequestRecord]:
        """Send all requests at once and return their records in the same order when the last answer has ended."""
        ...

    async def sleep_until(self, due_s: float) -> None:
        """Return `due_s` seconds after the workload began, or at once when that is over."""
        ...


class Workload(Protocol):
    """A frozen dataclass of plain values. Two equal ones send the same bytes, whatever the server answers."""

    @property
    def name(self) -> str:
        """The name it was made by."""
        ...

    @property
    def seed(self) -> int:
        """Decides everything that is random in it."""
        ...

    @property
    def n_requests(self) -> int:
        """Calls that a run makes when none fails."""
        ...

    @property
    def longest_request_tokens(self) -> int:
        """Tokens of the longest request with its answer: the least `--max-model-len`."""
        ...

    @property
    def working_set_tokens(self) -> int | None:
        """Tokens whose KV would serve every return of every agent; None where nothing returns."""
        ...

    def requests(self) -> Sequence[Request]:
        """Return all calls that a run makes, those of one agent in their order."""
        ...

    def scaled(self, factor: float) -> Self:
        """Return the workload with fewer agents or requests, but of the same lengths and sharing.

        `factor` is above 0; no number falls below the least at which the workload is still what it is about.
        """
        ...

    def source(self) -> str:
        """Return where its texts are from: "synthetic", or the file of a data set."""
        ...

    async def play(self, load: Load) -> None:
        """Send all requests, each when it is its turn, and return when the last answer has ended."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that prompts are made of: these two and what is between."""

    first_token_id: int = 300
    last_token_id: int = 2047
    """No special tokens are between the defaults, and every tokenizer knows them."""


@dataclass(frozen=True)
class Datasets:
    """Files with recorded data; None: a seeded synthetic stand-in of the same lengths and sharing takes its place."""

    sharegpt: Path | None = None
    """ShareGPT_V3_unfiltered_cleaned_split.json."""
    mmlu: Path | None = None
    """A CSV file of MMLU, or a directory of them such as `val`."""
    gaia: Path | None = None
    """metadata.jsonl."""
    trace: Path | None = None
    """A trace in the Mooncake format, for `replay`."""


@dataclass(frozen=True)
class Definition:
    """A workload by its name: how it is made, and one line on what it does."""

    name: str
    summary: str
    make: Callable[[int, Datasets, Vocabulary], Workload] = field(compare=False)
    """Called with the seed; raises UserError for a data set in the wrong format."""
