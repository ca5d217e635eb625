"""The town: what is asked and in which order, memory, talk, and a run that no answer can stop."""

import asyncio
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.endpoint import Message
from elmas.agents.model import NOTHING_KNOWN, Answer, Expect
from elmas.agents.relevance import Bm25, words
from elmas.agents.town.memory import HOURLY_DECAY, Memory, MemoryStream
from elmas.agents.town.people import MOST_PEOPLE, make_people
from elmas.agents.town.places import PUBLIC, Town
from elmas.agents.town.prompts import Kind, ask_poignancy, ask_sector, ask_triple
from elmas.agents.town.result import TownResult, TownSettings
from elmas.agents.town.simulation import ATTENTION, play
from elmas.errors import UserError

SETTINGS = TownSettings(n_agents=20, n_ticks=12, seed=3)
WORDS = ("bread", "oven", "boat", "bee", "letter", "plum")
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


def by_plan(kind: str, asked: str, schema: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
    """An answer as a sensible model gives it: people go where they work, and news matter."""
    if kind == Kind.SECTOR:
        return {"sector": asked.split(" at the ")[1].split(" and lives")[0]}
    if kind == Kind.OBJECT:
        return {"object": draw.choice(schema["properties"]["object"]["enum"])}
    if kind == Kind.PRONUNCIATIO:
        return {"signs": "🍞"}
    if kind == Kind.TRIPLE:
        return {"predicate": "does", "object": asked.split(" is ")[1].split()[0]}
    return {"poignancy": 2 if "(" in asked else 8}


class Asker(ScriptedAsker):
    """Its answers come in another order than the questions, and not in the same one each time."""

    async def ask(self, agent: str, messages: Sequence[Message], **options: Any) -> Answer:
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        return await super().ask(agent, messages, **options)


Choose = Callable[[str, str, Mapping[str, Any], random.Random], dict[str, Any]]


def asker_that(choose: Choose) -> Asker:
    """Return an asker that is told the kind, what varies in the question and the schema."""

    def script(call: Call) -> str:
        assert call.schema is not None
        draw = random.Random(f"{call.agent}{call.messages}")
        return json.dumps(choose(call.agent.rsplit("/", 1)[1], call.last, call.schema, draw))

    return Asker(script)


def run(asker: Asker, settings: TownSettings = SETTINGS) -> TownResult:
    return asyncio.run(play(settings, asker))


@pytest.fixture(scope="module")
def played() -> tuple[Asker, TownResult]:
    asker = asker_that(by_plan)
    return asker, run(asker)


@pytest.fixture
def asker(played: tuple[Asker, TownResult]) -> Asker:
    return played[0]


@pytest.fixture
def result(played: tuple[Asker, TownResult]) -> TownResult:
    return played[1]


def test_equal_settings_give_the_same_town_whatever_answer_comes_first(result: TownResult) -> None:
    again = run(asker_that(by_plan))
    assert json.dumps(again.to_json()) == json.dumps(result.to_json())
    other = run(asker_that(by_plan), TownSettings(n_agents=20, n_ticks=12, seed=4))
    assert other.people != result.people


def test_an_action_begins_with_sector_object_pronunciatio_and_triple_in_this_order(result: TownResult) -> None:
    kinds: defaultdict[tuple[int, int], list[Kind]] = defaultdict(list)
    for decision in result.decisions:
        kinds[decision.person, decision.tick].append(decision.kind)
    n_begun = 0
    for (person, tick), asked in kinds.items():
        n_events = asked.count(Kind.POIGNANCY)
        assert asked[:n_events] == [Kind.POIGNANCY] * n_events
        assert n_events <= ATTENTION
        begins = result.actions[tick][person].since_tick == tick
        assert asked[n_events:] == ([Kind.SECTOR, Kind.OBJECT, Kind.PRONUNCIATIO, Kind.TRIPLE] if begins else [])
        n_begun += begins
    assert n_begun >= 2 * SETTINGS.n_agents
    assert result.n_calls[Kind.POIGNANCY] > n_begun / 2


def test_every_kind_is_asked_with_a_shared_beginning_and_in_a_session_of_its_own(asker: Asker) -> None:
    beginnings: defaultdict[str, set[str]] = defaultdict(set)
    for call in asker.calls:
        _, person, kind = call.agent.split("/")
        beginnings[kind if kind != Kind.POIGNANCY else f"{kind} of {person}"].add(call.messages[0]["content"])
    assert all(len(found) == 1 for found in beginnings.values())
    # As recorded: sector, object and triple share much, pronunciatio little, poignancy only with the same person.
    lengths = {kind: len(next(iter(found))) for kind, found in beginnings.items()}
    assert lengths["sector"] > lengths["object"] > lengths["triple"] > 400 > lengths["pronunciatio"]


def test_all_agents_of_a_tick_ask_at_once(asker: Asker) -> None:
    assert asker.most_running >= SETTINGS.n_agents


def test_sessions_that_end_say_so_and_others_when_they_come_back(asker: Asker) -> None:
    said: defaultdict[str, list[Expect]] = defaultdict(list)
    for call in asker.calls:
        said[call.agent].append(call.expect)
    for agent, expected in said.items():
        if agent.endswith(Kind.POIGNANCY):
            assert set(expected) == {NOTHING_KNOWN}, "nobody knows when something happens"
        else:
            assert expected == [Expect(rounds_to_next=1)] * (len(expected) - 1) + [Expect(done=True)]


def test_people_go_where_the_model_sends_them_and_use_what_is_there(result: TownResult) -> None:
    town = Town(SETTINGS.n_agents)
    for actions in result.actions:
        for person, action in zip(result.people, actions, strict=True):
            assert action.place.sector == person.workplace
            assert action.place.thing in town.things(action.place)


def test_what_happens_is_seen_by_who_is_there_and_told_to_others(result: TownResult) -> None:
    assert result.news
    heard = [memory for memories in result.memories for memory in memories if memory.heard_from is not None]
    for news in result.news:
        for person in result.known_by(news):
            mine = [memory for memory in result.memories[person] if memory.news == news.number]
            assert len(mine) == 1, "the same news is remembered once"
            at_work = result.people[person].workplace == news.place.sector
            assert at_work or mine[0].heard_from is not None
    names = {person.name for person in result.people}
    assert {memory.heard_from for memory in heard} <= names


def test_news_travel_by_word_of_mouth() -> None:
    def back_and_forth(kind: str, asked: str, schema: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
        if kind == Kind.SECTOR and "Now in: Market" not in asked:
            return {"sector": "Market Square"}
        return by_plan(kind, asked, schema, draw)

    found = run(asker_that(back_and_forth), TownSettings(n_agents=20, n_ticks=24, seed=3))
    told = [m for memories in found.memories for m in memories if m.news is not None and m.heard_from is not None]
    assert told
    assert all(f"{memory.heard_from} said that" in memory.sentence for memory in told)


def test_what_is_remembered_is_told_when_a_place_is_chosen(asker: Asker, result: TownResult) -> None:
    sentences = {memory.sentence for memories in result.memories for memory in memories}
    thoughts = [
        call.last.split("On the mind: ")[1].split("\n")[0] for call in asker.calls if call.agent.endswith(Kind.SECTOR)
    ]
    assert set("; ".join(thoughts).split("; ")) <= sentences | {"nothing special"}
    assert sum(thought != "nothing special" for thought in thoughts) > SETTINGS.n_agents


def test_grave_news_that_are_only_heard_make_people_go_and_see() -> None:
    def grave(kind: str, asked: str, schema: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
        if kind == Kind.POIGNANCY:
            return {"poignancy": 10 if "(" not in asked else 1}
        answer = by_plan(kind, asked, schema, draw)
        return {"sector": "Market Square"} if kind == Kind.SECTOR and draw.random() < 0.6 else answer

    found = run(asker_that(grave), TownSettings(n_agents=30, n_ticks=24, seed=1))
    errands = [action for actions in found.actions for action in actions if action.activity.startswith("finding out")]
    assert errands
    heard = {m.text for memories in found.memories for m in memories if m.heard_from is not None and m.news is not None}
    assert {action.activity.split("true that ")[1] for action in errands} <= heard


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"sector": "Moon", "object": 3, "poignancy": 11, "signs": ""}'])
def test_answers_of_no_use_are_counted_and_the_plan_is_followed(text: str) -> None:
    found = run(Asker(lambda call: text))
    assert len(found.illegal) == len(found.decisions) > 0
    assert not found.failures
    home_or_work = {sector for person in found.people for sector in (person.home, *PUBLIC)}
    assert {action.place.sector for actions in found.actions for action in actions} <= home_or_work
    assert len(found.actions) == SETTINGS.n_ticks


def test_a_model_that_never_answers_does_not_stop_the_town() -> None:
    found = run(Asker(lambda call: None))
    assert len(found.failures) == len(found.decisions) > 0
    assert found.to_json()["decisions"][0]["error"] == "HTTP 503: busy"


def test_progress_is_told_per_tick() -> None:
    seen: list[tuple[int, int]] = []
    asyncio.run(play(SETTINGS, asker_that(by_plan), lambda tick, actions: seen.append((tick, len(actions)))))
    assert seen == [(tick, SETTINGS.n_agents) for tick in range(SETTINGS.n_ticks)]


@pytest.mark.parametrize("change", [{"n_agents": 0}, {"n_agents": MOST_PEOPLE + 1}, {"n_ticks": 0}])
def test_a_town_that_cannot_be_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(UserError):
        TownSettings(**change)


def test_everybody_has_another_name_a_home_and_a_whole_day() -> None:
    people = make_people(MOST_PEOPLE, seed=5)
    assert len({person.name for person in people}) == MOST_PEOPLE
    town = Town(MOST_PEOPLE)
    for person in people:
        starts = [activity.start_minute for activity in person.plan]
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        assert starts[-1] < 24 * 60
        assert {person.home, person.workplace} | {activity.sector for activity in person.plan} <= set(town.sectors)
        assert person.activity_at(24 * 60 + 3) is person.plan[0]
    assert max(Counter(person.home for person in people).values()) == 4


def test_the_arena_is_the_one_that_the_activity_speaks_of() -> None:
    town = Town(1)
    assert town.arena_for("Bakery", "taking loaves out of the oven").arena == "bakehouse"
    assert town.arena_for("Tavern", "cooking a soup on the stove").arena == "kitchen"
    assert town.arena_for("Clinic", "dreaming").arena == next(iter(PUBLIC["Clinic"]))


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ({"poignancy": 7}, (7,)),
        ({"poignancy": 7, "why": "x"}, (7,)),
        ({"poignancy": 0}, None),
        ({"poignancy": True}, None),
        ({"poignancy": "7"}, None),
        ([7], None),
        (None, None),
    ],
)
def test_only_legal_ratings_are_read(data: object, values: tuple[int] | None) -> None:
    assert ask_poignancy(make_people(1, 0)[0], "nothing").read(data) == values


