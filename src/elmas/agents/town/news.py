"""What happens in the town without anybody's plan: seen by who is there, and then told from one to another."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from elmas.agents.town.people import Person
from elmas.agents.town.places import Place

VISIBLE_TICKS = 8
"""How long there is something to see."""

_STORIES = (
    ("the millstone has cracked and the mill stands still", Place("Watermill", "grinding floor")),
    ("a swarm of bees has settled under the roof of the shed", Place("Orchard", "shed")),
    ("a letter came back that was posted forty years ago", Place("Town Hall", "post office")),
    ("the new boat has a leak below the waterline", Place("Boatyard", "slipway")),
    ("somebody left a basket with three kittens at the door", Place("Clinic", "waiting room")),
    ("the oldest map of the town has gone from its drawer", Place("Library", "archive")),
    ("the oven has gone out and there is no bread", Place("Bakery", "bakehouse")),
    ("a stranger has bought all the plums at once", Place("Market Square", "stalls")),
    ("the school bell fell down and nobody was hurt", Place("School", "yard")),
    ("a barrel of cider burst in the night", Place("Tavern", "kitchen")),
    ("the council wants to give the meadow to a railway", Place("Town Hall", "council chamber")),
    ("the water of the fountain has turned green", Place("Market Square", "fountain")),
)

_PEOPLE_PER_STORY = 3


@dataclass(frozen=True)
class News:
    """One thing that happens."""

    number: int
    tick: int
    """When it begins."""
    text: str
    place: Place
    """Who is anywhere in its sector notices."""

    def is_visible(self, tick: int) -> bool:
        """Return whether there is something to see at `tick`."""
        return self.tick <= tick < self.tick + VISIBLE_TICKS


def make_news(people: Sequence[Person], n_ticks: int, seed: int) -> list[News]:
    """Return one story for every few people, where some of them work, spread over the first two thirds of the ticks."""
    draw = random.Random(f"news/{seed}")
    workplaces = {person.workplace for person in people}
    possible = [story for story in _STORIES if story[1].sector in workplaces]
    stories = draw.sample(possible, min(len(possible), -(-len(people) // _PEOPLE_PER_STORY)))
    ticks = sorted(draw.randrange(max(1, 2 * n_ticks // 3)) for _ in stories)
    return [News(number, tick, *story) for number, (tick, story) in enumerate(zip(ticks, stories, strict=True))]
