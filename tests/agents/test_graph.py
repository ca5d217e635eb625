"""Graphs of agents: order, concurrency, failures that stay where they are, decisions, and drawings."""

import asyncio
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.graph.decisions import asked, majority, vote
from elmas.agents.graph.drawing import draw, write_drawing
from elmas.agents.graph.graph import Graph, GraphResult, Inbox, NodeError, Operation, Outcome, State, swarm
from elmas.errors import UserError


def says(message: Any) -> Operation:
    async def operation(task: Any, inbox: Inbox) -> Any:
        return message

    return operation


async def gather(task: Any, inbox: Inbox) -> Any:
    return dict(inbox)


async def fail(task: Any, inbox: Inbox) -> Any:
    raise NodeError("no answer")


async def hang(task: Any, inbox: Inbox) -> Any:
    await asyncio.Event().wait()


def run(graph: Graph, task: Any = None) -> GraphResult:
    return asyncio.run(asyncio.wait_for(graph.run(task), 20))


@settings(max_examples=60)
@given(st.data())
def test_every_node_runs_once_after_all_before_it_and_gets_their_messages(data: st.DataObject) -> None:
    n_nodes = data.draw(st.integers(1, 12))
    graph, before_of = Graph(), {}
    ran: list[str] = []

    for index in range(n_nodes):
        before = data.draw(st.lists(st.integers(0, index - 1), unique=True)) if index else []
        before_of[str(index)] = [str(each) for each in before]

        async def noted(task: Any, inbox: Inbox, name: str = str(index)) -> str:
            await asyncio.sleep(0)
            assert list(inbox) == before_of[name]
            assert all(inbox[each] == f"from {each}" for each in inbox)
            assert all(each in ran for each in before_of[name])
            ran.append(name)
            return f"from {name}"

        graph.add(str(index), noted, before_of[str(index)])
    result = run(graph)
    assert result.failures == []
    assert sorted(ran) == sorted(before_of)


def test_all_that_can_run_at_once_does() -> None:
    running = most = 0

    async def operation(task: Any, inbox: Inbox) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    graph = Graph()
    for index in range(500):
        graph.add(f"a{index}", operation)
        graph.add(f"b{index}", operation, [f"a{index}"])
    run(graph)
    assert most == 500


def test_a_quick_branch_does_not_wait_for_a_slow_one() -> None:
    slow_ended = asyncio.Event()

    async def slow(task: Any, inbox: Inbox) -> None:
        await slow_ended.wait()

    async def release(task: Any, inbox: Inbox) -> None:
        slow_ended.set()

    graph = Graph()
    graph.add("slow", slow)
    graph.add("quick", says(1))
    graph.add("after quick", release, ["quick"])
    assert run(graph).failures == []


def test_a_failure_stays_where_it_is_and_what_needs_it_is_skipped() -> None:
    graph = Graph()
    graph.add("bad", fail)
    graph.add("good", says("hello"))
    graph.add("needs both", gather, ["bad", "good"])
    graph.add("after", gather, ["needs both"])
    graph.add("takes what comes", gather, ["bad", "good"], needs_all=False)
    result = run(graph)
    assert result.failures == [("bad", "no answer")]
    states = {name: outcome.state for name, outcome in result.outcomes.items()}
    assert states["needs both"] == states["after"] == State.SKIPPED
    assert result.message("takes what comes") == {"good": "hello"}
    assert result.outcomes["needs both"].error == "bad has no message"


def test_a_node_that_takes_what_comes_is_skipped_when_nothing_came() -> None:
    graph = Graph()
    graph.add("bad", fail)
    graph.add("end", gather, ["bad"], needs_all=False)
    assert run(graph).outcomes["end"].state is State.SKIPPED


def test_a_node_that_hangs_fails_after_its_time() -> None:
    graph = Graph()
    graph.add("stuck", hang, timeout_s=0.05)
    graph.add("end", gather, ["stuck"])
    assert run(graph).failures == [("stuck", "not done within 0.05 s")]


def test_any_exception_is_the_nodes_own() -> None:
    async def wrong(task: Any, inbox: Inbox) -> None:
        raise KeyError("x")

    async def gave_up(task: Any, inbox: Inbox) -> None:
        raise TimeoutError("inner")

    graph = Graph()
    graph.add("wrong", wrong)
    graph.add("inner timeout", gave_up, timeout_s=10)
    assert dict(run(graph).failures) == {"wrong": "KeyError: 'x'", "inner timeout": "TimeoutError: inner"}


def test_progress_hears_of_every_node() -> None:
    heard: list[Outcome] = []
    graph = Graph()
    graph.add("bad", fail)
    graph.add("end", gather, ["bad"])
    asyncio.run(graph.run(on_node=heard.append))
    assert [(outcome.node, outcome.state) for outcome in heard] == [("bad", "failed"), ("end", "skipped")]


