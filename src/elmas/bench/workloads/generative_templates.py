"""The five questions of the generative agents' calls: a fixed beginning, and what each call adds. Data only."""

SECTOR = """\
Task: choose the area of the town in which a person should be for what they are about to do.

Nadia Ferrer lives in the house of the Ferrer family, which has a kitchen, a bedroom, a bathroom and a study.
Nadia Ferrer is at the college now, which has a classroom, a lecture hall and a garden.
Areas that Nadia Ferrer knows: house of the Ferrer family, college, corner cafe, supply store, town park.
- Stay in the area where the person is if the activity can be done there.
- Leave the area only if the activity needs to take place somewhere else.
- Choose exactly one of the areas in the list, word for word.
Nadia Ferrer is going to take a walk with the dog. Nadia Ferrer should go to the following area: {town park}
---
Elias Horn lives in the flat of Elias Horn, which has a living room and a kitchen.
Elias Horn is at the flat of Elias Horn now, which has a living room and a kitchen.
Areas that Elias Horn knows: flat of Elias Horn, college, corner cafe, grocery, pharmacy, town park.
- Stay in the area where the person is if the activity can be done there.
- Leave the area only if the activity needs to take place somewhere else.
- Choose exactly one of the areas in the list, word for word.
Elias Horn is going to buy vegetables for a soup. Elias Horn should go to the following area: {grocery}
---
"""

SECTOR_CASE = """\
{name} lives in the house beside the {home}.
Areas that {name} knows: {known}.
{name} is going to be {doing}. {name} should go to the following area: {{"""

OBJECT = """\
Task: choose the object that is most relevant to what a person is doing, from the objects that are in the room.

Activity: sleeping in until noon
Objects in the room: bed, easel, closet, painting
The most relevant object: {bed}
---
Activity: eating a late breakfast alone
Objects in the room: stove, sink, refrigerator, kitchen table
The most relevant object: {kitchen table}
---
Activity: painting a portrait of the neighbour
Objects in the room: desk, easel, computer, lamp
The most relevant object: {easel}
---
Activity: watching the news of the day
Objects in the room: sofa, television, flower pot, microwave
The most relevant object: {television}
---
Activity: settling the accounts of the shop
Objects in the room: counter, desk, broom, shelf
The most relevant object: {desk}
---
"""

OBJECT_CASE = """\
Activity: {doing}
Objects in the room: {things}
The most relevant object: {{"""

PRONUNCIATIO = """\
Turn the description of an action into one or two emoji that show it. Do not use any words for it.
"""

PRONUNCIATIO_CASE = """\
Action: {doing} at the {thing}
Emoji: """

TRIPLE = """\
Task: turn the sentence into a triple of subject, predicate and object.

Sentence: Nadia Ferrer is eating breakfast.
Triple: (Nadia Ferrer, eat, breakfast)
---
Sentence: Elias Horn is brewing coffee.
Triple: (Elias Horn, brew, coffee)
---
Sentence: Carla Weiss is sleeping.
Triple: (Carla Weiss, is, sleep)
---
Sentence: Mika Aro is writing a message on a computer.
Triple: (Mika Aro, write, message)
---
Sentence: Petra Lang is teaching a class of small children in the school.
Triple: (Petra Lang, teach, children)
---
Sentence: Elias Horn is busy with his taxes.
Triple: (Elias Horn, do, taxes)
---
"""

TRIPLE_CASE = """\
Sentence: {name} is {doing} at the {thing}.
Triple: ({name},"""

POIGNANCY = """\
This is a short description of {name}.
{description}

On a scale from 1 to 10, where 1 is entirely everyday (such as brushing teeth or making a bed) and 10 changes a whole \
life (such as a separation or the first day at a university), say how much the following event matters to {name}.

Event: {event}
The number (1 to 10): """
