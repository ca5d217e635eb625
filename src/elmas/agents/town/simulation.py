"""The town in motion: every tick, each agent perceives what is around it and, when its plan says so, begins to act.

The architecture is that of Park et al., "Generative Agents" (UIST 2023), cut to the decisions that the model takes in
the recorded workload of the original: where to go (sector), what to use (object), how it looks (pronunciatio), what it
is (triple), and how much an event matters (poignancy). Plans and talks follow rules, so that everything else is the
same for the same seed.

All agents of a tick run at once and see the town as it was at the end of the tick before: the outcome does not depend
on whose answer comes first.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from elmas.agents.model import Asker, Expect
from elmas.agents.town.memory import Memory, MemoryStream
from elmas.agents.town.news import News, make_news
from elmas.agents.town.people import Activity, Person, make_people
from elmas.agents.town.places import Place, Town
from elmas.agents.town.prompts import (
    Question,
    ask_object,
    ask_poignancy,
    ask_pronunciatio,
    ask_sector,
    ask_triple,
)
from elmas.agents.town.result import Action, Decision, TownResult, TownSettings

ATTENTION = 3
"""New events that a person takes in per tick; the others are still there in the next one."""

ON_THE_MIND = 3
"""Memories that come to mind when a person decides where to go, or what to tell somebody."""

ERRAND_FROM = 9
"""The poignancy at which news that was only heard makes a person drop everything and go to see."""

_ASLEEP = "sleeping in bed"


@dataclass(frozen=True)
class _Event:
    """Something that can be perceived."""

    text: str
    heard_from: str | None = None
    news: int | None = None


@dataclass
class _Agent:
    index: int
    person: Person
    where: Place
    """The arena in which the person is."""
    memory: MemoryStream = field(default_factory=MemoryStream)
    activity: Activity | None = None
    """What it is doing; None before the first tick."""
    action: Action | None = None
    errand: Activity | None = None
    """Something that could not be planned, for the next tick."""
    heard: list[_Event] = field(default_factory=list)
    """What others told it since the last tick."""
    perceived: set[str] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def is_asleep(self) -> bool:
        return self.activity is not None and self.activity.text == _ASLEEP


async def play(
    settings: TownSettings, asker: Asker, on_tick: Callable[[int, Sequence[Action]], None] | None = None
) -> TownResult:
    """Let the town live for all ticks; `on_tick` gets each finished tick and what everybody is doing.

    Never raises for a failing or illegal answer: the person then does what the plan means, and the result says so.
    """
    run = _Run(settings, asker)
    actions = []
    for tick in range(settings.n_ticks):
        actions.append(await run.tick(tick))
        if on_tick is not None:
            on_tick(tick, actions[-1])
    decisions = sorted((d for agent in run.agents for d in agent.decisions), key=lambda d: (d.tick, d.person))
    return TownResult(
        settings=settings,
        people=tuple(agent.person for agent in run.agents),
        news=tuple(run.news),
        actions=tuple(actions),
        memories=tuple(agent.memory.memories for agent in run.agents),
        decisions=tuple(decisions),
    )


class _Run:
    """One run: the state between ticks."""

    def __init__(self, settings: TownSettings, asker: Asker) -> None:
        self._settings = settings
        self._asker = asker
        self._town = Town(settings.n_agents)
        people = make_people(settings.n_agents, settings.seed)
        self.agents = [
            _Agent(index, person, self._town.arena_for(person.home, _ASLEEP)) for index, person in enumerate(people)
        ]
        self.news: list[News] = make_news(people, settings.n_ticks, settings.seed)

    async def tick(self, tick: int) -> tuple[Action, ...]:
        """Let everybody perceive and act once, then let those who are together talk; returns what everybody does."""
        doings: defaultdict[Place, list[_Event]] = defaultdict(list)
        for agent in self.agents:
            if agent.action is not None:
                doings[agent.where].append(_Event(agent.action.seen_of(agent.person.name)))
        happenings: defaultdict[str, list[_Event]] = defaultdict(list)
        for news in self.news:
            if news.is_visible(tick):
                happenings[news.place.sector].append(_Event(news.text, news=news.number))
        # Everybody's surroundings are read before anybody moves.
        surroundings = [[*happenings[agent.where.sector], *doings[agent.where]] for agent in self.agents]
        actions = await asyncio.gather(
            *(self._live(agent, events, tick) for agent, events in zip(self.agents, surroundings, strict=True))
        )
        self._talk(tick)
        return tuple(actions)

    async def _live(self, agent: _Agent, events: Sequence[_Event], tick: int) -> Action:
        """Return what an agent does in a tick, after it has taken in what is around it."""
        if not agent.is_asleep:
            await self._perceive(agent, events, tick)
        activity = agent.errand or agent.person.activity_at(self._settings.minute(tick))
        agent.errand = None
        if agent.action is None or activity is not agent.activity:
            agent.action = await self._begin(agent, activity, tick)
            agent.activity = activity
            agent.where = Place(agent.action.place.sector, agent.action.place.arena)
        return agent.action

    async def _perceive(self, agent: _Agent, events: Sequence[_Event], tick: int) -> None:
        """Store what is new to an agent in its memory, as poignant as the model finds it."""
        new: list[_Event] = []
        for event in (*agent.heard, *events):
            if event.text not in agent.perceived and len(new) < ATTENTION:
                agent.perceived.add(event.text)
                new.append(event)
        agent.heard = [event for event in agent.heard if event.text not in agent.perceived]
        ratings = await asyncio.gather(
            *(self._decide(agent, ask_poignancy(agent.person, event.text), tick, Expect()) for event in new)
        )
        for event, (decision, values) in zip(new, ratings, strict=True):
            agent.decisions.append(decision)
            poignancy = 1 if values is None else int(values[0])
            agent.memory.add(Memory(self._settings.minute(tick), event.text, poignancy, event.heard_from, event.news))
            if event.news is not None and event.heard_from is not None and poignancy >= ERRAND_FROM:
                sector = self.news[event.news].place.sector
                agent.errand = Activity(0, f"finding out whether it is true that {event.text}", sector)

    async def _begin(self, agent: _Agent, activity: Activity, tick: int) -> Action:
        """Return a new action: where, with what, how it looks and what it is, in this order, one call after the other.

        The place of the plan, the first thing there and the plan's own words stand in for answers of no use.
        """
        person, wants = agent.person, activity.text
        expect = self._expect(person, activity, tick)

        async def ask(question: Question) -> tuple[Any, ...] | None:
            decision, values = await self._decide(agent, question, tick, expect)
            agent.decisions.append(decision)
            return values

        mind = agent.memory.retrieve(wants, self._settings.minute(tick), ON_THE_MIND)
        chosen = await ask(ask_sector(person, str(agent.where), mind, self._town.known_to(person.home), wants))
        arena = self._town.arena_for(activity.sector if chosen is None else chosen[0], wants)
        things = self._town.things(arena)
        (thing,) = await ask(ask_object(str(arena), things, wants)) or (things[0],)
        (signs,) = await ask(ask_pronunciatio(wants)) or ("?",)
        predicate, target = await ask(ask_triple(person.name, wants, thing)) or ("is", wants)
        return Action(tick, wants, Place(arena.sector, arena.arena, thing), signs, predicate.strip(), target.strip())

    async def _decide(
        self, agent: _Agent, question: Question, tick: int, expect: Expect
    ) -> tuple[Decision, tuple[Any, ...] | None]:
        """Return one decision and its values. Each kind is a session of its own: that is what comes back."""
        answer = await self._asker.ask(
            f"town/{agent.index}/{question.kind}",
            question.messages,
            max_tokens=question.max_tokens,
            schema=question.schema,
            expect=expect,
        )
        values = question.read(answer.data())
        return Decision(tick, agent.index, question.kind, values, answer), values

    def _expect(self, person: Person, activity: Activity, tick: int) -> Expect:
        """Return when the same questions come again: at the next activity, if the run lasts until then."""
        last_minute = self._settings.minute(self._settings.n_ticks - 1)
        rest = range(self._settings.minute(tick), last_minute + 1, self._settings.minutes_per_tick)
        if any(person.activity_at(minute) is not activity for minute in rest):
            return Expect(rounds_to_next=1)
        return Expect(done=True)

    def _talk(self, tick: int) -> None:
        """Let those who are awake in the same arena meet in pairs; each tells the other what seems to concern them."""
        together: defaultdict[Place, list[_Agent]] = defaultdict(list)
        for agent in self.agents:
            if not agent.is_asleep:
                together[agent.where].append(agent)
        draw = random.Random(f"talk/{self._settings.seed}/{tick}")
        for people in together.values():
            draw.shuffle(people)
            for one, other in zip(people[::2], people[1::2], strict=False):
                self._tell(one, other, tick)
                self._tell(other, one, tick)

    def _tell(self, speaker: _Agent, listener: _Agent, tick: int) -> None:
        """Let one tell another the first of what comes to mind that is neither about the speaker nor known already."""
        concern = f"{listener.person.workplace} {listener.person.occupation}"
        for memory in speaker.memory.retrieve(concern, self._settings.minute(tick), ON_THE_MIND):
            if memory.text not in listener.perceived and not memory.text.startswith(speaker.person.name):
                listener.heard.append(_Event(memory.text, speaker.person.name, memory.news))
                return
