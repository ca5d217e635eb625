"""Sizes as people write them: "8GiB", "100 GB", "512MiB"."""

import re

from elmas.errors import UserError

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(text: str | int | float, what: str = "size") -> int:
    """Return the number of bytes `text` stands for; a bare number is bytes.

    `what` names the option in the error. Raises UserError for anything but a positive size with a known unit.
    """
    if isinstance(text, int | float):
        text = str(int(text))
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise UserError(f"{what} is {text!r}: write a size such as 8GiB, 512MiB or 100GB")
    n_bytes = int(float(match.group(1)) * factor)
    if n_bytes <= 0:
        raise UserError(f"{what} is {text!r}: it must be more than zero")
    return n_bytes


def format_bytes(n_bytes: float) -> str:
    """Return `n_bytes` in the largest binary unit that keeps at least one whole digit: 1536 gives "1.5 KiB"."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
