"""The guessing game: rules, reading of answers, failures, and conversations that only grow."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.endpoint import RequestRecord
from elmas.agents.guessing.game import GameResult, GameSettings, Said, score
from elmas.agents.guessing.play import NO_ANSWER, play
from elmas.agents.guessing.plot import write_guesses_plot
from elmas.agents.guessing.prompts import parse_guess
from elmas.agents.model import Answer, Expect
from elmas.agents.personas import personas
from elmas.errors import UserError

SETTINGS = GameSettings(n_participants=6, n_rounds=3, seed=1)


def guess(number: int | str) -> str:
    return json.dumps({"reason": "so it is", "guess": number})


def said(number: int | None, error: str | None = None) -> Said:
    return Said(number, (RequestRecord(0.0, 1.0, (0.5,), error=error),), error)


def player_of(call: Call) -> int:
    return int(call.agent.split("/")[1])


def round_of(call: Call) -> int:
    return sum(message["role"] == "assistant" for message in call.messages)


def run(
    script: Callable[[int, int], str | None], settings: GameSettings = SETTINGS
) -> tuple[GameResult, ScriptedAsker]:
    """Play with answers from a function of player and round."""
    asker = ScriptedAsker(lambda call: script(player_of(call), round_of(call)))
    return asyncio.run(play(settings, asker)), asker


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (guess(42), 42),
        (guess(0), 0),
        (guess(100), 100),
        (guess(101), None),
        (guess(-1), None),
        (guess("17"), 17),
        ('{"guess": 33.0}', 33),
        ('{"guess": 33.5}', None),
        ('{"guess": true}', None),
        ('{"reason": "50 is', 50),
        ("I take half of it. My guess: 42", 42),
        ("I saw 20 and 30, so 17", 17),
        ("It must be 3.5", None),
        ("about 66, after 33.3", 66),
        ("-4", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_answers_are_read_reliably(text: str, number: int | None) -> None:
    assert parse_guess(Answer(text, ()), 100) == number


@given(st.text())
def test_any_text_is_a_legal_guess_or_none(text: str) -> None:
    number = parse_guess(Answer(text, ()), 100)
    assert number is None or 0 <= number <= 100


def test_the_winner_is_nearest_to_two_thirds_of_the_average() -> None:
    outcome = score(GameSettings(4, 1), [said(number) for number in (10, 40, 70, 28)])
    assert outcome.average == pytest.approx(37.0)
    assert outcome.target == pytest.approx(24.6667, abs=1e-4)
    assert outcome.winning_guess == 28
    assert outcome.winners == [3]
    assert [turn.distance for turn in outcome.turns] == pytest.approx([14.6667, 15.3333, 45.3333, 3.3333], abs=1e-4)


def test_equally_near_players_all_win() -> None:
    # Average 15, target 10: 9 and 11 are equally near, and so is the second 11.
    outcome = score(GameSettings(4, 1), [said(number) for number in (9, 11, 11, 29)])
    assert outcome.target == pytest.approx(10.0)
    assert outcome.winners == [0, 1, 2]
    assert outcome.winning_guess == 9


def test_invalid_answers_count_neither_in_the_average_nor_as_winner() -> None:
    outcome = score(GameSettings(4, 1), [said(30), said(None), said(None, "HTTP 503: busy")])
    assert outcome.average == 30.0
    assert outcome.winners == [0]


def test_a_round_without_a_legal_guess_has_no_result_and_the_game_goes_on() -> None:
    result, _ = run(lambda player, index: "none" if index == 0 else guess(3))
    assert result.rounds[0].target is None
    assert result.rounds[0].winners == []
    assert result.rounds[1].winners == list(range(6))
    assert "Nobody named a legal number" in result.conversations[0][3]["content"]


@pytest.mark.parametrize("thinks_aloud", [False, True])
def test_conversations_only_grow_and_roles_take_turns(thinks_aloud: bool) -> None:
    result, asker = run(
        lambda player, index: guess(10 * player + index), GameSettings(6, 3, thinks_aloud=thinks_aloud, seed=1)
    )
    for player in range(6):
        calls = [call.messages for call in asker.calls if call.agent == f"guessing-game/{player}"]
        assert len(calls) == 3
        for before, after in itertools.pairwise(calls):
            assert after[: len(before)] == before
            assert len(after) == len(before) + 2
    for conversation in result.conversations:
        assert [message["role"] for message in conversation] == ["system"] + ["user", "assistant"] * 3
    assert len({conversation[0]["content"] for conversation in result.conversations}) == 1


def test_everybody_hears_the_result_and_their_own_distance() -> None:
    result, _ = run(lambda player, index: guess(10 * player))
    told = [conversation[3]["content"] for conversation in result.conversations]
    # Average 25, target 16.67: 20 wins.
    assert all("average was 25.00" in text and "target was 16.67" in text and "won was 20" in text for text in told)
    assert "You won: your number 20 was 3.33 away" in told[2]
    assert "Your number was 50, which is 33.33 away" in told[5]


def test_answers_are_bound_by_a_schema_with_the_largest_number() -> None:
    _, asker = run(lambda player, index: guess(7), GameSettings(2, 1, max_number=30, ratio=0.5))
    schema = asker.calls[0].schema
    assert schema is not None
    assert schema["properties"]["guess"] == {"type": "integer", "minimum": 0, "maximum": 30}
    assert "from 0 to 30" in asker.calls[0].messages[0]["content"]
    assert "0.5 times" in asker.calls[0].messages[0]["content"]


def test_all_participants_of_a_round_answer_at_once() -> None:
    _, asker = run(lambda player, index: guess(1))
    assert asker.most_running == 6


def test_who_thinks_aloud_is_read_by_a_second_call_in_a_session_of_its_own() -> None:
    def script(call: Call) -> str:
        return guess(40) if "reader" in call.agent else "First, others say 60. Then 40."

    asker = ScriptedAsker(script)
    result = asyncio.run(play(GameSettings(2, 2, thinks_aloud=True, reasoning_tokens=99), asker))
    assert result.guesses == [[40, 40], [40, 40]]
    thoughts = [call for call in asker.calls if "reader" not in call.agent]
    readings = [call for call in asker.calls if "reader" in call.agent]
    assert all(call.schema is None and call.max_tokens == 99 for call in thoughts)
    assert all(call.last == "First, others say 60. Then 40." for call in readings)
    assert len({call.agent for call in readings}) == 4
    assert len(result.records) == 8


def test_the_server_learns_who_comes_back_and_who_does_not() -> None:
    _, asker = run(lambda player, index: guess(1))
    told = {round_of(call): call.expect for call in asker.calls}
    assert told == {0: Expect(rounds_to_next=1), 1: Expect(rounds_to_next=1), 2: Expect(done=True)}


def test_equal_settings_ask_the_same_and_another_seed_asks_others() -> None:
    def asked(settings: GameSettings) -> list[list[dict[str, str]]]:
        _, asker = run(lambda player, index: guess(player), settings)
        return [call.messages for call in asker.calls]

    assert asked(SETTINGS) == asked(GameSettings(6, 3, seed=1))
    assert asked(SETTINGS) != asked(GameSettings(6, 3, seed=2))


@pytest.mark.parametrize("thinks_aloud", [False, True])
def test_a_call_that_keeps_failing_is_reported_and_the_others_play_on(thinks_aloud: bool) -> None:
    result, _ = run(
        lambda player, index: None if player == 2 else guess(5), GameSettings(6, 3, thinks_aloud=thinks_aloud)
    )
    assert result.failures == [(index, 2, "HTTP 503: busy") for index in range(3)]
    assert result.conversations[2][2]["content"] == NO_ANSWER
    assert all(each.average == 5.0 for each in result.rounds)


def test_a_participant_whose_node_fails_is_reported_and_the_others_play_on() -> None:
    def script(player: int, index: int) -> str:
        if player == 2:
            raise ValueError("a mistake of the asker")
        return guess(5)

    result, _ = run(script)
    assert [failure[:2] for failure in result.failures] == [(index, 2) for index in range(3)]
    assert [each.average for each in result.rounds] == [5.0] * 3
    assert result.run is not None
    assert result.run.failures[0] == ("player 3, round 1", "ValueError: a mistake of the asker")


def test_two_thousand_participants_play_in_one_process() -> None:
    result, asker = run(lambda player, index: guess(player % 101), GameSettings(2000, 3))
    assert [len(each.turns) for each in result.rounds] == [2000] * 3
    assert len(asker.calls) == 6000


def test_progress_is_told_per_round_and_per_participant() -> None:
    heard: list[str] = []
    asker = ScriptedAsker(lambda call: guess(5))
    asyncio.run(play(SETTINGS, asker, lambda index: heard.append(f"round {index}"), lambda: heard.append("answer")))
    assert heard == [line for index in range(3) for line in (f"round {index}", *["answer"] * 6)]


def test_the_dump_holds_guesses_calls_and_conversations() -> None:
    result, _ = run(lambda player, index: guess(player))
    dump = json.loads(json.dumps(result.to_json()))
    assert dump["rounds"][0]["guesses"] == list(range(6))
    assert dump["rounds"][0]["calls"][0][0]["ttft_s"] == 0.5
    assert dump["conversations"][0][0]["role"] == "system"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_shows_the_guesses(suffix: str, tmp_path: Path) -> None:
    result, _ = run(lambda player, index: "none" if index == 1 else guess(player))
    path = tmp_path / "new" / f"plot{suffix}"
    write_guesses_plot(result, path)
    assert path.stat().st_size > 5000
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        write_guesses_plot(result, tmp_path / "plot.txt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_participants": 0}, "at least one"),
        ({"n_rounds": 0}, "at least one"),
        ({"max_number": 0}, "largest number"),
        ({"ratio": 0.0}, "2/3"),
        ({"ratio": 1.5}, "2/3"),
        ({"reasoning_tokens": 0}, "--reasoning-tokens"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GameSettings(**values)  # type: ignore[arg-type]


def test_hundreds_of_personas_are_all_different_and_reproducible() -> None:
    people = personas(2000, seed=3)
    assert len(set(people)) == 2000
    assert people == personas(2000, seed=3)
    assert people != personas(2000, seed=4)
