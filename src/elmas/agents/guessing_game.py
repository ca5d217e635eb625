"""The number-guessing game "two thirds of the average", played by many participants over several rounds.

Every round each participant names a whole number; whoever is nearest to two thirds of the average of all valid numbers
wins. The game is Moulin's beauty contest (Nagel, "Unraveling in Guessing Games", 1995). As a load it is a pure case of
returning prefixes: a participant's conversation only ever grows, and all participants answer at the same time.

The game calls the model through a function that it is given, so that it runs against any endpoint and in tests against
none. It knows neither benchmarks nor vLLM; the texts are in `guessing_prompts`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from elmas.agents.endpoint import Endpoint, Message, RequestRecord
from elmas.agents.guessing_prompts import (
    answer_options,
    describe_own,
    describe_result,
    first_message,
    next_message,
    parse_guess,
    rules,
)
from elmas.agents.personas import personas
from elmas.errors import UserError

Complete = Callable[[Sequence[Message]], Awaitable[RequestRecord]]
"""Answers a conversation; a failed call is a record with an error, not an exception."""

RETRY_DELAYS_S = (0.5, 2.0, 8.0)
"""Waits before a failed call is repeated; after the last one the failure stands."""

NO_ANSWER = "(no answer)"
"""Stands in the conversation for an answer that never came: chat templates want the two roles in turn."""


@dataclass(frozen=True)
class GameSettings:
    """Size and rules of one game; equal settings give equal first conversations."""

    n_participants: int
    n_rounds: int
    max_number: int = 100
    ratio: float = 2 / 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_participants < 1 or self.n_rounds < 1:
            raise UserError("a game needs at least one participant and one round")


@dataclass(frozen=True)
class Turn:
    """One participant in one round."""

    guess: int | None
    """None: the answer held no legal number, or there was no answer."""
    distance: float | None
    """From the target; None without a guess."""
    won: bool
    """Nobody's guess was nearer to the target."""
    attempts: tuple[RequestRecord, ...]
    """Every call that was made, the last one decides."""

    @property
    def record(self) -> RequestRecord:
        """The call that decided."""
        return self.attempts[-1]


@dataclass(frozen=True)
class Round:
    """What one round came to; the three figures are None when nobody named a legal number."""

    turns: tuple[Turn, ...]
    average: float | None
    target: float | None
    winning_guess: int | None
    """The lower one when two are equally near, one on each side of the target."""

    @property
    def winners(self) -> list[int]:
        """The participants who were nearest to the target."""
        return [index for index, turn in enumerate(self.turns) if turn.won]

    @property
    def records(self) -> list[RequestRecord]:
        """All calls of the round, repeated ones included, by participant."""
        return [record for turn in self.turns for record in turn.attempts]


