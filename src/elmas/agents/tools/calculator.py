"""A calculator: expressions in Python's notation, exact as long as all numbers are rational, without `eval`.

Only the kinds of syntax below are read, and every intermediate result is bounded: no expression can take long.
"""

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from elmas.agents.tools.tool import ToolError
from elmas.agents.tools.units import UNITS, convert

LONGEST_EXPRESSION = 500
"""Characters."""

MAX_BITS = 4096
"""Of numerator and denominator of every number on the way."""

Number = Fraction | float

DESCRIPTION = (
    "one arithmetic expression such as (3 + 4) * 2 ** 10 / 7, also with sqrt, round, floor, ceil, abs, min, max, sum, "
    f"mean, gcd, factorial, comb, log, exp, sin, cos, tan, pi, and convert(5, 'mi', 'km') between the units {UNITS}"
)

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: _exact(left // right),
    ast.Mod: operator.mod,
}

_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> str:
    """Return the value of an expression: exact where it has a finite decimal form, else with 15 digits.

    Raises ToolError for what is no such expression, has no value, or is too large.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ToolError(f"the expression is longer than {LONGEST_EXPRESSION} characters: use python")
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/")
    try:
        return _written(_value(ast.parse(text, mode="eval").body, text))
    except ToolError:
        raise
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except SyntaxError:
        raise ToolError(f"{expression.strip()!r} is no expression; give {DESCRIPTION}") from None
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ToolError(f"no value: {error}") from None


def _value(node: ast.expr, text: str) -> Number:
    result: Number
    match node:
        case ast.Constant(value=bool() | complex()):
            raise ToolError("only real numbers")
        case ast.Constant(value=int() | float()):
            result = _literal(ast.get_source_segment(text, node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            result = _value(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            result = _power(_value(left, text), _value(right, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            result = _OPERATORS[type(op)](_value(left, text), _value(right, text))
        case ast.Name(id=name) if name in _CONSTANTS:
            result = _CONSTANTS[name]
        case ast.Call(func=ast.Name(id="convert"), args=[value, source, target], keywords=[]):
            result = convert(Fraction(_value(value, text)), _unit(source), _unit(target))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            result = _FUNCTIONS[name](*(_value(each, text) for each in _items(arguments)))
        case _:
            raise ToolError(f"cannot calculate {(ast.get_source_segment(text, node) or '')!r}; give {DESCRIPTION}")
    return _bounded(result)


def _items(arguments: list[ast.expr]) -> list[ast.expr]:
    """Return the arguments; those of one list, as in sum([1, 2])."""
    match arguments:
        case [ast.List(elts=items) | ast.Tuple(elts=items)]:
            return items
    return arguments


def _unit(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(name)) | ast.Name(id=name):
            return name
    raise ToolError("units are names, as in convert(5, 'mi', 'km')")


def _literal(text: str) -> Fraction:
    """Return a number as it is written, not its nearest float; its exponent is bounded before it is worked out."""
    digits = text.replace("_", "")
    if digits[:2].lower() in ("0x", "0o", "0b"):
        return Fraction(int(digits, 0))
    _, _, exponent = digits.lower().partition("e")
    if abs(int(exponent or 0)) > MAX_BITS // 4:
        raise ToolError("a number is too large")
    return Fraction(digits)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        n_bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if n_bits > 1 and (n_bits - 1) * abs(exponent.numerator) > MAX_BITS:
            raise ToolError("the power is too large")
        return base**exponent.numerator
    if isinstance(exponent, Fraction) and exponent == Fraction(1, 2):
        return _square_root(base)
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ToolError("the power is not real")
    return float(value)


def _square_root(value: Number) -> Number:
    if isinstance(value, Fraction) and value >= 0:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if (top * top, bottom * bottom) == (value.numerator, value.denominator):
            return Fraction(top, bottom)
    return math.sqrt(value)


def _rounded(value: Number, n_digits: Number = Fraction(0)) -> Number:
    """Round halves away from zero, as people do."""
    scale = Fraction(10) ** max(-300, min(300, _whole(n_digits)))
    scaled = abs(Fraction(value)) * scale
    return Fraction(math.floor(scaled + Fraction(1, 2))) / scale * (-1 if value < 0 else 1)


def _whole(value: Number) -> int:
    if isinstance(value, float) or value.denominator != 1:
        raise ToolError("a whole number is needed")
    return value.numerator


def _small(value: Number) -> int:
    if not 0 <= value <= 300:
        raise ToolError("a whole number from 0 to 300 is needed")
    return _whole(value)


def _exact(value: Number | int) -> Number:
    return value if isinstance(value, float) else Fraction(value)


def _bounded(value: Number | int) -> Number:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ToolError("the result is too large")
        return value
    exact = Fraction(value)
    if max(exact.numerator.bit_length(), exact.denominator.bit_length()) > MAX_BITS:
        raise ToolError("the result is too large")
    return exact


def _mean(*values: Number) -> Number:
    if not values:
        raise ToolError("the mean of nothing")
    return sum(values, Fraction(0)) / len(values)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": _square_root,
    "abs": abs,
    "round": _rounded,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "sum": lambda *values: sum(values, Fraction(0)),
    "mean": _mean,
    "gcd": lambda *values: Fraction(math.gcd(*map(_whole, values))),
    "factorial": lambda value: Fraction(math.factorial(_small(value))),
    "comb": lambda n, k: Fraction(math.comb(_small(n), _small(k))),
    "log": lambda value, base=math.e: math.log(value, base),
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
}


def _written(value: Number) -> str:
    if isinstance(value, float):
        return f"{value:.15g}"
    if value.denominator == 1:
        return str(value.numerator)
    rest, n_digits = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        n_digits = max(n_digits, power)
    if rest == 1 and n_digits <= 30:
        digits = str(abs(value.numerator) * 10**n_digits // value.denominator).zfill(n_digits + 1)
        return f"{'-' if value < 0 else ''}{digits[:-n_digits]}.{digits[-n_digits:]}"
    return f"{value.numerator / value.denominator:.15g}"
