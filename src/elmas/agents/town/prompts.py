"""The five questions that the town asks the model: texts, answer schemas, and how an answer is read.

Kinds, order and lengths follow the calls recorded from the generative agents of Park et al. (2023): sector, object,
pronunciatio and triple begin with a fixed text with examples, poignancy with the person's own description, and every
answer is short. What varies comes last, so that all calls of a kind share their beginning. The texts are our own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from elmas.agents.endpoint import Message
from elmas.agents.town.memory import Memory
from elmas.agents.town.people import Person


class Kind(StrEnum):
    """What is decided."""

    SECTOR = "sector"
    """Where in the town to go for the next activity."""
    OBJECT = "object"
    """What to use there."""
    PRONUNCIATIO = "pronunciatio"
    """The activity in one or two emoji, as it floats over a person's head."""
    TRIPLE = "triple"
    """The activity as subject, predicate, object: what others see and remember."""
    POIGNANCY = "poignancy"
    """How much an event matters to a person, from 1 to 10."""


@dataclass(frozen=True)
class Question:
    """One call of the model."""

    kind: Kind
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    """JSON schema of the answer: an object with the fields of `fields`."""
    max_tokens: int

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in the answer."""
        return tuple(self.schema["required"])

    def read(self, data: object) -> tuple[Any, ...] | None:
        """Return the values of an answer in the order of `fields`; None when it is not legal."""
        if not isinstance(data, Mapping):
            return None
        values = tuple(data.get(name) for name in self.fields)
        rules = (self.schema["properties"][name] for name in self.fields)
        return values if all(_is_legal(value, rule) for value, rule in zip(values, rules, strict=True)) else None


_SECTOR = """\
You decide where in a small town a person goes next. You are told who the person is, where they are, what is on their \
mind, which parts of the town they know, and what they want to do. Choose exactly one part of the town from the list. \
Choose the part in which the thing can really be done. Stay where the person is if it can be done there as well. Go \
home only for what belongs into a home, such as sleeping, washing, cooking or being alone. Never choose a part that \
is not in the list, and do not explain your choice.

Example 1
Person: Signe Aldous is a carpenter at the Boatyard and lives in Harbour House.
Now in: Harbour House, kitchen
On the mind: the council wants the roof of the school mended before winter
Parts of the town: Harbour House, Boatyard, School, Tavern, Market Square
Wants: measuring the roof beams of the classroom
Answer: {"sector": "School"}

Example 2
Person: Ansel Birk is a fisherman at the Market Square and lives in Net House.
Now in: Market Square, stalls
On the mind: nothing special
Parts of the town: Net House, Boatyard, Market Square, Library, Tavern
Wants: taking a nap before the evening tide
Answer: {"sector": "Net House"}

Example 3
Person: Runa Feld is a weaver at the Watermill and lives in Loom House.
Now in: Tavern, taproom
On the mind: Ansel Birk said that the fish stall closes early today
Parts of the town: Loom House, Watermill, Market Square, Tavern, Orchard
Wants: buying two herrings for supper
Answer: {"sector": "Market Square"}"""

_OBJECT = """\
You decide which thing a person in a small town uses next. You are told where the person is, which things are there, \
and what the person wants to do. Choose exactly one thing from the list: the one that is touched, watched or worked \
on for the longest time. Never choose a thing that is not in the list, and do not explain your choice.

Example 1
In: Harbour House, kitchen
Things: stove, kitchen table, sink
Wants: peeling potatoes for a stew
Answer: {"object": "kitchen table"}

Example 2
In: School, yard
Things: swing, ball
Wants: teaching the little ones a throwing game
Answer: {"object": "ball"}

Example 3
In: Boatyard, office
Things: drawing board, account book
Wants: finding out who has not paid yet
Answer: {"object": "account book"}"""

_TRIPLE = """\
You turn what somebody is doing into a statement of three parts: subject, predicate and object. The subject is the \
person. The predicate is one verb in the present, perhaps with a small word after it. The object is one thing or \
person, in one to three words.

