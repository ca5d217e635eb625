"""The number-guessing game as a graph: in every round all participants answer at once, and a coordinator waits for all.

As a load it is a pure case of returning prefixes: a participant's conversation only ever grows. A participant who
thinks aloud has a second node, which reads the number out of the answer in a session of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from elmas.agents.endpoint import Message, RequestRecord
from elmas.agents.graph.graph import Graph, Inbox, Operation
from elmas.agents.guessing.game import GameResult, GameSettings, Round, Said, score
from elmas.agents.guessing.prompts import (
    ANSWER_TOKENS,
    READING_TOKENS,
    answer_schema,
    describe_own,
    describe_result,
    first_message,
    next_message,
    parse_guess,
    reader_instruction,
    reading_schema,
    rules,
)
from elmas.agents.model import Answer, Asker, Expect
from elmas.agents.personas import personas

NO_ANSWER = "(no answer)"
"""Stands in the conversation for an answer that never came: chat templates want the two roles in turn."""

_LOST = Said(None, (), "the participant's node failed")


async def play(
    settings: GameSettings,
    asker: Asker,
    on_round: Callable[[int], None] | None = None,
    on_answer: Callable[[], None] | None = None,
) -> GameResult:
    """Play all rounds. `on_round` gets the index of the round that starts; `on_answer` is called once per participant.

    Never raises for a failing call: the participant has no guess in that round, and the result says why.
    """
    people = personas(settings.n_participants, settings.seed)
    participants = [_Participant(index, person, settings, asker, on_answer) for index, person in enumerate(people)]
    graph = Graph()
    coordinators: list[str] = []
    for round_index in range(settings.n_rounds):
        ends = [each.add_turn(graph, round_index, coordinators[-1:]) for each in participants]
        coordinate = _coordinator(settings, ends, round_index, on_round)
        name = f"coordinator, round {round_index + 1}"
        coordinators.append(graph.add(name, coordinate, ends, kind="coordinator", needs_all=False))
    if on_round is not None:
        on_round(0)
    run = await graph.run()
    rounds = [run.message(name) for name in coordinators]
    conversations = tuple(tuple(each.conversation) for each in participants)
    return GameResult(settings, tuple(each for each in rounds if each is not None), conversations, run)


def _coordinator(
    settings: GameSettings, ends: Sequence[str], round_index: int, on_round: Callable[[int], None] | None
) -> Operation:
    """Return the operation that scores one round from the messages of the nodes `ends`, by participant."""

    async def coordinate(task: Any, inbox: Inbox) -> Round:
        outcome = score(settings, [inbox.get(end, _LOST) for end in ends])
        if on_round is not None and round_index + 1 < settings.n_rounds:
            on_round(round_index + 1)
        return outcome

    return coordinate


class _Participant:
    """One player: a persona, and a conversation in which nothing is ever changed."""

    def __init__(
        self, index: int, persona: str, settings: GameSettings, asker: Asker, on_answer: Callable[[], None] | None
    ) -> None:
        self._index = index
        self._agent = f"guessing-game/{index}"
        self._persona = persona
        self._settings = settings
        self._asker = asker
        self._on_answer = on_answer
        self.conversation: list[Message] = [
            {"role": "system", "content": rules(settings.max_number, settings.ratio, settings.thinks_aloud)}
        ]

    def add_turn(self, graph: Graph, round_index: int, after: Sequence[str]) -> str:
        """Add the nodes of this player's turn, after the coordinator of the last round; returns the name of the one
        whose message is a `Said`."""

        async def speak(task: Any, inbox: Inbox) -> Answer:
            return await self._speak(round_index, next(iter(inbox.values()), None))

        async def name_number(task: Any, inbox: Inbox) -> Said:
            answer = await speak(task, inbox)
            return self._said(answer, answer.records)

        async def read(task: Any, inbox: Inbox) -> Said:
            (thought,) = inbox.values()
            return await self._read(round_index, thought)

        name = f"player {self._index + 1}, round {round_index + 1}"
        if not self._settings.thinks_aloud:
            return graph.add(name, name_number, after, kind="player")
        graph.add(name, speak, after, kind="player")
        return graph.add(f"{name}, number", read, [name], kind="reader")

    async def _speak(self, round_index: int, last_round: Round | None) -> Answer:
        """Hear what the last round came to, and answer."""
        settings = self._settings
        if last_round is None:
            text = first_message(self._persona, settings.n_rounds)
        else:
            turn = last_round.turns[self._index]
            result = describe_result(last_round.average, last_round.target, last_round.winning_guess)
            own = describe_own(turn.guess, turn.distance, turn.won)
            text = next_message(round_index + 1, settings.n_rounds, result, own)
        self.conversation.append({"role": "user", "content": text})
        is_last = round_index + 1 == settings.n_rounds
        answer = await self._asker.ask(
            self._agent,
            self.conversation,
            max_tokens=settings.reasoning_tokens if settings.thinks_aloud else ANSWER_TOKENS,
            schema=None if settings.thinks_aloud else answer_schema(settings.max_number),
            expect=Expect(done=True) if is_last else Expect(rounds_to_next=1),
        )
        self.conversation.append({"role": "assistant", "content": NO_ANSWER if answer.error else answer.text})
        return answer

    async def _read(self, round_index: int, thought: Answer) -> Said:
        """Read the number out of what was thought aloud."""
        if thought.error is not None:
            return self._said(thought, thought.records)
        answer = await self._asker.ask(
            # A session of its own for every reading: nothing of it ever comes back.
            f"{self._agent}/reader/{round_index}",
            [
                {"role": "system", "content": reader_instruction(self._settings.max_number)},
                {"role": "user", "content": thought.text},
            ],
            max_tokens=READING_TOKENS,
            schema=reading_schema(self._settings.max_number),
            expect=Expect(done=True),
        )
        return self._said(answer, (*thought.records, *answer.records))

    def _said(self, answer: Answer, records: tuple[RequestRecord, ...]) -> Said:
        if self._on_answer is not None:
            self._on_answer()
        guess = None if answer.error is not None else parse_guess(answer, self._settings.max_number)
        return Said(guess, records, answer.error)
