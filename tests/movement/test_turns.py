"""A held request's turn comes when one has passed it, and its deadline runs from then on; against a plain list."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.movement.turns import Turns

MAX_WAIT_S = 2.0

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["hold", "hold", "begun", "begun", "release", "come", "look"]), st.integers(0, 5)),
    max_size=80,
)


@dataclass
class Held:
    """A held request: how many have to begin before it is passed, and when its turn came."""

    name: str
    n_to_begin: int
    turn_s: float | None = None
    was_reported: bool = False


@settings(max_examples=200, derandomize=True)
@given(actions=ACTIONS, grace_s=st.sampled_from([0.0, 0.5]))
def test_turns_come_in_line_and_each_deadline_is_reported_once(actions: list[tuple[str, int]], grace_s: float) -> None:
    turns, line, now_s, n_held = Turns(MAX_WAIT_S), list[Held](), 0.0, 0
    for action, number in actions:
        now_s += 0.25
        if action == "hold":
            name = f"request-{n_held}"
            n_held += 1
            turns.hold(name, number)
            line.append(Held(name, number + 1))
        elif action == "begun":
            turns.begun(now_s)
            for held in line:
                held.n_to_begin -= 1
            for held in line:
                if held.n_to_begin > 0:
                    break  # those behind it in line come after it
                held.turn_s = held.turn_s if held.turn_s is not None else now_s
        elif action == "release" and line:
            turns.release(line.pop(number % len(line)).name)
        elif action == "come" and line:
            held = line[number % len(line)]
            turns.come(held.name, now_s)
            held.turn_s = held.turn_s if held.turn_s is not None else now_s
        elif action == "look":
            late = [h for h in line if h.turn_s is not None and h.turn_s + MAX_WAIT_S + grace_s <= now_s]
            assert sorted(turns.overdue(now_s, grace_s)) == sorted(h.name for h in late if not h.was_reported)
            for held in late:
                held.was_reported = True


@pytest.mark.parametrize("n_ahead", [0, 3])
def test_nobody_is_late_before_another_has_passed_it(n_ahead: int) -> None:
    turns = Turns(MAX_WAIT_S)
    turns.hold("a", n_ahead)
    for _ in range(n_ahead):
        turns.begun(1.0)
    assert turns.overdue(100.0, 0.0) == []
    turns.begun(100.0)
    assert turns.overdue(101.9, 0.0) == []
    assert turns.overdue(102.0, 0.0) == ["a"]
    assert turns.overdue(200.0, 0.0) == []


def test_a_turn_that_has_come_already_does_not_come_again() -> None:
    turns = Turns(MAX_WAIT_S)
    turns.hold("a", 0)
    turns.come("a", 1.0)
    turns.come("a", 2.5)
    turns.begun(2.8)
    assert turns.overdue(3.0, 0.0) == ["a"]


def test_a_request_that_was_released_and_is_held_again_has_a_deadline_of_its_own() -> None:
    turns = Turns(MAX_WAIT_S)
    turns.hold("a", 0)
    turns.come("a", 0.0)
    turns.release("a")
    turns.come("a", 0.5)
    turns.hold("a", 4)
    assert turns.overdue(3.0, 0.0) == []
    turns.come("a", 4.0)
    assert turns.overdue(5.9, 0.0) == []
    assert turns.overdue(6.0, 0.0) == ["a"]


def test_a_gone_request_keeps_nobody_behind_it_from_their_turn() -> None:
    turns = Turns(MAX_WAIT_S)
    turns.hold("a", 5)
    turns.hold("b", 0)
    turns.release("a")
    turns.begun(1.0)
    assert turns.overdue(3.0, 0.0) == ["b"]
