"""What became of a town: everything that was decided, done, remembered and told, as plain values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elmas.agents.model import Answer
from elmas.agents.town.memory import Memory
from elmas.agents.town.news import News
from elmas.agents.town.people import MOST_PEOPLE, Person
from elmas.agents.town.places import Place
from elmas.agents.town.prompts import Kind
from elmas.errors import UserError

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class TownSettings:
    """Size of one run; equal settings give the same people, plans and news."""

    n_agents: int = 5
    n_ticks: int = 8
    seed: int = 0
    minutes_per_tick: int = 15
    """How far the town's clock moves per tick."""
    start_minute: int = 6 * 60
    """The town's time at the first tick, in minutes since midnight."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_agents <= MOST_PEOPLE:
            raise UserError(f"--num-agents is {self.n_agents}: the town has room for 1 to {MOST_PEOPLE}")
        if self.n_ticks < 1 or self.minutes_per_tick < 1:
            raise UserError("a town needs at least one tick, and a tick at least one minute")

    def minute(self, tick: int) -> int:
        """Return the town's time at a tick."""
        return self.start_minute + tick * self.minutes_per_tick


@dataclass(frozen=True)
class Action:
    """What a person does until the plan says something else."""

    since_tick: int
    activity: str
    place: Place
    """With the object that is used."""
    signs: str
    """The activity in one or two emoji."""
    predicate: str
    object: str

    def seen_of(self, name: str) -> str:
        """Return what others see of it and remember."""
        return f"{name} is {self.activity} in the {self.place.arena} ({self.predicate} {self.object})"


@dataclass(frozen=True)
class Decision:
    """One call of the model and what came of it."""

    tick: int
    person: int
    kind: Kind
    values: tuple[Any, ...] | None
    """The fields of the answer; None when it was not legal or never came, and the town chose by itself."""
    answer: Answer


@dataclass(frozen=True)
class TownResult:
    """A whole run; people, actions and memories are in the order of `people`."""

    settings: TownSettings
    people: tuple[Person, ...]
    news: tuple[News, ...]
    actions: tuple[tuple[Action, ...], ...]
    """By tick and person."""
    memories: tuple[tuple[Memory, ...], ...]
    decisions: tuple[Decision, ...]
    """By tick, person and order of asking."""

    @property
    def n_calls(self) -> dict[Kind, int]:
        """How many decisions of each kind were asked for."""
        counts = Counter(decision.kind for decision in self.decisions)
        return {kind: counts[kind] for kind in Kind}

    @property
    def failures(self) -> list[Decision]:
        """The decisions for which no answer came."""
        return [decision for decision in self.decisions if decision.answer.error is not None]

    @property
    def illegal(self) -> list[Decision]:
        """The decisions whose answer came and was of no use."""
        return [each for each in self.decisions if each.values is None and each.answer.error is None]

    def known_by(self, news: News) -> list[int]:
        """Return who saw or heard of a piece of news."""
        return [person for person, memories in enumerate(self.memories) if any(m.news == news.number for m in memories)]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values; times are the town's."""
        return {
            "n_agents": self.settings.n_agents,
            "n_ticks": self.settings.n_ticks,
            "minutes_per_tick": self.settings.minutes_per_tick,
            "seed": self.settings.seed,
            "people": [
                {
                    "name": person.name,
                    "age": person.age,
                    "traits": person.traits,
                    "occupation": person.occupation,
                    "workplace": person.workplace,
                    "home": person.home,
                    "plan": [[clock(each.start_minute), each.text] for each in person.plan],
                    "memories": [_memory_json(memory) for memory in memories],
                }
                for person, memories in zip(self.people, self.memories, strict=True)
            ],
            "news": [
                {
                    "time": clock(self.settings.minute(each.tick)),
                    "text": each.text,
                    "place": str(each.place),
                    "known_by": [self.people[index].name for index in self.known_by(each)],
                }
                for each in self.news
            ],
            "ticks": [
                {"time": clock(self.settings.minute(tick)), "actions": _actions_json(self.people, actions)}
                for tick, actions in enumerate(self.actions)
            ],
            "decisions": [
                {
                    "tick": each.tick,
                    "person": self.people[each.person].name,
                    "kind": each.kind.value,
                    "values": each.values,
                    "text": each.answer.text,
                    "n_attempts": len(each.answer.records),
                    "prompt_tokens": each.answer.record.prompt_tokens,
                    "cached_tokens": each.answer.record.cached_tokens,
                    "ttft_s": each.answer.record.ttft_s,
                    "error": each.answer.error,
                }
                for each in self.decisions
            ],
        }


def clock(minute: int) -> str:
    """Return a minute of the town's clock as people write it, such as "06:15"."""
    return f"{minute % _DAY_MINUTES // 60:02}:{minute % 60:02}"


def _memory_json(memory: Memory) -> dict[str, Any]:
    return {"time": clock(memory.minute), "text": memory.sentence, "poignancy": memory.poignancy}


def _actions_json(people: Sequence[Person], actions: Sequence[Action]) -> dict[str, Any]:
    return {
        person.name: {
            "activity": action.activity,
            "place": str(action.place),
            "signs": action.signs,
            "triple": [person.name, action.predicate, action.object],
        }
        for person, action in zip(people, actions, strict=True)
    }