def test_only_places_of_the_list_and_short_texts_are_read() -> None:
    person = make_people(1, 0)[0]
    sector = ask_sector(person, "Bakery", [], ["Bakery", "School"], "resting")
    assert sector.read({"sector": "School"}) == ("School",)
    assert sector.read({"sector": "Tavern"}) is None
    triple = ask_triple(person.name, "resting", "bench")
    assert triple.read({"predicate": "rests on", "object": "bench"}) == ("rests on", "bench")
    assert triple.read({"predicate": "rests on"}) is None
    assert triple.read({"predicate": "rests\non", "object": "bench"}) is None
    assert triple.read({"predicate": "r" * 99, "object": "bench"}) is None


@given(st.lists(texts, min_size=1, max_size=8), texts)
def test_relevance_is_bm25_by_its_definition(documents: list[str], query: str) -> None:
    index = Bm25()
    for document in documents:
        index.add(document)
    split = [document.split() for document in documents]
    mean = max(1.0, sum(map(len, split)) / len(split))
    for score, document in zip(index.scores(query), split, strict=True):
        expected = 0.0
        for word in set(query.split()):
            n_with = sum(word in other for other in split)
            if n_with:
                idf = math.log(1 + (len(split) - n_with + 0.5) / (n_with + 0.5))
                n = document.count(word)
                expected += idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * len(document) / mean))
        assert score == pytest.approx(expected)


