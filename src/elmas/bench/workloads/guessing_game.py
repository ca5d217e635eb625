"""The number-guessing game as the original plays it, for its request pattern: guesses, and a parser for each of them.

Per participant a chat that only grows: role play and persona (about 330 tokens of which the first 136 characters are
common to all), the question, the answer, the coordinator's message with the winning number, and so on. After every
answer a call of the parser, which shares nothing but its header. All participants of a round run at once, and the next
round waits for the last of them.

Direct prompting asks for the number alone; with chain of thought the answers have hundreds of tokens, and the parser
reads them all. Seeded text takes the place of the answers, so that all servers get the same requests. The application
itself is `elmas.agents.guessing`, as a workload `app_guessing_game`.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from elmas.agents.endpoint import Message
from elmas.agents.personas import personas
from elmas.bench.workloads.calls import chat, fewer
from elmas.bench.workloads.steps import AtOnce, InTurn, Scripted, Step
from elmas.bench.workloads.words import words

_LEAST_PARTICIPANTS, _LEAST_ROUNDS = 4, 3

_N_PERSONAS = 1000
"""Different ones, as in the original; participant i has number i modulo this."""

_OPENING = (
    "For the whole of this conversation you are the person described below, and you think, decide and speak as this "
    "person would in a game."
)

_PERSON = """

Name: {name}
Gender: {gender}
Age: {age}
Personality: {personality}

"""

_RULES = """

You and many others play a game. Every round, each player secretly names a real number between 0 and 100. The winner \
is the player whose number is closest to 2/3 of the mean of all numbers named in that round. After the round everybody \
is told the number that won, and the next round begins with the same people.

Keep in mind:
- The number may have decimals, and 0 and 100 are allowed.
- Stay the person you are, and learn as this person would."""

_DIRECT = "Which number do you name? Answer with the number only."

_STEPWISE = (
    "Which number do you name? Think about it step by step, write down what you consider, and end with your number."
)

_RESULT = "The round is over. The number that won is {winner:.2f}. Here comes the next round. "

_PARSER = "Somebody was asked for a number between 0 and 100 and answered as follows:\n\n{answer}"

_PARSER_QUESTION = (
    "Write the number that this answer names, as digits and nothing else. If it names none, write: no number given."
)

_NAMES = (
    "Ada",
    "Bela",
    "Cleo",
    "Dara",
    "Edda",
    "Finn",
    "Gero",
    "Hana",
    "Ivo",
    "Jara",
    "Kito",
    "Lian",
    "Mira",
    "Nils",
    "Oda",
    "Piet",
    "Rona",
    "Sven",
    "Tova",
    "Ulf",
)
_GENDERS = ("female", "male", "non-binary")
_TRAITS = (
    "careful",
    "bold",
    "patient",
    "stubborn",
    "curious",
    "suspicious",
    "cheerful",
    "competitive",
    "modest",
    "methodical",
)


@dataclass(frozen=True)
class GuessingGame(Scripted):
    """Rounds of guess and parser call per participant, with a barrier after each round."""

    name: str
    n_participants: int
    n_rounds: int
    answer_tokens: tuple[int, int]
    """Of a participant, least and most, uniform."""
    thinks_aloud: bool
    seed: int
    parser_tokens: tuple[int, int] = (2, 4)

    def scaled(self, factor: float) -> Self:
        """Return the game with fewer participants; one of hundreds also has fewer rounds, or it would take too long."""
        n_rounds = fewer(self.n_rounds, factor, _LEAST_ROUNDS) if self.n_participants >= 100 else self.n_rounds
        return replace(self, n_participants=fewer(self.n_participants, factor, _LEAST_PARTICIPANTS), n_rounds=n_rounds)

    def make_script(self) -> Step:
        """Return the rounds; a participant's guess and its reading follow each other."""
        people = personas(_N_PERSONAS, self.seed)
        players = [self._opening(index, people[index % len(people)]) for index in range(self.n_participants)]
        rounds = []
        for index in range(self.n_rounds):
            turns = []
            for number, conversation in enumerate(players):
                random = np.random.default_rng([self.seed, number, index])
                turns.append(self._turn(number, index, conversation, random))
            rounds.append(AtOnce(tuple(turns)))
            winner = float(np.random.default_rng([self.seed, _N_PERSONAS, index]).uniform(0, 66.67))
            for conversation in players:
                conversation.append({"role": "user", "content": _RESULT.format(winner=winner) + self._question})
        return InTurn(tuple(rounds))

    @property
    def _question(self) -> str:
        return _STEPWISE if self.thinks_aloud else _DIRECT

    def _opening(self, index: int, persona: str) -> list[Message]:
        random = np.random.default_rng([self.seed, index])
        person = _PERSON.format(
            name=_NAMES[int(random.integers(len(_NAMES)))],
            gender=_GENDERS[int(random.integers(len(_GENDERS)))],
            age=int(random.integers(18, 80)),
            personality=", ".join(_TRAITS[int(trait)] for trait in random.permutation(len(_TRAITS))[:3]),
        )
        system = _OPENING + person + persona + _RULES
        return [{"role": "system", "content": system}, {"role": "user", "content": self._question}]

    def _turn(self, number: int, index: int, conversation: list[Message], random: np.random.Generator) -> Step:
        """Return both calls of a participant in a round; the answer's stand-in joins the conversation."""
        agent = f"participant-{number:05}"
        n_answer = int(random.integers(*self.answer_tokens, endpoint=True))
        n_parsed = int(random.integers(*self.parser_tokens, endpoint=True))
        guess = chat(conversation, n_answer, agent=agent, turn=index, round=index)
        answer = f"{random.uniform(0, 100):.2f}"
        if self.thinks_aloud:
            answer = f"{words(random, n_answer - len(answer) - 1)} {answer}"
        parsed = chat(
            [
                {"role": "system", "content": _PARSER.format(answer=answer)},
                {"role": "user", "content": _PARSER_QUESTION},
            ],
            n_parsed,
            agent=f"{agent}/parser",
            turn=index,
            round=index,
        )
        conversation.append({"role": "assistant", "content": answer})
        return InTurn((guess, parsed))
