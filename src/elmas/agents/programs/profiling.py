"""Prompts that show what a server's cache does, and the server's profiler around them or around any command."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from elmas.agents.endpoint import Endpoint, RequestRecord
from elmas.agents.model import Model, session_header
from elmas.agents.programs.conversation import Conversation, Turn
from elmas.errors import UserError

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 600.0
"""Writing the trace of a long run takes minutes."""

_N_SENTENCES = 24
"""In a long text; some 400 tokens with most tokenizers."""

_SUBJECTS = ("The lamp", "The keeper", "The old boat", "A gull", "The fog bell", "The supply ship", "The iron stair")
_VERBS = ("waits for", "was built before", "cannot be seen from", "belongs to", "reminds everybody of", "stands beside")
_OBJECTS = ("the northern reef", "the winter storms", "a house on the cliff", "the harbor master", "the last war")
_QUESTIONS = (
    "What is said about the lamp?",
    "Who or what waits for the winter storms?",
    "Name one thing that cannot be seen from the reef.",
    "What belongs to the harbor master?",
    "Which sentence comes first?",
    "What reminds everybody of the last war?",
    "Is the keeper mentioned, and how often?",
    "Sum the text up in five words.",
)


@dataclass(frozen=True)
class Script:
    """One conversation: its system prompt, and what the user says in turn."""

    system: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Conversations that show one thing. They take turns: all first questions, then all second ones, one at a time."""

    name: str
    scripts: tuple[Script, ...]
    n_new: int
    """How many of the first calls bring something new; what follows could come from a cache."""


@dataclass(frozen=True)
class GroupResult:
    """The calls of a group in their order."""

    group: Group
    records: tuple[RequestRecord, ...]

    @property
    def new(self) -> tuple[RequestRecord, ...]:
        """The calls that bring something new."""
        return self.records[: self.group.n_new]

    @property
    def again(self) -> tuple[RequestRecord, ...]:
        """The calls that could be served from a cache."""
        return self.records[self.group.n_new :]

    @property
    def errors(self) -> list[str]:
        """Of the calls that failed."""
        return [record.error for record in self.records if record.error is not None]


def make_groups(size: int, seed: str) -> list[Group]:
    """Return the four groups with `size` conversations each; with the same seed the same, with another nothing shared.

    Four like the prompts of the original's profiling program: nothing in common, the same prompt again and again, one
    beginning with different questions, and conversations that come back in turn.
    """
    draw = random.Random(seed)

    def text() -> str:
        sentences = (
            f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}." for _ in range(_N_SENTENCES)
        )
        # The number comes first: from there on no two texts have anything in common.
        return f"Text {draw.randrange(10**9)}. {' '.join(sentences)}"

    def question(index: int) -> str:
        return _QUESTIONS[index % len(_QUESTIONS)]

    repeated, shared = text(), text()
    return [
        Group("unrelated", tuple(Script(text(), (question(index),)) for index in range(size)), size),
        Group("repeated", (Script(repeated, (question(0),)),) * size, 1),
        Group("shared beginning", tuple(Script(shared, (question(index),)) for index in range(size)), 1),
        Group("returning", tuple(Script(text(), tuple(map(question, range(3)))) for _ in range(size)), size),
    ]


async def play_group(model: Model, group: Group, max_tokens: int, on_call: Callable[[], None]) -> GroupResult:
    """Send the calls of a group one after the other, each greedy and short; a failed one does not stop the others."""
    conversations = [Conversation(script.system) for script in group.scripts]
    records: list[RequestRecord] = []
    for turn in range(max(len(script.questions) for script in group.scripts)):
        for number, (script, conversation) in enumerate(zip(group.scripts, conversations, strict=True)):
            record = await model.endpoint.chat(
                conversation.with_question(script.questions[turn]),
                headers=session_header(f"profile/{group.name}/{number}"),
                temperature=0.0,
                max_tokens=max_tokens,
            )
            conversation.add(script.questions[turn], record.text, Turn.of(record))
            records.append(record)
            on_call()
    return GroupResult(group, tuple(records))


@asynccontextmanager
async def profiled(endpoint: Endpoint) -> AsyncIterator[None]:
    """Let the server at an open endpoint profile itself for the length of the block, however that ends.

    Raises UserError when the server has no profiler or is not there.
    """
    await _order(endpoint, "/start_profile", _START_TIMEOUT_S)
    try:
        yield
    finally:
        await _order(endpoint, "/stop_profile", _STOP_TIMEOUT_S)


async def run_profiled(endpoint: Endpoint, command: Sequence[str]) -> int:
    """Run a command while the server profiles itself; returns the command's exit status.

    Raises UserError as `profiled`, and when there is no such command, before anything is started.
    """
    if not command or shutil.which(command[0]) is None:
        raise UserError(f"--command: there is no program {' '.join(command[:1])!r}: check its name and your PATH")
    async with endpoint, profiled(endpoint):
        process = await asyncio.create_subprocess_exec(*command)
        return await process.wait()


async def _order(endpoint: Endpoint, path: str, timeout_s: float) -> None:
    root = endpoint.base_url.removesuffix("/v1")
    try:
        status = await endpoint.post(path, timeout_s)
    except TimeoutError:
        raise UserError(f"{root}{path} did not answer within {timeout_s:.0f} s: see the server's log") from None
    except OSError as error:
        raise UserError(
            f"nobody listens at {root} ({type(error).__name__}): start a server with elmas serve MODEL --profiling"
        ) from None
    if status in (404, 405):
        raise UserError(
            f"{root} has no profiler: start the server with elmas serve MODEL --profiling, or pass --no-profiler"
        )
    if status != 200:
        raise UserError(f"{root}{path} answered HTTP {status}: see the server's log")
