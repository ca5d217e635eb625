"""The MMLU swarm: the published format, votes of truthful and adversarial agents, and what is counted."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.mmlu.questions import LETTERS, SAMPLES, Question, read_questions
from elmas.agents.mmlu.swarm import SwarmSettings, build_graph, parse_letter, play
from elmas.agents.model import Answer
from elmas.errors import UserError

QUESTIONS = [
    Question("sums", "What is 1 + 1?", ("one", "two", "three", "four"), "B"),
    Question("sums", "What is 2 + 1?", ("one", "two", "three", "four"), "C"),
    Question("colors", "What is the color of snow?", ("white", "red", "blue", "green"), "A"),
]
RIGHT = {question.text: question.options[LETTERS.index(question.right)] for question in QUESTIONS}


def shown_options(call: Call) -> dict[str, str]:
    """Options by the letters under which the agent sees them."""
    return {line[0]: line[3:] for line in call.last.splitlines() if line[1:3] == ". "}


def honest(call: Call) -> str:
    """Truthful agents know everything, adversarial ones lie; who decides for the group takes the first answer."""
    if call.agent.endswith("decision"):
        return json.dumps({"choice": 1})
    wanted = RIGHT[call.last.splitlines()[0]]
    lies = "adversarial" in call.agent
    letter = next(letter for letter, option in shown_options(call).items() if (option == wanted) != lies)
    return json.dumps({"answer": letter})


def test_truthful_agents_win_while_they_are_more() -> None:
    result = asyncio.run(play(SwarmSettings(5, 2), QUESTIONS, ScriptedAsker(honest)))
    assert result.accuracy == 1.0
    assert result.share_right("truthful") == 1.0
    assert result.share_right("adversarial") == 0.0
    assert result.accuracy_by_subject == {"sums": (2, 2), "colors": (1, 1)}


def test_a_swarm_of_liars_is_wrong() -> None:
    result = asyncio.run(play(SwarmSettings(0, 3), QUESTIONS, ScriptedAsker(honest)))
    assert result.accuracy == 0.0
    assert result.share_right("truthful") is None


def test_agents_see_the_options_in_orders_of_their_own_and_votes_count_for_the_option() -> None:
    asker = ScriptedAsker(honest)
    result = asyncio.run(play(SwarmSettings(6, 0), QUESTIONS[:1], asker))
    assert len({tuple(shown_options(call).values()) for call in asker.calls}) > 3
    assert list(shown_options(asker.calls[0]).values()) == ["one", "two", "three", "four"]
    assert set(result.asked[0].votes.values()) == {"B"}


def test_a_liking_for_one_letter_spreads_over_the_options() -> None:
    asker = ScriptedAsker(lambda call: json.dumps({"answer": "A"}))
    result = asyncio.run(play(SwarmSettings(400, 0), QUESTIONS[:1], asker))
    counts = Counter(result.asked[0].votes.values())
    assert set(counts) == set(LETTERS)
    assert max(counts.values()) < 150


@pytest.mark.parametrize("decision", ["consistent", "best"])
def test_the_model_may_decide_instead_of_a_vote(decision: str) -> None:
    asker = ScriptedAsker(honest)
    result = asyncio.run(play(SwarmSettings(1, 2, decision=decision), QUESTIONS, asker))
    assert result.accuracy == 1.0  # the first answer is the truthful one
    deciding = [call for call in asker.calls if call.agent.endswith("decision")]
    assert len(deciding) == 3
    assert "C. three" in deciding[0].last
    assert len(result.records) == 4 * 3


def test_who_fails_does_not_vote_and_is_reported() -> None:
    def script(call: Call) -> str | None:
        return None if call.agent.endswith("truthful 1") else honest(call)

    result = asyncio.run(play(SwarmSettings(2, 0), QUESTIONS, ScriptedAsker(script)))
    assert result.accuracy == 1.0
    assert result.failures == [(index, "truthful 1", "HTTP 503: busy") for index in range(3)]
    assert result.asked[0].votes == {"truthful 1": None, "truthful 2": "B"}


def test_without_any_vote_there_is_no_decision_and_the_rest_goes_on() -> None:
    def script(call: Call) -> str:
        return "I do not know" if "1 + 1" in call.last else honest(call)

    result = asyncio.run(play(SwarmSettings(3, 0), QUESTIONS, ScriptedAsker(script)))
    assert [each.decision for each in result.asked] == [None, "C", "A"]
    assert result.failures == []


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ('{"answer": "B"}', "B"),
        ('{"answer": "c) three"}', "C"),
        ("It is D.", "D"),
        ('{"answer": ""}', None),
        ('{"answer": 3}', None),
        ("No idea", None),
        ("", None),
    ],
)
def test_the_letter_is_found(text: str, letter: str | None) -> None:
    assert parse_letter(Answer(text, ())) == letter


@given(st.text())
def test_any_text_is_a_letter_or_none(text: str) -> None:
    assert parse_letter(Answer(text, ())) in {"A", "B", "C", "D", None}


def test_questions_are_drawn_with_the_seed_and_worked_on_a_few_at_a_time() -> None:
    asker = ScriptedAsker(honest)
    many = [Question("sums", f"What is 1 + 1?{' ' * index}", ("one", "two", "x", "y"), "B") for index in range(50)]
    RIGHT.update({question.text: "two" for question in many})
    result = asyncio.run(play(SwarmSettings(2, 1, n_questions=20, n_at_once=4), many, asker))
    assert len(result.asked) == 20
    assert asker.most_running <= 12
    again = asyncio.run(play(SwarmSettings(2, 1, n_questions=20), many, ScriptedAsker(honest)))
    assert [each.question for each in again.asked] == [each.question for each in result.asked]


def test_two_thousand_agents_vote_on_one_question() -> None:
    asker = ScriptedAsker(honest)
    result = asyncio.run(play(SwarmSettings(1200, 800), QUESTIONS[:1], asker))
    assert result.accuracy == 1.0
    assert asker.most_running == 2000
    assert len({call.agent for call in asker.calls}) == 2000


def test_the_dump_is_json() -> None:
    dump = json.loads(json.dumps(asyncio.run(play(SwarmSettings(), QUESTIONS, ScriptedAsker(honest))).to_json()))
    assert dump["accuracy"] == 1.0
    assert dump["questions"][0]["votes"]["truthful 1"] == "B"
    assert len(dump["questions"][0]["calls"]) == 7


def test_the_graph_ends_in_one_decision() -> None:
    graph = build_graph(SwarmSettings(3, 2), ScriptedAsker(honest))
    assert graph.last_nodes == ["decision"]
    assert graph.structure.in_degree("decision") == 5


def test_our_own_questions_are_well_formed() -> None:
    questions = read_questions(SAMPLES)
    assert len(questions) == 40
    assert len({question.subject for question in questions}) == 8
    assert len({question.text for question in questions}) == 40
    for question in questions:
        assert len(set(question.options)) == 4
        assert all(question.options)
    counts = Counter(question.right for question in questions)
    assert max(counts.values()) < 20


def test_the_published_format_is_read(tmp_path: Path) -> None:
    row = '"Who said ""yes, no""?\n(two lines)",a,"b, c",d,e,C\n'
    (tmp_path / "college_biology_val.csv").write_text(row)
    (tmp_path / "virology_test.csv").write_text("Q,a,b,c,d,A\n")
    first, second = read_questions(tmp_path)
    assert first == Question("college biology", 'Who said "yes, no"?\n(two lines)', ("a", "b, c", "d", "e"), "C")
    assert second.subject == "virology"


@pytest.mark.parametrize("text", ["", "Q,a,b,c,A\n", "Q,a,b,c,d,E\n", "Q,a,b,c,d,AB\n", "question,A,B,C,D,answer\n"])
def test_another_format_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x_val.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="CSV lines of question"):
        read_questions(path)


def test_a_missing_file_or_an_empty_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CSV files"):
        read_questions(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        read_questions(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_truthful": 0, "n_adversarial": 0}, "at least one agent"),
        ({"decision": "dice"}, "majority, consistent, best"),
        ({"n_questions": 0}, "at least one question"),
    ],
)
def test_a_swarm_that_cannot_work_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SwarmSettings(**values)  # type: ignore[arg-type]
