"""The number-guessing game "two thirds of the average": its rules, one round's outcome, and what a whole game came to.

Every round each participant names a whole number; whoever is nearest to two thirds of the average of all valid numbers
wins. The game is Moulin's beauty contest (Nagel, "Unraveling in Guessing Games", 1995).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from elmas.agents.endpoint import Message, RequestRecord
from elmas.agents.graph.graph import GraphResult
from elmas.errors import UserError


@dataclass(frozen=True)
class GameSettings:
    """Size and rules of one game; equal settings give equal first conversations."""

    n_participants: int = 20
    n_rounds: int = 5
    max_number: int = 100
    ratio: float = 2 / 3
    thinks_aloud: bool = False
    """Players reason step by step (chain of thought, Wei et al., 2022); a second call reads the number out of that."""
    reasoning_tokens: int = 150
    """What thinking aloud may take."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_participants < 1 or self.n_rounds < 1:
            raise UserError("a game needs at least one participant and one round")
        if self.max_number < 1:
            raise UserError(f"the largest number is {self.max_number}: let players choose from 0 to 1 at least")
        if self.reasoning_tokens < 1:
            raise UserError(f"--reasoning-tokens is {self.reasoning_tokens}: give players at least one token to think")
        if not 0 < self.ratio <= 1:
            raise UserError(f"the ratio is {self.ratio:g}: give one above 0 and up to 1, such as 2/3")


@dataclass(frozen=True)
class Said:
    """What one participant came up with in one round."""

    guess: int | None
    """None: the answer held no legal number, or there was no answer."""
    records: tuple[RequestRecord, ...]
    """Every call that was made for it."""
    error: str | None = None
    """Why there is no answer."""


@dataclass(frozen=True)
class Turn:
    """One participant in one round, after all numbers are in."""

    guess: int | None
    distance: float | None
    """From the target; None without a guess."""
    won: bool
    """Nobody's guess was nearer to the target."""
    records: tuple[RequestRecord, ...]
    error: str | None = None


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
        return [record for turn in self.turns for record in turn.records]


@dataclass(frozen=True)
class GameResult:
    """A whole game, with every call that it made."""

    settings: GameSettings
    rounds: tuple[Round, ...]
    conversations: tuple[tuple[Message, ...], ...]
    """By participant, as they stood at the end."""
    run: GraphResult | None = field(default=None, compare=False, repr=False)
    """What became of every node of the game's graph."""

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
            (round_index, participant, turn.error)
            for round_index, each in enumerate(self.rounds)
            for participant, turn in enumerate(each.turns)
            if turn.error is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the game as plain values; times are seconds since its first call."""
        start_s = min((record.submitted_s for record in self.records), default=0.0)
        return {
            "n_participants": self.settings.n_participants,
            "n_rounds": self.settings.n_rounds,
            "max_number": self.settings.max_number,
            "ratio": self.settings.ratio,
            "thinks_aloud": self.settings.thinks_aloud,
            "reasoning_tokens": self.settings.reasoning_tokens,
            "seed": self.settings.seed,
            "rounds": [
                {
                    "average": each.average,
                    "target": each.target,
                    "winning_guess": each.winning_guess,
                    "winners": each.winners,
                    "guesses": [turn.guess for turn in each.turns],
                    "errors": {index: turn.error for index, turn in enumerate(each.turns) if turn.error is not None},
                    "calls": [[record.to_json(start_s) for record in turn.records] for turn in each.turns],
                }
                for each in self.rounds
            ],
            "conversations": self.conversations,
        }


def score(settings: GameSettings, said: Sequence[Said]) -> Round:
    """Return the outcome of a round from what every participant said."""
    valid = [each.guess for each in said if each.guess is not None]
    if not valid:
        return Round(tuple(Turn(None, None, False, each.records, each.error) for each in said), None, None, None)
    average = math.fsum(valid) / len(valid)
    target = settings.ratio * average
    nearest = min(abs(guess - target) for guess in valid)

    def wins(guess: int) -> bool:
        # Not "==": two thirds has no exact float, and a tie must not depend on its last bit.
        return math.isclose(abs(guess - target), nearest, rel_tol=0.0, abs_tol=1e-9)

    turns = tuple(
        Turn(None, None, False, each.records, each.error)
        if each.guess is None
        else Turn(each.guess, abs(each.guess - target), wins(each.guess), each.records, each.error)
        for each in said
    )
    return Round(turns, average, target, min(guess for guess in valid if wins(guess)))
