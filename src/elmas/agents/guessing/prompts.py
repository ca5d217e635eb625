"""What is said in the number-guessing game: the rules, the messages of each round, and how an answer is read."""

import math
import re
from typing import Any

from elmas.agents.model import Answer

REASON_CHARACTERS = (50, 90)
"""Of the sentence that goes with a number, at least and at most."""

ANSWER_TOKENS = 160
"""Enough for the longest sentence of a tokenizer that knows no word of it."""

READING_TOKENS = 30

_INTEGER = re.compile(r"(?<![\d.,])-?\d+(?![\d]|[.,]\d)")

_RULES = """\
You take part in a game of numbers with many other players. The game has several rounds, and you play all of them.

In every round each player names one whole number from 0 to {max_number}. All players answer at the same time, and no \
player sees the number of another before the round is over. When all numbers are in, the leader of the game computes \
the average of all of them and takes {ratio} of it. This value is the target. The player whose number is nearest to \
the target wins the round. If several players are equally near, all of them win it.

After each round the leader tells every player the average, the target, the number that won, and how far the player's \
own number was from the target. Use this in the next round, but remember that the other players have heard the same \
and will change their numbers as well.

Some advice before you begin. Nobody can make the target larger than {ratio} of {max_number}. If all players named the \
same number, the target would be below it, so there is always a reason to go lower, as long as you believe that the \
others see it too. Whoever thinks much further than the others loses as surely as somebody who does not think at all. \
You do not need to guess what is right. You need to guess what the others will guess.

You play as the person who is described to you in the first message. Let the experience and the temper of this person \
decide how far you think ahead, how much you trust the others, and how quickly you change your mind.

{form}"""

_SHORT_FORM = """\
Answer in JSON with two fields. "reason" is one short sentence that says in plain words how you came to your number. \
Write no number in it. "guess" is your number. An answer without a whole number from 0 to {max_number} does not count: \
it is left out of the average and cannot win."""

_LONG_FORM = """\
Think step by step before you decide, and write down every step: what the others will probably do and why, what \
follows from that, and what you make of it. End with the sentence "My guess is", followed by your number. An answer \
without a whole number from 0 to {max_number} does not count: it is left out of the average and cannot win."""

_FIRST_ROUND = """{persona}

This is round 1 of {n_rounds}. Nobody has named a number yet. What is yours?"""

_NEXT_ROUND = """\
Round {last} is over. {result} {own}

This is round {round} of {n_rounds}. All players have heard the same result and are thinking about their next number \
now. What is yours?"""

_READER = """\
You read the answers of players in a game of numbers. A player has thought aloud and decided on one whole number from \
0 to {max_number}. Answer in JSON with one field, "guess": the number that the player decided on at last. Do not \
correct it and do not think of a better one."""


def rules(max_number: int, ratio: float, thinks_aloud: bool) -> str:
    """Return the system prompt, which all participants share."""
    form = (_LONG_FORM if thinks_aloud else _SHORT_FORM).format(max_number=max_number)
    return _RULES.format(max_number=max_number, ratio=_ratio_in_words(ratio), form=form)


def first_message(persona: str, n_rounds: int) -> str:
    """Return what a participant is told in the first round: who they are."""
    return _FIRST_ROUND.format(persona=persona, n_rounds=n_rounds)


def next_message(round_number: int, n_rounds: int, result: str, own: str) -> str:
    """Return what a participant is told in round `round_number`, counted from 1: the last result, and how they did."""
    return _NEXT_ROUND.format(last=round_number - 1, result=result, own=own, round=round_number, n_rounds=n_rounds)


def reader_instruction(max_number: int) -> str:
    """Return the system prompt of the call that reads a number out of what a participant thought aloud."""
    return _READER.format(max_number=max_number)


def answer_schema(max_number: int) -> dict[str, Any]:
    """Return the JSON schema of an answer with a reason."""
    shortest, longest = REASON_CHARACTERS
    return _object(
        reason={"type": "string", "minLength": shortest, "maxLength": longest}, guess=_guess_schema(max_number)
    )


def reading_schema(max_number: int) -> dict[str, Any]:
    """Return the JSON schema of a number that was read."""
    return _object(guess=_guess_schema(max_number))


def describe_result(average: float | None, target: float | None, winning_guess: int | None) -> str:
    """Return the result of a round as everybody hears it; None means that there was none."""
    if average is None or target is None:
        return "Nobody named a legal number, so there was no target and no winner."
    return f"The average was {average:.2f} and the target was {target:.2f}. The number that won was {winning_guess}."


def describe_own(guess: int | None, distance: float | None, won: bool) -> str:
    """Return what one participant hears about their own guess."""
    if guess is None or distance is None:
        return "Your answer did not count, because it held no legal number."
    if won:
        return f"You won: your number {guess} was {distance:.2f} away from the target, and nobody was nearer."
    return f"Your number was {guess}, which is {distance:.2f} away from the target."


def parse_guess(answer: Answer, max_number: int) -> int | None:
    """Return the guess in an answer: the field of that name, else the last whole number in the text; None when there is
    none from 0 to `max_number`. Servers that enforce no schema get the second chance."""
    data = answer.data()
    if isinstance(data, dict) and "guess" in data:
        guess = data["guess"]
        if isinstance(guess, float) and guess.is_integer():
            guess = int(guess)
        if isinstance(guess, str) and _INTEGER.fullmatch(guess):
            guess = int(guess)
        is_number = isinstance(guess, int) and not isinstance(guess, bool)
        return guess if is_number and 0 <= guess <= max_number else None
    numbers = _INTEGER.findall(answer.text)
    return int(numbers[-1]) if numbers and 0 <= int(numbers[-1]) <= max_number else None


def _guess_schema(max_number: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": max_number}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _ratio_in_words(ratio: float) -> str:
    return "two thirds" if math.isclose(ratio, 2 / 3) else f"{ratio:g} times"
