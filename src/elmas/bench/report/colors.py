"""A colour for every server, the same in all plots and all reports.

The hues follow Okabe and Ito ("Color Universal Design", 2008), which people with any colour vision tell apart; each has
a darker shade for light pages and a lighter one for dark pages. What is close by meaning is close by colour: servers
without other tiers are grey, MT-APC is blue and its parts are green or violet, other projects are warm. Colour is never
the only sign: rows have names, and lines differ by their dashes too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """The colour on light and on dark pages, and the dashes of a line (SVG; "" is solid)."""

    light: str
    dark: str
    dashes: str = ""


_LOOKS = {
    "no-apc": Look("#a0a6ad", "#6f7681", "1 4"),
    "apc": Look("#5d6670", "#b4bcc6"),
    "noop": Look("#7c858f", "#8f98a3", "6 4"),
    "mt-apc": Look("#0a6fb8", "#4aa8f0"),
    "mt-apc-no-disk": Look("#3d9be0", "#8ccbff", "8 4"),
    "mt-apc-only-mt": Look("#66c2a5", "#3f9c80", "2 4"),
    "mt-apc-only-async": Look("#1b9e77", "#45c9a0", "6 3"),
    "mt-apc-only-sched": Look("#0f766e", "#2dd4bf", "10 4"),
    "mt-apc-no-prefetch": Look("#6366c9", "#9a9cf5", "6 3"),
    "mt-apc-no-sched": Look("#8f8fe0", "#c3c4ff", "2 4"),
    "vllm-offload-lru": Look("#d98200", "#ffb347"),
    "vllm-offload-arc": Look("#c4500a", "#f58549", "6 3"),
    "vllm-offload-simple": Look("#b0417e", "#e58abf", "10 4"),
    "vllm-tiering-fs": Look("#96722a", "#d9b75f", "2 4"),
    "lmcache": Look("#a3262f", "#f0707a"),
}
_OTHERS = (
    Look("#b0417e", "#e58abf", "4 2"),
    Look("#d98200", "#ffb347", "4 2"),
    Look("#1b9e77", "#45c9a0", "4 2"),
    Look("#6366c9", "#9a9cf5", "4 2"),
    Look("#c4500a", "#f58549", "4 2"),
)
"""Of servers that have no place of their own, such as variants: in the order in which they appear."""


def looks(servers: tuple[str, ...]) -> dict[str, Look]:
    """Return the look of each server."""
    found, n_others = {}, 0
    for name in servers:
        look = _LOOKS.get(name)
        if look is None:
            look = _OTHERS[n_others % len(_OTHERS)]
            n_others += 1
        found[name] = look
    return found
