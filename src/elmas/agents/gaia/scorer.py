"""GAIA's measure: quasi-exact match, after the description in Mialon et al., "GAIA: a benchmark for General AI
Assistants" (2023), section 3 and appendix.

What the right answer is decides how an answer is read: as a number, as a list with commas or semicolons, or as a text.
"""

import math
import re
import string

_NOT_PART_OF_NUMBERS = str.maketrans("", "", "$%,")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_correct(answer: str, right: str) -> bool:
    """Return whether an answer matches the right one.

    Numbers match without $, % and commas; lists have the same length and match element by element, each as a number or
    as a text with its punctuation; texts match without case, white space and punctuation.
    """
    if _number(right, plain=True) is not None:
        return _same_number(answer, right)
    if re.search("[,;]", right):
        found, wanted = re.split("[,;]", answer), re.split("[,;]", right)
        return len(found) == len(wanted) and all(map(_same_element, found, wanted))
    return normalized(answer) == normalized(right)


def normalized(text: str) -> str:
    """Return a text in lower case, without white space and punctuation."""
    return _squeezed(text).translate(_PUNCTUATION)


def _same_element(answer: str, right: str) -> bool:
    if _number(right, plain=True) is not None:
        return _same_number(answer, right)
    return _squeezed(answer) == _squeezed(right)


def _same_number(answer: str, right: str) -> bool:
    found = _number(answer)
    return found is not None and found == _number(right)


def _squeezed(text: str) -> str:
    return "".join(text.split()).lower()


def _number(text: str, plain: bool = False) -> float | None:
    """Return a number, None for a text that is none; `plain` leaves no room for $, % and commas."""
    try:
        value = float(text if plain else text.translate(_NOT_PART_OF_NUMBERS))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
