"""The map of the town: sectors hold arenas, arenas hold objects. Data and lookups; knows nobody who lives there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from elmas.agents.relevance import words

PUBLIC: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Bakery": {
        "shop": ("counter", "bread shelf", "till"),
        "bakehouse": ("oven", "kneading table", "flour bin"),
    },
    "Boatyard": {
        "slipway": ("hull of a boat", "winch", "tar barrel"),
        "office": ("drawing board", "account book"),
    },
    "Clinic": {
        "waiting room": ("bench", "notice board"),
        "consulting room": ("examination couch", "medicine cabinet", "desk"),
    },
    "Library": {
        "reading room": ("long table", "book shelf", "newspaper rack"),
        "archive": ("card index", "map drawer"),
    },
    "Market Square": {
        "stalls": ("vegetable stall", "fish stall", "scales"),
        "fountain": ("stone rim", "water basin"),
    },
    "Orchard": {
        "apple rows": ("ladder", "apple crate", "beehive"),
        "shed": ("tool rack", "cider press"),
    },
    "School": {
        "classroom": ("blackboard", "globe", "desks"),
        "yard": ("swing", "ball"),
    },
    "Tavern": {
        "taproom": ("bar", "round table", "dart board"),
        "kitchen": ("stove", "soup pot"),
    },
    "Town Hall": {
        "council chamber": ("speaker's desk", "council table"),
        "post office": ("letter counter", "parcel scales", "telephone"),
    },
    "Watermill": {
        "grinding floor": ("millstone", "grain sack", "flour chute"),
        "wheel": ("mill wheel", "sluice"),
    },
}
"""Everybody knows these sectors."""

HOME: Mapping[str, tuple[str, ...]] = {
    "bedroom": ("bed", "wardrobe", "writing desk"),
    "kitchen": ("stove", "kitchen table", "sink"),
    "garden": ("garden bench", "vegetable bed"),
}
"""The rooms of every house."""

PEOPLE_PER_HOUSE = 4

_HOUSE_NAMES = (
    *("Alder House", "Barley House", "Chestnut House", "Dove House", "Ferry House", "Gable House", "Heron House"),
    *("Ivy House", "Juniper House", "Kestrel House", "Lantern House", "Mallow House", "Nettle House", "Osier House"),
    *("Plum House", "Quarry House", "Rowan House", "Sparrow House", "Thistle House", "Willow House"),
)


@dataclass(frozen=True)
class Place:
    """An arena, or with `thing` one object in it."""

    sector: str
    arena: str
    thing: str = ""

    def __str__(self) -> str:
        where = f"{self.sector}, {self.arena}"
        return f"{where}, {self.thing}" if self.thing else where


@dataclass(frozen=True)
class Town:
    """All public sectors, and as many houses as the people need."""

    n_people: int
    sectors: Mapping[str, Mapping[str, tuple[str, ...]]] = field(init=False)
    """Arenas and their objects by sector."""

    def __post_init__(self) -> None:
        n_houses = -(-self.n_people // PEOPLE_PER_HOUSE)
        houses = {house_name(index): HOME for index in range(n_houses)}
        object.__setattr__(self, "sectors", {**PUBLIC, **houses})

    def known_to(self, home: str) -> list[str]:
        """Return the sectors that somebody who lives in `home` can go to, home first."""
        return [home, *PUBLIC]

    def things(self, place: Place) -> tuple[str, ...]:
        """Return the objects of an arena."""
        return self.sectors[place.sector][place.arena]

    def arena_for(self, sector: str, activity: str) -> Place:
        """Return the arena of a sector whose name and objects share most words with an activity, the first if none."""
        wanted = set(words(activity))

        def n_shared(arena: str) -> int:
            return len(wanted & set(words(f"{arena} {' '.join(self.sectors[sector][arena])}")))

        return Place(sector, max(self.sectors[sector], key=n_shared))


def house_name(index: int) -> str:
    """Return the name of the house with this number; after twenty they are numbered."""
    number, name = divmod(index, len(_HOUSE_NAMES))
    return _HOUSE_NAMES[name] if number == 0 else f"{_HOUSE_NAMES[name]} {number + 1}"
