"""How a swarm comes to one answer: by counting votes, or by asking the model to choose.

The three decisions of GPTSwarm's final node that make sense for any answer (Zhuge et al., 2024): majority vote, which
needs no call; the answer that agrees with most others (after self-consistency, Wang et al., 2022); and the best one.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from elmas.agents.graph.graph import Inbox, NodeError, Operation
from elmas.agents.model import Answer, Asker, Expect

Choice = TypeVar("Choice", bound=Hashable)

DECISIONS = ("majority", "consistent", "best")
"""The names of the decisions."""

_LONGEST_ANSWER = 1000
"""Characters of each answer that the model is shown."""

_CRITERIA = {
    "consistent": "Name the answer that says what most of the others say too. Do not judge whether it is right.",
    "best": "Name the answer that is right, or nearest to it. Judge each by itself, however many say the same.",
}

_INSTRUCTION = """\
You decide for a group. Several of its members have answered the same question, each without knowing the others. You \
see the question and all answers with their numbers. {criterion} Reply with the number of one answer and with nothing \
else."""


def majority(votes: Iterable[Choice]) -> Choice | None:
    """Return the most frequent vote, of equally frequent ones the first; None for no votes."""
    counted = Counter(votes).most_common(1)
    return counted[0][0] if counted else None


async def vote(task: Any, inbox: Inbox) -> Any:
    """Operation: the majority of the messages that are not None. Fails when there is none."""
    winner = majority(message for message in inbox.values() if message is not None)
    if winner is None:
        raise NodeError("nobody voted")
    return winner


def asked(
    asker: Asker,
    decision: str,
    agent: Callable[[Any], str],
    describe: Callable[[Any], str] = str,
    on_answer: Callable[[Any, Answer], object] | None = None,
) -> Operation:
    """Return an operation in which the model names one of the messages, by the decision "consistent" or "best".

    `agent` gives the name of the session from the task, `describe` the task in words; `on_answer` gets the task and
    what the model said. Where it names none, the majority decides; where all messages are equal, nobody is asked.
    """
    instruction = _INSTRUCTION.format(criterion=_CRITERIA[decision])

    async def decide(task: Any, inbox: Inbox) -> Any:
        answers = [message for message in inbox.values() if message is not None]
        if not answers:
            raise NodeError("nobody answered")
        if len(set(answers)) == 1:
            return answers[0]
        answer = await asker.ask(
            agent(task),
            [
                {"role": "system", "content": instruction},
                {"role": "user", "content": _question(describe(task), [str(each) for each in answers])},
            ],
            max_tokens=30,
            schema=_choice_schema(len(answers)),
            expect=Expect(done=True),
        )
        if on_answer is not None:
            on_answer(task, answer)
        number = _number(answer.data())
        return answers[number - 1] if number is not None and 1 <= number <= len(answers) else majority(answers)

    return decide


def _question(task: str, answers: Sequence[str]) -> str:
    lines = [f"Answer {number}: {answer[:_LONGEST_ANSWER]}" for number, answer in enumerate(answers, start=1)]
    return "\n".join([f"The question: {task}", *lines])


def _choice_schema(n_answers: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"choice": {"type": "integer", "minimum": 1, "maximum": n_answers}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def _number(data: Any) -> int | None:
    value = data.get("choice") if isinstance(data, dict) else data
    return value if isinstance(value, int) and not isinstance(value, bool) else None
