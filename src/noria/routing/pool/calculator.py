"""Arithmetic written by a model, worked out without running it: the tool of the strategy `tool`."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

__all__ = ["calculate", "fill_in"]

LONGEST = 200
"""Most characters of an expression."""
LARGEST = 1e15
"""Largest number that is worked with."""

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_TOOL = re.compile(r"<calc>(.*?)</calc>", re.DOTALL)


def calculate(expression: str) -> str | None:
    """Work out sums, products, quotients and powers of numbers; None for anything else.

    >>> calculate("3*(4+5)"), calculate("7/2"), calculate("__import__('os')")
    ('27', '3.5', None)
    """
    if len(expression) > LONGEST:
        return None
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError, TypeError):
        return None
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(right) > 64 or (left < 0 and right != int(right))):
            raise ValueError("a power out of bounds")
        return _bounded(
            _OPERATORS[type(node.op)](float(left) if isinstance(node.op, ast.Pow) else left, right)
        )
    raise ValueError("not arithmetic")


def _bounded(value: float) -> float:
    if abs(value) > LARGEST:
        raise ValueError("too large")
    return value


def fill_in(text: str) -> str:
    """Replace every `<calc>expression</calc>` by its value; one that has none is left as its words."""
    return _TOOL.sub(lambda match: calculate(match[1]) or match[1].strip(), text)
