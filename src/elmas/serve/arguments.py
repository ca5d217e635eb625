"""Looking into arguments that are meant for vLLM: which options are there, with which values.

vLLM's parser takes `--block-size 32`, `--block-size=32`, `--block_size 32` and, for JSON options, `--name.key value`.
"""

from collections.abc import Sequence

from elmas.errors import UserError


def _name(argument: str) -> str:
    name = argument.split("=", 1)[0]
    return name.replace("_", "-") if name.startswith("--") else name


def has_option(arguments: Sequence[str], *names: str) -> bool:
    """Return whether one of the options `names` is among `arguments`, in any spelling, dotted JSON keys included."""
    return any(_name(argument).split(".", 1)[0] in names for argument in arguments if argument.startswith("-"))


def option_value(arguments: Sequence[str], *names: str) -> str | None:
    """Return the value of the last occurrence of an option (`names` are its spellings); None when it is not there."""
    value = None
    for index, argument in enumerate(arguments):
        if not argument.startswith("-") or _name(argument) not in names:
            continue
        if "=" in argument:
            value = argument.split("=", 1)[1]
        elif index + 1 < len(arguments):
            value = arguments[index + 1]
    return value


def integer_option(arguments: Sequence[str], default: int, *names: str) -> int:
    """Return an option's value as an integer, `default` when it is not there; raises UserError for anything else."""
    value = option_value(arguments, *names)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{names[0]} is {value!r}: write a whole number") from None