def test_names_are_unique_and_edges_point_backwards() -> None:
    graph = Graph()
    graph.add("a", says(1))
    with pytest.raises(ValueError, match="already"):
        graph.add("a", says(1))
    with pytest.raises(ValueError, match="not in the graph"):
        graph.add("b", says(1), ["c"])


def test_an_embedded_graph_keeps_its_edges_and_limits() -> None:
    inner = Graph()
    inner.add("first", gather, kind="question")
    inner.add("second", hang, ["first"], timeout_s=0.05)
    outer = Graph()
    outer.add("start", says("go"))
    assert outer.embed("agent", inner, ["start"]) == ["agent/second"]
    result = run(outer)
    assert result.message("agent/first") == {"start": "go"}
    assert result.failures == [("agent/second", "not done within 0.05 s")]


def one_node(operation: Operation) -> Graph:
    graph = Graph()
    graph.add("answer", operation)
    return graph


def test_a_swarm_votes_and_does_without_those_who_failed() -> None:
    operations = [says("B"), says("A"), fail, says("A"), says(None)]
    graph = swarm({f"agent {index}": one_node(each) for index, each in enumerate(operations)}, vote)
    result = run(graph)
    assert result.message("decision") == "A"
    assert result.failures == [("agent 2/answer", "no answer")]


def test_a_swarm_in_which_nobody_votes_has_no_decision() -> None:
    result = run(swarm({"a": one_node(says(None))}, vote))
    assert result.failures == [("decision", "nobody voted")]


@given(st.lists(st.sampled_from("ABCD")))
def test_the_majority_is_the_first_of_the_most_frequent(votes: list[str]) -> None:
    winner = majority(votes)
    if votes:
        most = max(votes.count(each) for each in votes)
        assert winner == next(each for each in votes if votes.count(each) == most)
    else:
        assert winner is None


@pytest.mark.parametrize("decision", ["consistent", "best"])
def test_the_model_chooses_among_the_answers_it_is_shown(decision: str) -> None:
    asker = ScriptedAsker(lambda call: json.dumps({"choice": 2}))
    decide = asked(asker, decision, agent=lambda task: f"judge/{task}", describe=lambda task: f"What is {task}?")
    graph = swarm({name: one_node(says(name)) for name in ("x", "y", "z")}, decide)
    assert run(graph, "it").message("decision") == "y"
    (call,) = asker.calls
    assert call.agent == "judge/it"
    assert call.last == "The question: What is it?\nAnswer 1: x\nAnswer 2: y\nAnswer 3: z"
    assert call.schema is not None
    assert call.schema["properties"]["choice"]["maximum"] == 3


@pytest.mark.parametrize("text", [None, "hm", '{"choice": 9}', '{"choice": "x"}', '{"choice": true}'])
def test_a_choice_that_is_none_falls_to_the_majority(text: str | None) -> None:
    asker = ScriptedAsker(lambda call: text)
    graph = swarm({name: one_node(says(name[0])) for name in ("a", "b1", "b2")}, asked(asker, "best", str))
    assert run(graph).message("decision") == "b"


def test_equal_answers_need_no_choice() -> None:
    def script(call: Call) -> str:
        raise AssertionError("asked")

    graph = swarm({name: one_node(says("same")) for name in "ab"}, asked(ScriptedAsker(script), "best", str))
    assert run(graph).message("decision") == "same"


def boxes(svg: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}g")


def test_a_drawing_shows_every_node_and_what_became_of_it() -> None:
    graph = Graph()
    graph.add("<bad> & odd", fail)
    graph.add("end", gather, ["<bad> & odd"])
    svg = draw(graph, run(graph))
    titles = [box[0].text or "" for box in boxes(svg)]
    assert titles[0].startswith("<bad> & odd (<bad> & odd)\nfailed")
    assert titles[1].startswith("end (end)\nskipped")
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_edges_point_to_the_right_and_a_column_of_thousands_is_cut() -> None:
    graph = Graph()
    graph.add("start", says(0))
    for index in range(2000):
        graph.add(f"agent {index}", says(index), ["start"])
    graph.add("end", vote, [f"agent {index}" for index in range(2000)])
    svg = draw(graph)
    assert len(boxes(svg)) < 30
    assert "and 1977 more" in svg
    x = {(box[2].text or ""): float(box[1].attrib["x"]) for box in boxes(svg)}
    assert x["start"] < x["agent 0"] < x["end"]


def test_a_drawing_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_drawing(tmp_path / "new" / "graph.svg", one_node(says(1)))
    assert (tmp_path / "new" / "graph.svg").read_text().startswith("<svg ")
    with pytest.raises(UserError, match="choose another file"):
        write_drawing(tmp_path, one_node(says(1)))
