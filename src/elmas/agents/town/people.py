"""Who lives in the town: names, characters, occupations and the plan of a day, drawn from short lists by a seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from elmas.agents.town.places import PEOPLE_PER_HOUSE, house_name

_FIRST_NAMES = (
    *("Ada", "Bruno", "Clara", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Linus", "Mira"),
    *("Nils", "Olga", "Pablo", "Rosa", "Samir", "Tilda", "Urs", "Vera", "Wanda", "Xaver", "Yusuf", "Zora", "Anton"),
    *("Berta", "Carlo", "Dora", "Emil", "Fatima", "Gustav", "Helga", "Ivan", "Judith", "Kamal", "Lotte", "Marek"),
    *("Nora", "Otis", "Paula", "Quirin", "Ruth", "Stefan", "Tamar", "Ulla", "Viktor", "Wilma", "Yara", "Zeno"),
)
_LAST_NAMES = (
    *("Acker", "Bellini", "Corvin", "Dahl", "Ender", "Falk", "Garde", "Holm", "Ibsen", "Jordan", "Keller", "Lund"),
    *("Moreau", "Nowak", "Orban", "Petri", "Quist", "Rask", "Sander", "Thorn", "Ulm", "Varga", "Winter", "Xander"),
    *("Ysel", "Zeller", "Amsel", "Brandt", "Cordes", "Dorn", "Ekholm", "Forst", "Gruber", "Hansen", "Isler", "Jansen"),
    *("Kraft", "Lorenz", "Marsh", "Nagel", "Olsen", "Pohl", "Reuter", "Stark", "Tanner", "Unger", "Vogel", "Weber"),
    *("Yilmaz", "Ziegler"),
)
MOST_PEOPLE = len(_FIRST_NAMES) * len(_LAST_NAMES)
"""No two people have the same name."""

_TRAITS = (
    *("patient and a little vain", "curious, talks to everybody", "quiet, notices small things"),
    *("impatient and generous", "stubborn, proud of good work", "cheerful and forgetful"),
    *("careful with money and with words", "restless, always has a plan", "kind, worries too much"),
    *("sharp-tongued and loyal", "dreamy, late for everything", "orderly, dislikes surprises"),
)


@dataclass(frozen=True)
class Occupation:
    """What somebody does for a living, where, and in four steps that fill the two halves of a working day."""

    title: str
    sector: str
    tasks: tuple[str, str, str, str]


_OCCUPATIONS = (
    Occupation(
        "baker",
        "Bakery",
        (
            "kneading the dough for the first loaves",
            "taking loaves out of the oven",
            "selling rolls at the counter",
            "filling the flour bin and cleaning the bakehouse",
        ),
    ),
    Occupation(
        "boat builder",
        "Boatyard",
        (
            "planing a plank for the hull of a boat",
            "sealing seams with tar",
            "drawing the lines of a new dinghy at the drawing board",
            "hauling a boat up the slipway with the winch",
        ),
    ),
    Occupation(
        "doctor",
        "Clinic",
        (
            "seeing the first patients in the consulting room",
            "writing notes at the desk",
            "checking what the medicine cabinet still holds",
            "bandaging the hand of a child",
        ),
    ),
    Occupation(
        "librarian",
        "Library",
        (
            "putting returned books back on the shelf",
            "helping a visitor with the card index",
            "mending the spine of an old atlas at the long table",
            "sorting maps in the archive",
        ),
    ),
    Occupation(
        "market trader",
        "Market Square",
        (
            "building up the vegetable stall",
            "weighing plums for a customer on the scales",
            "haggling over the price of a sack of onions",
            "packing up the stalls",
        ),
    ),
    Occupation(
        "fruit grower",
        "Orchard",
        (
            "pruning a branch from the ladder",
            "looking after the beehive",
            "filling an apple crate",
            "cleaning the cider press in the shed",
        ),
    ),
    Occupation(
        "teacher",
        "School",
        (
            "writing a sum on the blackboard",
            "showing the oceans on the globe",
            "watching the children play ball in the yard",
            "correcting essays at the desks",
        ),
    ),
    Occupation(
        "innkeeper",
        "Tavern",
        (
            "wiping the bar and counting bottles",
            "cooking a soup on the stove",
            "serving lunch in the taproom",
            "polishing glasses behind the bar",
        ),
    ),
    Occupation(
        "postal clerk",
        "Town Hall",
        (
            "sorting letters at the letter counter",
            "weighing a parcel on the parcel scales",
            "connecting a call on the telephone",
            "preparing papers for the council table",
        ),
    ),
    Occupation(
        "miller",
        "Watermill",
        (
            "opening the sluice to start the mill wheel",
            "pouring a grain sack into the millstone",
            "listening to the millstone for a false note",
            "sweeping flour from the grinding floor",
        ),
    ),
)

_PASTIMES: Mapping[str, tuple[str, str]] = {
    "cards": ("playing cards at the round table of the tavern", "telling old stories at the bar"),
    "reading": ("reading the newspaper in the library", "reading a novel in bed"),
    "gardening": ("weeding the vegetable bed in the garden", "watching the evening from the garden bench"),
    "walking": ("walking through the apple rows of the orchard", "resting on the stone rim of the fountain"),
    "music": ("practising the accordion at the fountain on the market square", "singing in the kitchen"),
    "letters": ("sending a letter at the post office", "writing a long letter at the writing desk"),
}

_SECTOR_OF_WORD = {
    "tavern": "Tavern",
    "at the bar": "Tavern",
    "library": "Library",
    "orchard": "Orchard",
    "fountain": "Market Square",
    "post office": "Town Hall",
}
"""Where a pastime or lunch with such a word takes place; without one it is at home."""

_LUNCHES = ("eating soup in the tavern", "eating bread and cheese by the fountain", "having lunch at the kitchen table")


@dataclass(frozen=True)
class Activity:
    """One entry of a plan."""

    start_minute: int
    """Minutes since midnight."""
    text: str
    """What is done, such as "kneading the dough for the first loaves"."""
    sector: str
    """Where the person means to do it; where it is done, the model decides."""


@dataclass(frozen=True)
class Person:
    """Somebody who lives in the town, with the plan of every day in order of time; the first entry begins at 0."""

    name: str
    age: int
    traits: str
    occupation: str
    workplace: str
    home: str
    plan: tuple[Activity, ...]

    @property
    def description(self) -> str:
        """Return who this is in three sentences, as prompts introduce them."""
        return (
            f"{self.name} is {self.age} years old and {self.traits}. {self.name} works as a {self.occupation} at the "
            f"{self.workplace} and lives in {self.home}. On most days {self.name} is up early, works until the "
            f"afternoon, and is at home by night."
        )

    def activity_at(self, minute: int) -> Activity:
        """Return what the plan says for a minute of the town's clock; every day is the same."""
        of_day = minute % (24 * 60)
        return next(activity for activity in reversed(self.plan) if activity.start_minute <= of_day)


