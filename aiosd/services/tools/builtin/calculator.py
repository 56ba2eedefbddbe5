"""Arithmetic: an expression is parsed and walked, never evaluated as code.

Rule: every step's size is bounded before it is taken: 9**9**9 is an error, not a busy minute.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

from aios_sdk.toolbox import tool

MAX_CHARS: Final = 1000
MAX_NODES: Final = 500
MAX_BITS: Final = 20_000  # of a whole number: 6,000 digits
MAX_FACTORIAL: Final = 1500

Number = int | float
Step = Callable[..., Number]


class CannotCalculate(ValueError):  # noqa: N818 - the model reads it
    """What is asked is no arithmetic, or too much of it."""


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent > 0 and base.bit_length() * exponent > MAX_BITS:
            raise CannotCalculate(f"the power has more than {MAX_BITS} bits")
        if exponent < -MAX_BITS:
            raise CannotCalculate(f"the exponent is {exponent}, the least is {-MAX_BITS}")
    result = base**exponent
    if isinstance(result, complex):
        raise CannotCalculate("the result is not a real number")
    return result


def _shift(value: Number, by: Number) -> Number:
    if not (isinstance(value, int) and isinstance(by, int)):
        raise CannotCalculate("only whole numbers can be shifted")
    if not 0 <= by <= MAX_BITS:
        raise CannotCalculate(f"shift by {by}: it must be 0 to {MAX_BITS}")
    return value << by


def _factorial(n: Number) -> int:
    if not isinstance(n, int) or not 0 <= n <= MAX_FACTORIAL:
        raise CannotCalculate(f"factorial takes a whole number from 0 to {MAX_FACTORIAL}")
    return math.factorial(n)


def _round(value: Number, n_digits: Number = 0) -> Number:
    if not isinstance(n_digits, int) or not 0 <= n_digits <= 300:
        raise CannotCalculate("round takes a number, and a count of digits from 0 to 300")
    return round(value, n_digits) if n_digits else round(value)


def _choose(n: Number, k: Number) -> int:
    if not (isinstance(n, int) and isinstance(k, int)) or not 0 <= k <= n <= MAX_BITS:
        raise CannotCalculate(f"comb takes whole numbers 0 <= k <= n <= {MAX_BITS}")
    return math.comb(n, k)


_OPERATORS: Final[Mapping[type[ast.AST], Step]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.LShift: _shift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_FUNCTIONS: Final[Mapping[str, Step]] = {
    **{
        name: getattr(math, name)
        for name in (
            "sqrt", "cbrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos",
            "atan", "atan2", "sinh", "cosh", "tanh", "degrees", "radians", "floor", "ceil",
            "trunc", "hypot", "gcd", "isqrt",
        )
    },
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "pow": _power,
    "factorial": _factorial,
    "comb": _choose,
}  # fmt: skip
_NAMES: Final[Mapping[str, Number]] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def calculate(expression: str) -> Number:
    """Its value.  CannotCalculate says what is wrong."""
    text = expression.strip()
    if len(text) > MAX_CHARS:
        raise CannotCalculate(f"{len(text)} characters, limit is {MAX_CHARS}")
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise CannotCalculate("that is no arithmetic expression") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise CannotCalculate(f"more than {MAX_NODES} parts")
    try:
        return _value(tree.body)
    except ZeroDivisionError:
        raise CannotCalculate("division by zero") from None
    except (OverflowError, TypeError, ValueError) as error:
        if isinstance(error, CannotCalculate):
            raise
        raise CannotCalculate(str(error)) from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            return _bounded(value)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand):
            if type(op) in _OPERATORS:
                return _bounded(_OPERATORS[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right):
            if type(op) in _OPERATORS:
                return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, args)))
    raise CannotCalculate(f"{ast.unparse(node)[:60]!r} is no part of arithmetic here")


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise CannotCalculate(f"a number of more than {MAX_BITS} bits")
    return value


@tool(max_parallel=8, ordered=False, timeout_s=10)
def calculator(expression: str) -> str:
    """Work out an arithmetic expression: + - * / // % ** and functions such as sqrt, log, sin.

    Args:
        expression: for example "(17 * 23) / sqrt(2)"; "pi", "e" and "tau" are known
    """
    value = calculate(expression)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