Signe Aldous is measuring the roof beams of the classroom.
Answer: {"predicate": "measures", "object": "roof beams"}

Ansel Birk is taking a nap before the evening tide.
Answer: {"predicate": "sleeps in", "object": "bed"}

Runa Feld is asking at the fish stall for two herrings.
Answer: {"predicate": "asks for", "object": "herrings"}"""

_PRONUNCIATIO = """\
You say in one or two emoji what somebody is doing.
baking bread: {"signs": "🍞🔥"}
writing a letter: {"signs": "✉️"}"""

_POIGNANCY = """\
{description}

You judge how much an event matters to {name}. On a scale from 1 to 10, 1 is entirely everyday (brushing teeth, an \
empty chair, somebody at their usual work) and 10 changes a life (a wedding, a fire at home, the death of a friend). \
Answer with the number only, as in {{"poignancy": 2}}."""

_MOST_SIGNS = 4
"""Characters: an emoji may be two of them."""

_MOST_PREDICATE, _MOST_OBJECT = 14, 20
"""Characters of the two parts of a triple."""


def ask_sector(person: Person, where: str, mind: Sequence[Memory], sectors: Sequence[str], wants: str) -> Question:
    """Return the question where `person`, now at `where`, goes for what the plan says."""
    thoughts = "; ".join(memory.sentence for memory in mind) or "nothing special"
    varying = (
        f"Person: {person.name} is a {person.occupation} at the {person.workplace} and lives in {person.home}.\n"
        f"Now in: {where}\nOn the mind: {thoughts}\nParts of the town: {', '.join(sectors)}\nWants: {wants}"
    )
    return _question(Kind.SECTOR, _SECTOR, varying, {"sector": _one_of(sectors)}, 32)


def ask_object(where: str, things: Sequence[str], wants: str) -> Question:
    """Return the question which of the `things` at `where` is used."""
    varying = f"In: {where}\nThings: {', '.join(things)}\nWants: {wants}"
    return _question(Kind.OBJECT, _OBJECT, varying, {"object": _one_of(things)}, 32)


def ask_pronunciatio(activity: str) -> Question:
    """Return the question for the signs of an activity."""
    return _question(Kind.PRONUNCIATIO, _PRONUNCIATIO, activity, {"signs": _text(_MOST_SIGNS)}, 40)


def ask_triple(name: str, activity: str, thing: str) -> Question:
    """Return the question for an activity as a statement; its subject is `name`."""
    properties = {"predicate": _text(_MOST_PREDICATE), "object": _text(_MOST_OBJECT)}
    return _question(Kind.TRIPLE, _TRIPLE, f"{name} is {activity} ({thing}).", properties, 96)


def ask_poignancy(person: Person, event: str) -> Question:
    """Return the question how much an event matters to a person."""
    fixed = _POIGNANCY.format(description=person.description, name=person.name)
    properties = {"poignancy": {"type": "integer", "minimum": 1, "maximum": 10}}
    return _question(Kind.POIGNANCY, fixed, f"Event: {event}", properties, 24)


def _question(
    kind: Kind, fixed: str, varying: str, properties: Mapping[str, Mapping[str, Any]], max_tokens: int
) -> Question:
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    messages: tuple[Message, ...] = ({"role": "system", "content": fixed}, {"role": "user", "content": varying})
    return Question(kind, messages, schema, max_tokens)


def _one_of(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


def _text(most_characters: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most_characters}


def _is_legal(value: object, rule: Mapping[str, Any]) -> bool:
    if rule["type"] == "integer":
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer and rule["minimum"] <= value <= rule["maximum"]
    if not isinstance(value, str):
        return False
    if "enum" in rule:
        return value in rule["enum"]
    return rule["minLength"] <= len(value) <= rule["maxLength"] and value.isprintable()