def make_people(n_people: int, seed: int) -> list[Person]:
    """Return `n_people` (at most MOST_PEOPLE) with different names; the same for the same seed."""
    draw = random.Random(seed)
    names = draw.sample(range(MOST_PEOPLE), n_people)
    jobs = draw.sample(_OCCUPATIONS, len(_OCCUPATIONS))
    return [
        _make_person(draw, names[index], jobs[index % len(jobs)], house_name(index // PEOPLE_PER_HOUSE))
        for index in range(n_people)
    ]


def _make_person(draw: random.Random, name: int, job: Occupation, home: str) -> Person:
    first, last = divmod(name, len(_LAST_NAMES))
    return Person(
        name=f"{_FIRST_NAMES[first]} {_LAST_NAMES[last]}",
        age=draw.randint(19, 78),
        traits=draw.choice(_TRAITS),
        occupation=job.title,
        workplace=job.sector,
        home=home,
        plan=_make_plan(draw, job, home),
    )


def _make_plan(draw: random.Random, job: Occupation, home: str) -> tuple[Activity, ...]:
    """Return a day: up between 5:30 and 6:15, work with a lunch in between, two pastimes, supper, sleep."""
    leisure, quiet = _PASTIMES[draw.choice(sorted(_PASTIMES))]
    lunch = draw.choice(_LUNCHES)
    steps = [
        (30, "getting up and washing at the sink", home),
        (45, "having breakfast at the kitchen table", home),
        (105, job.tasks[0], job.sector),
        (105, job.tasks[1], job.sector),
        (60, lunch, _sector_named_in(lunch, home)),
        (120, job.tasks[2], job.sector),
        (105, job.tasks[3], job.sector),
        (90, leisure, _sector_named_in(leisure, home)),
        (60, "cooking and eating supper in the kitchen", home),
        (75, quiet, _sector_named_in(quiet, home)),
    ]
    minute = 5 * 60 + 30 + 15 * draw.randrange(4)
    plan = [Activity(0, "sleeping in bed", home)]
    for length, text, sector in steps:
        plan.append(Activity(minute, text, sector))
        minute += length + 15 * draw.randrange(-1, 2)
    plan.append(Activity(minute, "sleeping in bed", home))
    return tuple(plan)


def _sector_named_in(text: str, home: str) -> str:
    """Return where a pastime is meant to take place; the home unless the text says otherwise."""
    return next((sector for word, sector in _SECTOR_OF_WORD.items() if word in text), home)
