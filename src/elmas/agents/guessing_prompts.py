"""What is said in the number-guessing game: the rules, the messages of each round, and how an answer is read."""

import math
import re
from typing import Any

ANSWER_PATTERN = r"[A-Za-z ,']{50,90}\. My guess: ([1-9]?[0-9]|100)"
"""What an answer may look like, for endpoints that can enforce it: even a model of random weights then plays a legal
game. Compiling it for the tiny model takes 16 ms once, and following it about 10 microseconds per token."""

_GUESS = re.compile(r"My guess: *(\d+)")
_INTEGER = re.compile(r"(?<![\d.,])-?\d+(?![\d]|[.,]\d)")

RULES = """\
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

Answer in one short sentence that says in plain words how you came to your number. Write no other number in it. End \
your answer with the words "My guess:" and your number, and write nothing after it. An answer without a whole number \
from 0 to {max_number} does not count: it is left out of the average and cannot win."""

_FIRST_ROUND = """{persona}

This is round 1 of {n_rounds}. Nobody has named a number yet. What is yours?"""

_NEXT_ROUND = """\
Round {last} is over. {result} {own}

This is round {round} of {n_rounds}. All players have heard the same result and are thinking about their next number \
now. What is yours?"""


def answer_options(structured: bool = True, max_tokens: int = 80) -> dict[str, Any]:
    """Return the request fields for an answer: greedy and short; `structured` needs vLLM at the other end.

    Greedy, because two games are to be compared. Sampling with a `seed` would do too, but vLLM 0.32 on a CPU dies of a
    seeded request whose prompt it computes in more than one step ("CPU Generator does not use offset").
    """
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": max_tokens}
    if structured:
        options["structured_outputs"] = {"regex": ANSWER_PATTERN}
    return options


def rules(max_number: int, ratio: float) -> str:
    """Return the system prompt, which all participants share."""
    return RULES.format(max_number=max_number, ratio=_ratio_in_words(ratio))


def first_message(persona: str, n_rounds: int) -> str:
    """Return what a participant is told in the first round: who they are."""
    return _FIRST_ROUND.format(persona=persona, n_rounds=n_rounds)


def next_message(round_number: int, n_rounds: int, result: str, own: str) -> str:
    """Return what a participant is told in round `round_number`, counted from 1: the last result, and how they did."""
    return _NEXT_ROUND.format(last=round_number - 1, result=result, own=own, round=round_number, n_rounds=n_rounds)


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


def parse_guess(text: str, max_number: int = 100) -> int | None:
    """Return the guess in an answer: the number after "My guess:", else the last integer; None when it is not legal."""
    stated = _GUESS.findall(text)
    numbers = stated or _INTEGER.findall(text)
    if not numbers:
        return None
    guess = int(numbers[-1])
    return guess if 0 <= guess <= max_number else None


def _ratio_in_words(ratio: float) -> str:
    return "two thirds" if math.isclose(ratio, 2 / 3) else f"{ratio:g} times"
