"""Conversion between units, exactly: factors are fractions, by their legal definitions."""

from fractions import Fraction

from elmas.agents.tools.tool import ToolError

_FOOT_M = Fraction(3048, 10000)
_POUND_KG = Fraction(45359237, 100_000_000)
_GALLON_L = Fraction(3785411784, 10**9)

_FACTORS: dict[str, dict[str, Fraction | int]] = {
    "length": {
        "mm": Fraction(1, 1000),
        "cm": Fraction(1, 100),
        "m": 1,
        "km": 1000,
        "in": _FOOT_M / 12,
        "ft": _FOOT_M,
        "yd": _FOOT_M * 3,
        "mi": _FOOT_M * 5280,
        "nmi": 1852,
    },
    "mass": {
        "mg": Fraction(1, 10**6),
        "g": Fraction(1, 1000),
        "kg": 1,
        "t": 1000,
        "oz": _POUND_KG / 16,
        "lb": _POUND_KG,
    },
    "time": {"ms": Fraction(1, 1000), "s": 1, "min": 60, "h": 3600, "day": 86400, "week": 7 * 86400},
    "volume": {"ml": Fraction(1, 1000), "l": 1, "m3": 1000, "pt": _GALLON_L / 8, "gal": _GALLON_L},
    "area": {"m2": 1, "ha": 10_000, "km2": 10**6, "ft2": _FOOT_M**2, "acre": _FOOT_M**2 * 43560},
    "speed": {"m/s": 1, "km/h": Fraction(10, 36), "mph": _FOOT_M * 5280 / 3600, "kn": Fraction(1852, 3600)},
    "data": {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
}
"""By dimension and unit: how many of the dimension's base units."""

# value in kelvin = (value + offset) * factor
_TEMPERATURES = {
    "K": (Fraction(0), Fraction(1)),
    "C": (Fraction(27315, 100), Fraction(1)),
    "F": (Fraction(45967, 100), Fraction(5, 9)),
}

UNITS = ", ".join([*(unit for units in _FACTORS.values() for unit in units), *_TEMPERATURES])
"""The names of all units."""


def convert(value: Fraction, source: str, target: str) -> Fraction:
    """Return a value in another unit of the same dimension; raises ToolError for units that do not fit."""
    if source in _TEMPERATURES and target in _TEMPERATURES:
        offset, factor = _TEMPERATURES[source]
        target_offset, target_factor = _TEMPERATURES[target]
        return (value + offset) * factor / target_factor - target_offset
    for units in _FACTORS.values():
        if source in units and target in units:
            return value * units[source] / units[target]
    raise ToolError(f"cannot convert {source!r} to {target!r}; the units are {UNITS}")
