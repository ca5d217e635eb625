"""The agent applications as workloads: their real requests, answered to them by a script.

Every call goes to the server, and its answer is measured like any other; what the application then works with is a
seeded text that is legal under the call's schema. So an application plays the same game against every server.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from elmas.agents.crosswords import puzzle as crosswords_puzzle
from elmas.agents.crosswords import search as crosswords
from elmas.agents.endpoint import Message, RequestRecord
from elmas.agents.gaia import play as gaia
from elmas.agents.guessing import game as guessing_game
from elmas.agents.guessing import play as guessing
from elmas.agents.mmlu import questions as mmlu_questions
from elmas.agents.mmlu import swarm as mmlu
from elmas.agents.model import NOTHING_KNOWN, Answer, Expect, response_format
from elmas.agents.town import result as town_result
from elmas.agents.town import simulation as town
from elmas.bench.workloads.calls import fewer
from elmas.bench.workloads.scripted_answers import answer_text
from elmas.bench.workloads.sizes import request_tokens, returning_tokens
from elmas.bench.workloads.workload import Load, Request

Settings = (
    guessing_game.GameSettings
    | mmlu.SwarmSettings
    | crosswords.SearchSettings
    | gaia.GaiaSettings
    | town_result.TownSettings
)


class ScriptedAsker:
    """What the applications ask (`elmas.agents.model.Asker`): sends their requests, and answers from a script.

    All calls are greedy, also where an application would sample: answers are compared between servers. A failed call is
    in the load's records; the application is not told, so that it goes on as on every other server. No hints are sent.
    """

    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._seed = seed
        self._n_calls: Counter[str] = Counter()

    async def ask(
        self,
        agent: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        expect: Expect = NOTHING_KNOWN,
    ) -> Answer:
        """Send the call, wait for the server's answer, and return the scripted one."""
        turn = self._n_calls[agent]
        self._n_calls[agent] += 1
        fields: dict[str, Any] = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "return_token_ids": True,
        }
        if stop:
            fields["stop"] = list(stop)
        if schema is not None:
            fields["response_format"] = response_format(schema)
        record = await self._load.send(Request("/chat/completions", fields, agent, turn, round=turn))
        text = answer_text(self._random(agent, turn), schema, max_tokens)
        return Answer(text, (replace(record, text=text, error=None),))

    async def pause(self, agent: str, expected_s: float | None = None) -> None:
        """A tool begins; it really runs."""

    async def resume(self, agent: str) -> None:
        """The tool has ended."""

    async def done(self, agent: str) -> None:
        """The agent asks nothing any more."""

    def _random(self, agent: str, turn: int) -> np.random.Generator:
        name = hashlib.sha256(agent.encode()).digest()[:8]
        return np.random.default_rng([self._seed, turn, int.from_bytes(name, "little")])


