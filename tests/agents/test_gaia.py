"""GAIA: its measure, its format, and agents that really solve the own questions with their tools."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.gaia.agent import ANSWER
from elmas.agents.gaia.play import OWN, GaiaResult, GaiaSettings, play
from elmas.agents.gaia.questions import Question, read_questions
from elmas.agents.gaia.scorer import is_correct
from elmas.agents.tools.python_sandbox import PythonSandbox
from elmas.errors import UserError

ALL = read_questions(OWN / "questions")

needs_python = pytest.mark.skipif(
    not asyncio.run(PythonSandbox().confinement()).suffices, reason="this machine cannot confine Python"
)


def step(action: str, text: str) -> str:
    return json.dumps({"thought": "so", "action": action, "input": text})


def seen(call: Call) -> list[str]:
    """The observations so far."""
    return [m["content"] for m in call.messages if m["content"].startswith("Observation: ")]


def value(call: Call) -> str:
    """The last observation, when it is one value."""
    return seen(call)[-1].removeprefix("Observation: ").strip().strip("'")


def one_line(text: str) -> str:
    return " ".join(text.split())


def found(pattern: str, call: Call) -> str:
    match = re.search(pattern, "\n".join(seen(call)), re.DOTALL)
    assert match is not None, (pattern, seen(call))
    return match[1]


# By question: what to do at each step, from what was seen before; the last one is the answer.
Move = Callable[[Call], tuple[str, str]]
CSV = "import csv\nrows = list(csv.DictReader(open({!r})))\n"
SOLUTIONS: dict[str, list[Move]] = {
    "harrow-01": [
        lambda call: ("read", "cellar.txt"),
        lambda call: ("calculate", f"sum({', '.join(re.findall(r'([0-9]+) jars of plum jam', seen(call)[-1]))})"),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-02": [
        lambda call: (
            "python",
            CSV.format("ferry.csv") + "sum(int(r['passengers']) for r in rows if r['ship'] == 'Gannet')",
        ),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-03": [
        lambda call: ("read", "stock.xlsx"),
        lambda call: (
            ANSWER,
            max(
                re.findall(r"\n([a-z ]+)\t([\d.]+)\t(\d+)\t", seen(call)[-1]),
                key=lambda row: float(row[1]) * int(row[2]),
            )[0],
        ),
    ],
    "harrow-04": [
        lambda call: ("read", "letter.pdf"),
        lambda call: (ANSWER, found(r"opened his smithy on ([\w ]+),", call)),
    ],
    "harrow-05": [
        lambda call: ("search", "lighthouse at Tarn Point first lit"),
        lambda call: (ANSWER, found(r"first lit on \d+\s+\w+ (\d+)", call)),
    ],
    "harrow-06": [
        lambda call: ("calculate", "convert(3, 'week', 's') + convert(2, 'day', 's')"),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-07": [
        lambda call: ("search", "Tarn Point lighthouse tower tall"),
        lambda call: ("calculate", "round(convert({}, 'm', 'ft'), 1)".format(found(r"(\d+) metres tall", call))),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-08": [
        lambda call: ("search", "designer lighthouse Tarn Point"),
        lambda call: ("search", "born " + found(r"designer was the engineer ([\w ]+)\.", call)),
        lambda call: (ANSWER, found(r"She was born on (\w+)", call)),
    ],
    "harrow-09": [
        lambda call: ("read", "stock.xlsx"),
        lambda call: (
            ANSWER,
            found(
                min(re.findall(r"\t(\d+)\t(S\d)", seen(call)[-1]), key=lambda row: int(row[0]))[1] + r"\t([\w ]+)\t",
                call,
            ),
        ),
    ],
    "harrow-10": [
        lambda call: ("search", "Fulmar room for passengers"),
        lambda call: (
            "python",
            CSV.format("ferry.csv")
            + "limit = {} * 3 / 4\n".format(found(r"the Fulmar for (\d+)", call))
            + "sum(r['ship'] == 'Fulmar' and int(r['passengers']) > limit for r in rows)",
        ),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-11": [
        lambda call: (
            "python",
            "sum(n for n in range(2, 2000) if str(n) == str(n)[::-1] and all(n % k for k in range(2, n)))",
        ),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-12": [
        lambda call: (
            "python",
            "line = open('cipher.txt').read().splitlines()[2]\n"
            "''.join(chr((ord(c) - 97 - 11) % 26 + 97) if c.isalpha() else c for c in line)",
        ),
        lambda call: (ANSWER, found(r"hid the (\w+ \w+) under", call)),
    ],
    "harrow-13": [
        lambda call: ("read", "invoice.pdf"),
        lambda call: ("search", "jar of Skerra honey grams"),
        lambda call: (
            "calculate",
            "convert({} * {}, 'g', 'kg')".format(
                found(r"(\d+) jars of Skerra honey", call), found(r"holds (\d+) grams", call)
            ),
        ),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-14": [
        lambda call: ("read", "weather-stations.md"),
        lambda call: (
            "python",
            CSV.format("rain.csv")
            + "heights = {}\n".format(dict(re.findall(r"([A-Z]\w+ [A-Z]\w+), (\d+) metres", one_line(seen(call)[-1]))))
            + "rain = {s: sum(float(r['rain_mm']) for r in rows if r['station'] == s) for s in heights}\n"
            + "', '.join(sorted(s for s in heights if int(heights[s]) > 50 and rain[s] > 100))",
        ),
        lambda call: (ANSWER, value(call)),
    ],
    "harrow-15": [
        lambda call: ("search", "founder of the Velden Ferry Company"),
        lambda call: ("search", "born " + found(r"founded in \d+ by ([\w ]+),", call)),
        lambda call: (
            "search",
            "lighthouse first lit on the island of " + found(r"born in \d+ on the island of (\w+)", call),
        ),
        lambda call: (
            "calculate",
            " - ".join((found(r"first lit on \d+\s+\w+ (\d+)", call), found(r"born in (\d+)", call))),
        ),
        lambda call: (ANSWER, value(call)),
    ],
}


def solving(call: Call) -> str:
    _, task_id, _ = call.agent.split("/")
    move = SOLUTIONS[task_id][sum(message["role"] == "assistant" for message in call.messages)]
    return step(*move(call))


def run(script: Callable[[Call], str | None], **fields: object) -> tuple[GaiaResult, ScriptedAsker]:
    asker = ScriptedAsker(script)
    return asyncio.run(play(GaiaSettings(**fields), asker)), asker  # type: ignore[arg-type]


@needs_python
def test_all_own_questions_can_be_solved_with_the_tools() -> None:
    result, asker = run(solving)
    wrong = [(each.question.task_id, each.answer) for each in result.results if not each.correct]
    assert not wrong
    assert result.scores() == {1: (6, 6), 2: (6, 6), 3: (3, 3)}
    assert result.failures == []
    used = {each.action for one in result.results for attempt in one.attempts for each in attempt.steps}
    assert used == {"search", "read", "calculate", "python", ANSWER}
    # Every tool call is announced when it begins and when it ends, and every agent says that it is done.
    for question in ALL:
        n_tools = len(SOLUTIONS[question.task_id]) - 1
        agent = f"gaia/{question.task_id}/0"
        assert [kind for name, kind in asker.signals if name == agent] == [*(["pause", "resume"] * n_tools), "done"]
    json.dumps(result.to_json())


@needs_python
def test_conversations_only_grow_at_their_end() -> None:
    _, asker = run(solving)
    last: dict[str, list[dict[str, str]]] = {}
    for call in asker.calls:
        before = last.get(call.agent, [])
        assert call.messages[: len(before)] == before
        last[call.agent] = call.messages


def test_the_last_step_can_only_answer() -> None:
    def never_answers(call: Call) -> str:
        assert call.schema is not None
        actions = call.schema["properties"]["action"]["enum"]
        return step(actions[0], "1 + 1")

    result, asker = run(never_answers, max_steps=3, level=1)
    assert all(each.answer == "1 + 1" and not each.correct for each in result.results)
    assert len(asker.calls) == 3 * len(result.results)
    assert all(call.expect.done == (place % 3 == 2) for place, call in enumerate(calls_by_agent(asker)))


def calls_by_agent(asker: ScriptedAsker) -> list[Call]:
    return sorted(asker.calls, key=lambda call: (call.agent, len(call.messages)))


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "{}", '{"action": 3, "input": ""}', step("fly", "x"), '{"action": "answer"}', "null"]
)
def test_illegal_steps_are_told_and_counted_and_end_nothing(text: str) -> None:
    result, asker = run(lambda call: text, max_steps=2, level=3)
    assert [each.error for each in result.results] == ["no legal answer in the last step"] * 3
    assert result.scores() == {3: (0, 3)}
    assert "no legal step" in calls_by_agent(asker)[1].messages[-1]["content"]


@needs_python
def test_a_call_that_fails_ends_its_question_only() -> None:
    result, _ = run(lambda call: None if "harrow-02" in call.agent else solving(call), level=1)
    assert [each.correct for each in result.results] == [True, False, True, True, True, True]
    assert result.failures == ["HTTP 503: busy"]
    assert result.results[1].error == "HTTP 503: busy"


@needs_python
def test_errors_of_tools_are_observations_and_long_ones_are_shortened() -> None:
    moves = [
        ("read", "/etc/passwd"),
        ("calculate", "1 / 0"),
        ("python", "import socket\nsocket.socket()"),
        ("python", "print('x' * 20000)"),
        (ANSWER, "no"),
    ]

    def script(call: Call) -> str:
        return step(*moves[sum(message["role"] == "assistant" for message in call.messages)])

    result, _ = run(script, level=3)
    observations = [each.observation for each in result.results[0].attempts[0].steps]
    assert "there is no file '/etc/passwd'" in observations[0]
    assert "division by zero" in observations[1]
    assert "PermissionError" in observations[2]
    assert "characters left out" in observations[3]
    assert max(map(len, observations)) < 2700


def test_a_swarm_decides_by_majority_as_the_measure_reads_answers() -> None:
    answers = {"0": "velden  supply.", "1": "Holm Stores", "2": "Velden Supply"}

    def script(call: Call) -> str:
        return step(ANSWER, answers[call.agent.rsplit("/")[-1]])

    result, asker = run(script, n_agents=3, level=2)
    assert {each.answer for each in result.results} == {"velden  supply."}
    assert [each.correct for each in result.results] == [False, False, True, False, False, False]
    assert len({call.agent for call in asker.calls}) == 3 * 6


@pytest.mark.parametrize("decision", ["consistent", "best"])
def test_a_swarm_can_ask_the_model_to_decide(decision: str) -> None:
    def script(call: Call) -> str:
        if call.agent.endswith("/decision"):
            return json.dumps({"choice": 2})
        return step(ANSWER, call.agent)

    result, _ = run(script, n_agents=2, level=3, decision=decision)
    assert [each.answer for each in result.results] == [f"gaia/{each.question.task_id}/1" for each in result.results]


def test_a_swarm_in_which_all_fail_has_no_answer() -> None:
    result, _ = run(lambda call: None, n_agents=2, level=3)
    assert all(each.answer is None and each.error == "HTTP 503: busy" for each in result.results)


@pytest.mark.parametrize(
    ("answer", "right", "correct"),
    [
        ("42", "42", True),
        ("$1,234.50", "1234.5", True),
        ("42%", "42", True),
        ("42 apples", "42", False),
        ("forty-two", "42", False),
        ("inf", "42", False),
        ("nan", "42", False),
        ("The  Brass-Key!", "the brass key", True),
        ("brass key", "brass", False),
        ("a, b, c", "A,b;c", True),
        ("a, b", "a, b, c", False),
        ("b, a", "a, b", False),
        ("$5, ten", "5, ten", True),
        ("a.b, c", "ab, c", False),
        ("1,2", "1, 2", True),
        ("", "a", False),
        ("1,234", "1234", True),
        ("17", "17.0", True),
    ],
)
def test_quasi_exact_match(answer: str, right: str, correct: bool) -> None:
    assert is_correct(answer, right) is correct


@given(st.text(max_size=30))
def test_every_answer_that_is_not_only_punctuation_matches_itself(text: str) -> None:
    assert is_correct(text, text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_match_with_thousands_separators_and_signs_of_money(number: float) -> None:
    assert is_correct(f"$ {number:,}", str(number))


def write(folder: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text)
    return folder


def test_questions_without_a_published_answer_are_answered_and_not_scored(tmp_path: Path) -> None:
    write(tmp_path, {"task_id": "a", "Question": "Why?", "Level": "2", "Final answer": "?", "file_name": ""}, "")
    assert read_questions(tmp_path) == [Question("a", "Why?", 2, None, None)]
    result, _ = run(lambda call: step(ANSWER, "because"), questions=tmp_path)
    assert (result.results[0].answer, result.results[0].correct, result.scores()) == ("because", None, {})


GOOD = {"task_id": "a", "Question": "Why?", "Level": 1, "Final answer": "b", "file_name": ""}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["{"], "metadata.jsonl:1 is no question"),
        ([GOOD, "[]"], "metadata.jsonl:2 is no question"),
        ([{**GOOD, "Level": "hard"}], "is no question"),
        ([{"task_id": "a"}], "is no question"),
        ([{**GOOD, "file_name": "missing.csv"}], "names the file 'missing.csv'"),
        ([{**GOOD, "file_name": "../outside.csv"}], "names the file"),
        ([GOOD, GOOD], "same task_id"),
        ([], "has no questions"),
    ],
)
def test_broken_questions_are_one_line_that_says_where(lines: list[object], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_text("")
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match=re.escape(complaint)):
        read_questions(write(tmp_path / "inner", *lines))


def test_a_folder_without_questions_and_impossible_settings_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--questions"):
        read_questions(tmp_path)
    with pytest.raises(UserError, match="level 2"):
        read_questions(write(tmp_path, GOOD), level=2)
    for fields in ({"max_steps": 0}, {"n_agents": 0}, {"decision": "loudest"}):
        with pytest.raises(UserError):
            GaiaSettings(**fields)  # type: ignore[arg-type]