@dataclass(frozen=True)
class GameResult:
    """A whole game, with every call that it made."""

    settings: GameSettings
    rounds: tuple[Round, ...]
    conversations: tuple[tuple[Message, ...], ...]
    """By participant, as they stood at the end."""

    @property
    def records(self) -> list[RequestRecord]:
        """All calls, repeated ones included, round by round."""
        return [record for each in self.rounds for record in each.records]

    @property
    def guesses(self) -> list[list[int | None]]:
        """The guesses by round and participant."""
        return [[turn.guess for turn in each.turns] for each in self.rounds]

    @property
    def failures(self) -> list[tuple[int, int, str]]:
        """Round, participant and error of every answer that never came."""
        return [
            (round_index, participant, turn.record.error)
            for round_index, each in enumerate(self.rounds)
            for participant, turn in enumerate(each.turns)
            if turn.record.error is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the game as plain values; times are seconds since its first call."""
        start_s = min(record.submitted_s for record in self.records)
        return {
            "n_participants": self.settings.n_participants,
            "n_rounds": self.settings.n_rounds,
            "seed": self.settings.seed,
            "rounds": [
                {
                    "average": each.average,
                    "target": each.target,
                    "winning_guess": each.winning_guess,
                    "winners": each.winners,
                    "guesses": [turn.guess for turn in each.turns],
                    "calls": [[_call_json(record, start_s) for record in turn.attempts] for turn in each.turns],
                }
                for each in self.rounds
            ],
        }


async def play(
    settings: GameSettings,
    complete: Complete,
    on_round: Callable[[int], None] | None = None,
    on_answer: Callable[[], None] | None = None,
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> GameResult:
    """Play all rounds. `on_round` gets the index of the round that starts; `on_answer` is called once per participant.

    Never raises for a failing call: it is repeated after each of `retry_delays_s` and then reported in the result.
    """
    system: Message = {"role": "system", "content": rules(settings.max_number, settings.ratio)}
    conversations: list[list[Message]] = [[system] for _ in range(settings.n_participants)]
    said = [first_message(persona, settings.n_rounds) for persona in personas(settings.n_participants, settings.seed)]
    rounds: list[Round] = []

    async def ask(conversation: Sequence[Message]) -> tuple[RequestRecord, ...]:
        attempts = await _call(complete, conversation, retry_delays_s)
        if on_answer is not None:
            on_answer()
        return attempts

    for index in range(settings.n_rounds):
        if on_round is not None:
            on_round(index)
        for conversation, text in zip(conversations, said, strict=True):
            conversation.append({"role": "user", "content": text})
        answers = await asyncio.gather(*(ask(conversation) for conversation in conversations))
        outcome = score(settings, answers)
        rounds.append(outcome)
        for conversation, turn in zip(conversations, outcome.turns, strict=True):
            text = NO_ANSWER if turn.record.error is not None else turn.record.text
            conversation.append({"role": "assistant", "content": text})
        result = describe_result(outcome.average, outcome.target, outcome.winning_guess)
        said = [
            next_message(index + 2, settings.n_rounds, result, describe_own(turn.guess, turn.distance, turn.won))
            for turn in outcome.turns
        ]
    return GameResult(settings, tuple(rounds), tuple(tuple(conversation) for conversation in conversations))


async def play_at(
    endpoint: Endpoint,
    settings: GameSettings,
    structured: bool = True,
    on_round: Callable[[int], None] | None = None,
    on_answer: Callable[[], None] | None = None,
) -> GameResult:
    """Play against an endpoint, which this opens and closes; `structured` as for `answer_options`."""

    options = answer_options(structured)

    async def complete(messages: Sequence[Message]) -> RequestRecord:
        return await endpoint.chat(messages, **options)

    async with endpoint:
        return await play(settings, complete, on_round, on_answer)


def score(settings: GameSettings, answers: Sequence[tuple[RequestRecord, ...]]) -> Round:
    """Return the outcome of a round from every participant's calls."""
    guesses = [
        None if attempts[-1].error is not None else parse_guess(attempts[-1].text, settings.max_number)
        for attempts in answers
    ]
    valid = [guess for guess in guesses if guess is not None]
    if not valid:
        return Round(tuple(Turn(None, None, False, attempts) for attempts in answers), None, None, None)
    average = math.fsum(valid) / len(valid)
    target = settings.ratio * average
    nearest = min(abs(guess - target) for guess in valid)

    def wins(guess: int) -> bool:
        # Not "==": two thirds has no exact float, and a tie must not depend on its last bit.
        return math.isclose(abs(guess - target), nearest, rel_tol=0.0, abs_tol=1e-9)

    turns = tuple(
        Turn(None, None, False, attempts) if guess is None else Turn(guess, abs(guess - target), wins(guess), attempts)
        for guess, attempts in zip(guesses, answers, strict=True)
    )
    return Round(turns, average, target, min(guess for guess in valid if wins(guess)))


async def _call(
    complete: Complete, conversation: Sequence[Message], retry_delays_s: Sequence[float]
) -> tuple[RequestRecord, ...]:
    """Return the records of all attempts at one answer."""
    attempts = [await complete(conversation)]
    for delay_s in retry_delays_s:
        if attempts[-1].error is None:
            break
        await asyncio.sleep(delay_s)
        attempts.append(await complete(conversation))
    return tuple(attempts)


def _call_json(record: RequestRecord, start_s: float) -> dict[str, Any]:
    return {
        "submitted_s": record.submitted_s - start_s,
        "ttft_s": record.ttft_s,
        "e2el_s": record.e2el_s,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "text": record.text,
        "error": record.error,
    }
