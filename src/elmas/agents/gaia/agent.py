"""One agent that answers one question: in every step it names a tool and what goes in, or gives its answer.

The loop is that of ReAct (Yao et al., 2023): a thought, an action, an observation. A step is structured output, so any
model plays legally, and the conversation only grows at its end, so the server computes each part of it once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elmas.agents.gaia.questions import Question
from elmas.agents.model import Answer, Asker, Expect
from elmas.agents.tools.tool import Tool, ToolError

ANSWER = "answer"
"""The action that ends the loop."""

_MAX_THOUGHT_CHARACTERS = 200
_MAX_INPUT_CHARACTERS = 800
_MAX_TOKENS = 1100
"""Covers a step in which every character is a token."""
_MAX_ANSWER_CHARACTERS = 120
_MAX_ANSWER_TOKENS = 400
_MAX_OBSERVATION_CHARACTERS = 2500

_SYSTEM = """\
You are a general AI assistant. You answer one question, step by step. In each step you write a short thought, then \
name one action and its input. You then see what came of it. The actions are:
{actions}
The answer must be a number, or as few words as possible, or a list of numbers or words separated by commas. Numbers \
have no thousands separators, and no units such as $ or % unless the question asks for them. Words have no articles \
and no abbreviations. You have {n_steps} steps."""

_BROKEN = "That was no legal step. Name one of the actions and its input, as JSON."
_LAST = "This is your last step: give the answer."


@dataclass(frozen=True)
class Step:
    """One call of the model and what came of it."""

    action: str | None
    """None for an answer that never came or is no legal step."""
    thought: str
    input: str
    observation: str
    """What the tool returned, as the model saw it; "" for the answer."""
    answer: Answer


@dataclass(frozen=True)
class Attempt:
    """The whole work of one agent on one question."""

    agent: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> str | None:
        """The final answer; None when the agent came to none."""
        last = self.steps[-1]
        return last.input if last.action == ANSWER else None

    @property
    def error(self) -> str | None:
        """Why there is none; None when there is one."""
        last = self.steps[-1]
        return None if last.action == ANSWER else last.answer.error or "no legal answer in the last step"


async def attempt(
    question: Question,
    tools: Mapping[str, Tool],
    asker: Asker,
    agent: str,
    *,
    max_steps: int,
    temperature: float = 0.0,
) -> Attempt:
    """Work on a question for at most `max_steps` calls; the last one can only answer, and a call that fails ends it."""
    messages = [
        {"role": "system", "content": _instructions(tools, max_steps)},
        {"role": "user", "content": _task(question)},
    ]
    steps: list[Step] = []
    for number in range(1, max_steps + 1):
        is_last = number == max_steps
        if is_last:
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n{_LAST}"}
        answer = await asker.ask(
            agent,
            messages,
            max_tokens=_MAX_ANSWER_TOKENS if is_last else _MAX_TOKENS,
            schema=_schema([ANSWER], _MAX_ANSWER_CHARACTERS) if is_last else _schema([*tools, ANSWER]),
            temperature=temperature,
            expect=Expect(done=True) if is_last else Expect(),
        )
        step = await _act(answer, {} if is_last else tools, asker, agent)
        steps.append(step)
        if step.action == ANSWER or answer.error is not None:
            if not is_last:
                await asker.done(agent)
            break
        messages += [
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": step.observation},
        ]
    return Attempt(agent, tuple(steps))


async def _act(answer: Answer, tools: Mapping[str, Tool], asker: Asker, agent: str) -> Step:
    """Do what the model wants; a tool is announced, since the agent asks nothing meanwhile."""
    data = answer.data() if answer.error is None else None
    action, text = (data.get("action"), data.get("input")) if isinstance(data, dict) else (None, None)
    if not isinstance(action, str) or not isinstance(text, str) or action not in (*tools, ANSWER):
        return Step(None, "", "", _BROKEN, answer)
    thought = str(data.get("thought", "")) if isinstance(data, dict) else ""
    if action == ANSWER:
        return Step(ANSWER, thought, text.strip(), "", answer)
    await asker.pause(agent, tools[action].expected_s)
    try:
        observation = await tools[action].call(text)
    except ToolError as error:
        observation = f"Error: {error}"
    await asker.resume(agent)
    return Step(action, thought, text, f"Observation: {_shortened(observation)}", answer)


def _shortened(text: str) -> str:
    if len(text) <= _MAX_OBSERVATION_CHARACTERS:
        return text
    half = _MAX_OBSERVATION_CHARACTERS // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def _instructions(tools: Mapping[str, Tool], max_steps: int) -> str:
    lines = [f"- {tool.name}: {tool.description}" for tool in tools.values()]
    lines.append(f"- {ANSWER}: the final answer")
    return _SYSTEM.format(actions="\n".join(lines), n_steps=max_steps)


def _task(question: Question) -> str:
    file = "" if question.file is None else f"\nThe question comes with the file {question.file.name}"
    return f"Question: {question.text}{file}"


def _schema(actions: list[str], max_input: int = _MAX_INPUT_CHARACTERS) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "thought": {"type": "string", "maxLength": _MAX_THOUGHT_CHARACTERS},
            "action": {"type": "string", "enum": actions},
            "input": {"type": "string", "maxLength": max_input},
        },
        "required": ["thought", "action", "input"],
        "additionalProperties": False,
    }
