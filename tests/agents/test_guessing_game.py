"""The guessing game: rules, reading of answers, retries, and conversations that only grow."""

import asyncio
import itertools
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.agents.endpoint import Message, RequestRecord
from elmas.agents.guessing_game import NO_ANSWER, GameResult, GameSettings, play, score
from elmas.agents.guessing_prompts import ANSWER_PATTERN, answer_options, parse_guess
from elmas.agents.personas import personas
from elmas.errors import UserError

SETTINGS = GameSettings(n_participants=6, n_rounds=3, seed=1)


def answered(text: str) -> RequestRecord:
    return RequestRecord(0.0, 1.0, (0.5,), prompt_tokens=10, completion_tokens=5, text=text)


def failed(error: str = "HTTP 503: busy") -> RequestRecord:
    return RequestRecord(0.0, 1.0, error=error)


class Model:
    """Answers from a function of participant and round, and keeps what it was asked."""

    def __init__(self, answer: Callable[[int, int], RequestRecord]) -> None:
        self.answer = answer
        self.asked: list[list[Message]] = []
        self.participants: dict[str, int] = {}
        self.running = self.most_running = 0

    async def __call__(self, messages: Sequence[Message]) -> RequestRecord:
        self.asked.append([dict(message) for message in messages])
        participant = self.participants.setdefault(messages[1]["content"], len(self.participants))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.running -= 1
        return self.answer(participant, sum(message["role"] == "assistant" for message in messages))


