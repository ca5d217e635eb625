"""The recorded calls of generative agents (Park et al., 2023), for their pattern: one by one, in a fixed order.

Five kinds of short questions with fixed templates, of which each call changes a few words at the end; only the question
how much an event matters begins with the description of a person. Texts are our own, kinds, order, shared beginnings
and lengths those of the first 200 recorded calls. The application itself is `elmas.agents.town`.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from elmas.bench.workloads.calls import completion, fewer
from elmas.bench.workloads.generative_templates import (
    OBJECT,
    OBJECT_CASE,
    POIGNANCY,
    PRONUNCIATIO,
    PRONUNCIATIO_CASE,
    SECTOR,
    SECTOR_CASE,
    TRIPLE,
    TRIPLE_CASE,
)
from elmas.bench.workloads.steps import InTurn, Scripted, Step
from elmas.bench.workloads.words import sentences
from elmas.bench.workloads.workload import Request

_LEAST_CALLS = 20
_ACTION = ("sector", "object", "pronunciatio", "triple", "pronunciatio", "triple")
"""What every action asks: about the person, then about the thing that is used."""

_BURSTS = (0, 3, 1, 4, 2, 0, 2, 2)
"""Events that are judged after an action, in turn: 46 in the first 200 calls."""

_MOST_TOKENS = {"sector": 10, "object": 5, "pronunciatio": 6, "triple": 20, "poignancy": 2}
_STOPS = {"sector": "}", "object": "}", "triple": ")"}
_DESCRIPTION_CHARACTERS = 1150

_NAMES = (
    "Mara Lindt",
    "Theo Brandt",
    "Ines Okafor",
    "Pavel Novak",
    "Lena Sorel",
    "Omar Haddad",
    "Rosa Vidal",
    "Jan Berg",
)
_SECTORS = ("bakery", "school", "market", "museum", "library", "hospital", "office", "workshop", "theater", "harbor")
_THINGS = ("table", "oven", "desk", "sink", "shelf", "bench", "counter", "piano", "bed", "ladder")
_DOINGS = (
    "reading the morning paper",
    "preparing a lesson",
    "mending an old chair",
    "baking bread for the market",
    "writing a letter to a friend",
    "cleaning the kitchen",
    "playing a slow song",
    "talking about the election",
    "painting the window frames",
    "sleeping",
)


@dataclass(frozen=True)
class GenerativeAgents(Scripted):
    """A fixed sequence of text completions, one at a time."""

    name: str
    n_calls: int
    n_people: int
    seed: int

    def scaled(self, factor: float) -> Self:
        """Return the first calls only."""
        return replace(self, n_calls=fewer(self.n_calls, factor, _LEAST_CALLS))

    def make_script(self) -> Step:
        """Return the calls in their order."""
        steps: list[Request] = []
        action = 0
        while len(steps) < self.n_calls:
            for kind in (*_ACTION, *("poignancy",) * _BURSTS[action % len(_BURSTS)]):
                if len(steps) < self.n_calls:
                    steps.append(self._call(kind, len(steps), action))
            action += 1
        return InTurn(tuple(steps))

    def _call(self, kind: str, index: int, action: int) -> Request:
        """Return one call. Its answer is as long as drawn: the originals ended at a stop, half-way on average."""
        draw = np.random.default_rng([self.seed, index])
        n_answer = int(draw.integers(1, _MOST_TOKENS[kind], endpoint=True))
        stop = (_STOPS[kind],) if kind in _STOPS else ()
        prompt = self._prompt(kind, action % self.n_people, draw)
        return completion(prompt, n_answer, agent="simulation", turn=index, stop=stop)

    def _prompt(self, kind: str, person: int, draw: np.random.Generator) -> str:
        def one(names: tuple[str, ...]) -> str:
            return names[int(draw.integers(len(names)))]

        name, doing, thing = _NAMES[person % len(_NAMES)], one(_DOINGS), one(_THINGS)
        if kind == "sector":
            known = ", ".join(_SECTORS[person % 5 : person % 5 + 5])
            return SECTOR + SECTOR_CASE.format(name=name, home=one(_SECTORS), known=known, doing=doing)
        if kind == "object":
            return OBJECT + OBJECT_CASE.format(things=", ".join(_THINGS[person % 5 : person % 5 + 4]), doing=doing)
        if kind == "pronunciatio":
            return PRONUNCIATIO + PRONUNCIATIO_CASE.format(doing=doing, thing=thing)
        if kind == "triple":
            return TRIPLE + TRIPLE_CASE.format(name=name, doing=doing, thing=thing)
        described = sentences(np.random.default_rng([self.seed, 1 << 20, person]), _DESCRIPTION_CHARACTERS)
        return POIGNANCY.format(name=name, description=described, event=f"{one(_NAMES)} is {doing} at the {thing}")
