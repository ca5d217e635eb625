"""Generated phrases that widen the tokenizer's vocabulary: every word of the lists, in sentences of one pattern."""

_PEOPLE = """
agent baker captain doctor driver engineer farmer fisher friend guard hunter judge king leader mayor nurse painter
pilot player queen sailor scientist singer soldier student teacher trader worker writer
"""
_THINGS = """
apple bag ball bell bird boat book bottle box bread bridge camera card castle chair clock coat coin cup desk door
dress engine field fire flag flower forest garden gate glass gold hammer hat hill horse house island jacket key
kitchen knife ladder lake lamp leaf letter machine map mirror mountain paper pencil phone picture plane plate radio
ring river road rope shield ship shoe silver stone street sword table tower train tree wagon wall wheel window wood
"""
_VERBS = """
asks believes brings builds buys calls carries changes chooses closes counts draws drops explains finds follows
forgets gives hears helps hides holds keeps knows learns leaves likes loses makes meets moves needs offers opens
paints plans reads remembers repairs sees sells sends shows steals stores takes teaches trusts turns wants watches
"""
_QUALITIES = """
angry big blue bright broken brown calm cheap clean clever cold dark deep dry early empty fast free fresh full gentle
golden good great green happy hard heavy high honest hot hungry kind large late light little long loud lucky new old
open poor quick quiet red rich sad safe sharp short simple slow small soft strange strong sweet tall thin tired warm
weak wet white wide wild wise young yellow
"""
_PLACES = """
airport bank beach camp church city corner desert factory farm harbor hospital hotel library market museum office
palace park restaurant school shop square station temple theater town university valley village
"""
_WHEN = """
again already always later maybe never often perhaps sometimes soon today together tomorrow usually yesterday
"""


def phrases() -> list[str]:
    """Return sentences in which each word of the lists stands a few times, always the same ones in the same order."""
    lists = [text.split() for text in (_PEOPLE, _THINGS, _VERBS, _QUALITIES, _PLACES, _WHEN)]
    sentences = []
    for i in range(3 * max(map(len, lists))):
        person, thing, verb, quality, place, when = (words[i % len(words)] for words in lists)
        other = lists[0][(7 * i + 3) % len(lists[0])]
        sentences.append(
            f"The {quality} {person} {verb} the {thing} near the {place}, and {when} the {other} is there."
        )
    return sentences