def run(model: Model, settings: GameSettings = SETTINGS, delays_s: Sequence[float] = (0.0, 0.0)) -> GameResult:
    return asyncio.run(play(settings, model, retry_delays_s=delays_s))


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("I take half of it. My guess: 42", 42),
        ("My guess: 5. No, wait. My guess: 7", 7),
        ("My guess: 0", 0),
        ("My guess: 100", 100),
        ("My guess: 101", None),
        ("I saw 20 and 30, so 17", 17),
        ("It must be 3.5", None),
        ("about 66, after 33.3", 66),
        ("-4", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_answers_are_read_reliably(text: str, guess: int | None) -> None:
    assert parse_guess(text) == guess


@given(st.from_regex(re.compile(ANSWER_PATTERN, re.ASCII), fullmatch=True))
def test_every_enforced_answer_is_a_legal_guess(text: str) -> None:
    assert parse_guess(text) is not None


def test_answers_are_greedy_and_only_constrained_where_the_endpoint_can_do_it() -> None:
    assert answer_options()["temperature"] == 0.0
    assert answer_options()["structured_outputs"] == {"regex": ANSWER_PATTERN}
    assert "structured_outputs" not in answer_options(structured=False)
    assert "seed" not in answer_options()  # see its docstring: it can kill a server


def test_the_winner_is_nearest_to_two_thirds_of_the_average() -> None:
    answers = [(answered(f"My guess: {guess}"),) for guess in (10, 40, 70, 28)]
    outcome = score(GameSettings(4, 1), answers)
    assert outcome.average == pytest.approx(37.0)
    assert outcome.target == pytest.approx(24.6667, abs=1e-4)
    assert outcome.winning_guess == 28
    assert outcome.winners == [3]
    assert [turn.distance for turn in outcome.turns] == pytest.approx([14.6667, 15.3333, 45.3333, 3.3333], abs=1e-4)


def test_equally_near_players_all_win() -> None:
    # Average 15, target 10: 9 and 11 are equally near, and so is the second 11.
    answers = [(answered(f"My guess: {guess}"),) for guess in (9, 11, 11, 29)]
    outcome = score(GameSettings(4, 1), answers)
    assert outcome.target == pytest.approx(10.0)
    assert outcome.winners == [0, 1, 2]
    assert outcome.winning_guess == 9


def test_invalid_answers_count_neither_in_the_average_nor_as_winner() -> None:
    answers = [(answered("My guess: 30"),), (answered("none"),), (answered("My guess: 900"),), (failed(),)]
    outcome = score(GameSettings(4, 1), answers)
    assert outcome.average == 30.0
    assert [turn.guess for turn in outcome.turns] == [30, None, None, None]
    assert outcome.winners == [0]


def test_a_round_without_a_legal_guess_has_no_result_and_the_game_goes_on() -> None:
    model = Model(lambda participant, index: answered("none" if index == 0 else "My guess: 3"))
    result = run(model)
    assert result.rounds[0].target is None
    assert result.rounds[0].winners == []
    assert result.rounds[1].winners == list(range(6))
    assert "Nobody named a legal number" in result.conversations[0][3]["content"]


def test_conversations_only_grow_and_roles_take_turns() -> None:
    model = Model(lambda participant, index: answered(f"My guess: {10 * participant + index}"))
    result = run(model)
    by_round = [model.asked[6 * index : 6 * index + 6] for index in range(3)]
    for earlier, later in itertools.pairwise(by_round):
        for before, after in zip(earlier, later, strict=True):
            assert after[: len(before)] == before
            assert len(after) == len(before) + 2
    for conversation in result.conversations:
        assert [message["role"] for message in conversation] == ["system"] + ["user", "assistant"] * 3
    systems = {conversation[0]["content"] for conversation in result.conversations}
    assert len(systems) == 1


def test_everybody_hears_the_result_and_their_own_distance() -> None:
    model = Model(lambda participant, index: answered(f"My guess: {10 * participant}"))
    result = run(model)
    told = [conversation[3]["content"] for conversation in result.conversations]
    # Average 25, target 16.67: 20 wins.
    assert all("average was 25.00" in text and "target was 16.67" in text and "won was 20" in text for text in told)
    assert "You won: your number 20 was 3.33 away" in told[2]
    assert "Your number was 50, which is 33.33 away" in told[5]


def test_all_participants_of_a_round_answer_at_once() -> None:
    model = Model(lambda participant, index: answered("My guess: 1"))
    run(model)
    assert model.most_running == 6


def test_equal_settings_ask_the_same_and_another_seed_asks_others() -> None:
    def asked(settings: GameSettings) -> list[list[Message]]:
        model = Model(lambda participant, index: answered(f"My guess: {participant}"))
        run(model, settings)
        return model.asked

    assert asked(SETTINGS) == asked(GameSettings(6, 3, seed=1))
    assert asked(SETTINGS) != asked(GameSettings(6, 3, seed=2))


def test_a_failing_call_is_repeated_and_every_attempt_is_kept() -> None:
    n_failures = {0: 2}

    def answer(participant: int, index: int) -> RequestRecord:
        if n_failures.get(participant, 0) > 0:
            n_failures[participant] -= 1
            return failed()
        return answered("My guess: 5")

    result = run(Model(answer))
    attempts = result.rounds[0].turns[0].attempts
    assert [record.error is None for record in attempts] == [False, False, True]
    assert result.failures == []
    assert len(result.records) == 6 * 3 + 2


def test_a_call_that_keeps_failing_is_reported_and_the_others_play_on() -> None:
    model = Model(lambda participant, index: failed() if participant == 2 else answered("My guess: 5"))
    result = run(model)
    assert result.failures == [(index, 2, "HTTP 503: busy") for index in range(3)]
    assert result.conversations[2][2]["content"] == NO_ANSWER
    assert all(each.average == 5.0 for each in result.rounds)
    assert len(result.rounds[0].turns[2].attempts) == 3


def test_back_off_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr("elmas.agents.guessing_game.asyncio.sleep", sleep)

    async def complete(messages: Sequence[Message]) -> RequestRecord:
        return failed()

    asyncio.run(play(GameSettings(1, 1), complete))
    assert waited == sorted(waited)
    assert len(set(waited)) == len(waited) == 3


def test_progress_is_told_per_round_and_per_participant() -> None:
    rounds: list[int] = []
    n_answers = 0

    def on_answer() -> None:
        nonlocal n_answers
        n_answers += 1

    model = Model(lambda participant, index: answered("My guess: 5"))
    asyncio.run(play(SETTINGS, model, rounds.append, on_answer))
    assert rounds == [0, 1, 2]
    assert n_answers == 18


def test_the_dump_holds_guesses_and_timings() -> None:
    dump = run(Model(lambda participant, index: answered(f"My guess: {participant}"))).to_json()
    assert dump["rounds"][0]["guesses"] == list(range(6))
    assert dump["rounds"][0]["calls"][0][0]["ttft_s"] == 0.5


def test_a_game_without_anybody_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        GameSettings(0, 3)


def test_hundreds_of_personas_are_all_different_and_reproducible() -> None:
    people = personas(2000, seed=3)
    assert len(set(people)) == 2000
    assert people == personas(2000, seed=3)
    assert people != personas(2000, seed=4)