def test_words_are_those_that_say_something() -> None:
    assert words("The bees of Ada's sheds, and what the glass was") == ["bee", "ada", "s", "shed", "glass"]


@given(st.lists(st.tuples(st.integers(0, 600), texts, st.integers(1, 10)), max_size=12), texts, st.integers(0, 5))
def test_memories_are_recalled_by_recency_importance_and_relevance(
    entries: list[tuple[int, str, int]], query: str, n: int
) -> None:
    stream = MemoryStream()
    index = Bm25()
    for minute, text, poignancy in sorted(entries):
        stream.add(Memory(minute, text, poignancy))
        index.add(text)
    ordered = sorted(entries)

    def scaled(values: list[float]) -> list[float]:
        span = max(values) - min(values)
        return [(value - min(values)) / span if span else 0.0 for value in values]

    expected = []
    if ordered:
        parts = [
            scaled([HOURLY_DECAY ** ((600 - minute) / 60) for minute, _, _ in ordered]),
            scaled([float(poignancy) for _, _, poignancy in ordered]),
            scaled(index.scores(query)),
        ]
        scores = [sum(each) for each in zip(*parts, strict=True)]
        expected = sorted(scores, reverse=True)[:n]
        found = stream.retrieve(query, 600, n)
        positions = [next(i for i, m in enumerate(stream.memories) if m is memory) for memory in found]
        assert [scores[position] for position in positions] == pytest.approx(expected)
        assert len(set(positions)) == len(positions) == min(n, len(ordered))
    else:
        assert stream.retrieve(query, 600, n) == []


def test_what_was_recalled_is_recent_again() -> None:
    stream = MemoryStream()
    stream.add(Memory(0, "bread", 6))
    stream.add(Memory(60, "boat", 5))
    # Importance speaks for one and recency for the other: the newer one wins, until the older one was recalled.
    assert [memory.text for memory in stream.retrieve("nothing", 120, 1)] == ["boat"]
    assert [memory.text for memory in stream.retrieve("bread", 180, 1)] == ["bread"]
    assert [memory.text for memory in stream.retrieve("nothing", 240, 1)] == ["bread"]