@dataclass(frozen=True)
class ApplicationWorkload:
    """One application with its settings, whose seed it takes."""

    name: str
    settings: Settings
    dataset: Path | None = None
    """Questions in the published format; None: the application's own."""

    @property
    def seed(self) -> int:
        """Decides the application and the scripted answers."""
        return self.settings.seed

    def requests(self) -> list[Request]:
        """Return all calls, from a rehearsal without a server; the first takes as long as the application's tools."""
        return list(self._rehearsed)

    @cached_property
    def _rehearsed(self) -> list[Request]:
        rehearsal = _Rehearsal()
        # In a thread of its own: the caller's may have a running event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self.play(rehearsal)).result()
        return rehearsal.requests

    @property
    def n_requests(self) -> int:
        """Calls that a run makes when none fails."""
        return len(self._rehearsed)

    @cached_property
    def longest_request_tokens(self) -> int:
        """Tokens of the longest request with the longest answer that it allows."""
        return max(request_tokens(request) for request in self._rehearsed)

    @cached_property
    def working_set_tokens(self) -> int | None:
        """Tokens of all beginnings that two prompts or more share, each counted once; None when there are none."""
        return returning_tokens(self._rehearsed) or None

    def scaled(self, factor: float) -> Self:
        """Return the application with fewer agents, questions or puzzles."""
        match self.settings:
            case guessing_game.GameSettings(n_participants=n):
                return self._with(n_participants=fewer(n, factor, 4))
            case mmlu.SwarmSettings():
                return self._with(n_questions=fewer(len(self._mmlu_questions()), factor, 4))
            case crosswords.SearchSettings(n_steps=n):
                puzzles = crosswords_puzzle.read_puzzles(crosswords_puzzle.SAMPLES)
                return self._with(n_puzzles=fewer(len(puzzles), factor, 2), n_steps=fewer(n, factor, 4))
            case gaia.GaiaSettings(max_steps=n):
                return self._with(max_steps=fewer(n, factor, 3))
            case town_result.TownSettings(n_ticks=n):
                return self._with(n_ticks=fewer(n, factor, 4))

    def source(self) -> str:
        """Return the file of the questions, or "synthetic"."""
        return "synthetic" if self.dataset is None else str(self.dataset)

    async def play(self, load: Load) -> None:
        """Let the application run against the load."""
        asker = ScriptedAsker(load, self.seed)
        match self.settings:
            case guessing_game.GameSettings():
                await guessing.play(self.settings, asker)
            case mmlu.SwarmSettings():
                await mmlu.play(self.settings, self._mmlu_questions(), asker)
            case crosswords.SearchSettings():
                puzzles = crosswords_puzzle.read_puzzles(crosswords_puzzle.SAMPLES)
                await crosswords.play(self.settings, puzzles, asker)
            case gaia.GaiaSettings():
                await gaia.play(self.settings, asker)
            case town_result.TownSettings():
                await town.play(self.settings, asker)

    def _mmlu_questions(self) -> list[mmlu_questions.Question]:
        return mmlu_questions.read_questions(self.dataset or mmlu_questions.SAMPLES)

    def _with(self, **changes: Any) -> Self:
        return replace(self, settings=replace(self.settings, **changes))


class _Rehearsal:
    """A load that answers at once, and remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    @property
    def now_s(self) -> float:
        return time.perf_counter()

    async def send(self, request: Request, due_s: float | None = None) -> RequestRecord:
        self.requests.append(request)
        # As with a server, others get their turn before the answer is there.
        await asyncio.sleep(0)
        return RequestRecord(submitted_s=self.now_s, ended_s=self.now_s)

    async def gather(self, requests: Sequence[Request]) -> list[RequestRecord]:
        return list(await asyncio.gather(*(self.send(request) for request in requests)))

    async def sleep_until(self, due_s: float) -> None:
        return None


def guessing_game_application(seed: int, n_participants: int, n_rounds: int) -> ApplicationWorkload:
    """Return the number-guessing game with its own sizes."""
    settings = guessing_game.GameSettings(n_participants, n_rounds, seed=seed)
    return ApplicationWorkload("app_guessing_game", settings)


def mmlu_application(seed: int, dataset: Path | None) -> ApplicationWorkload:
    """Return the swarm on MMLU: forty questions, seven agents."""
    settings = mmlu.SwarmSettings(n_questions=40, seed=seed)
    return ApplicationWorkload("app_mmlu", settings, dataset)


def crosswords_application(seed: int) -> ApplicationWorkload:
    """Return the tree search on the application's own crosswords."""
    return ApplicationWorkload("app_crosswords", crosswords.SearchSettings(seed=seed))


def gaia_application(seed: int, dataset: Path | None) -> ApplicationWorkload:
    """Return the agents with tools on GAIA's questions (`dataset`: its metadata.jsonl), or on the application's own."""
    folder = dataset.parent if dataset is not None and dataset.name == "metadata.jsonl" else dataset
    return ApplicationWorkload("app_gaia", gaia.GaiaSettings(questions=folder, seed=seed), dataset)


def town_application(seed: int) -> ApplicationWorkload:
    """Return the town of generative agents."""
    return ApplicationWorkload("app_town", town_result.TownSettings(seed=seed))
