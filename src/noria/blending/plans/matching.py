"""Which candidates a targeting expression hits, column by column."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.blending.columns import Column, NameColumn, NameLists
from noria.blending.plans.targeting import Both, Compare, Expression, Flag, Has, Missing, Name, Not, Operand
from noria.core.errors import DataError

Flags: TypeAlias = "NDArray[np.bool_]"


_Answer: TypeAlias = "NDArray[np.int8]"  # 1 where it is true, −1 where it is false, 0 where it is unknown

_OPERATORS: dict[str, Callable[..., Flags]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def evaluate(expression: Expression, columns: Mapping[str, Column], rows: int) -> Flags:
    """Where an expression is true.

    A column that is absent is missing in every row.

    Args:
        expression: parsed expression.
        columns: columns of the candidates, by name.
        rows: number of candidates.

    Returns:
        [rows] flags; False where it is false or unknown.

    Raises:
        DataError: a column is of another kind than the expression takes it for.
    """
    # Only a negation has to know where a test is false; the usual tests take one step.
    if isinstance(expression, Both):
        parts = [evaluate(part, columns, rows) for part in expression.parts]
        return functools.reduce(np.bitwise_or if expression.either else np.bitwise_and, parts)
    if isinstance(expression, Compare):
        left, other, operator = columns.get(expression.column), expression.other, expression.operator
        if isinstance(left, NameColumn) and isinstance(other, str) and operator in ("==", "!="):
            return _hits(left.names, other, operator == "==")[left.codes]
        if isinstance(left, np.ndarray) and left.dtype == np.float64 and type(other) in (float, int):
            result = _OPERATORS[operator](left, other)
            return (
                result & ~np.isnan(left) if operator == "!=" else result
            )  # other tests of NaN are never true
    return _answer(expression, columns, rows) > 0


def _answer(expression: Expression, columns: Mapping[str, Column], rows: int) -> _Answer:
    if isinstance(expression, Both):
        parts = [_answer(part, columns, rows) for part in expression.parts]
        return functools.reduce(np.maximum if expression.either else np.minimum, parts)
    if isinstance(expression, Not):
        return -_answer(expression.inner, columns, rows)
    if isinstance(expression, Flag):
        return _flag(expression.operand, columns, rows)
    if isinstance(expression, Compare):
        return _compare(expression, columns, rows)
    column = columns.get(expression.column)
    if isinstance(expression, Missing):
        return _told(np.ones(rows, np.bool_) if column is None else _missing(column))
    if column is None:
        return np.zeros(rows, np.int8)
    if isinstance(expression, Has):
        if not isinstance(column, NameLists):
            raise _kind(expression.column, "lists of names")
        hit = _listed(column, expression.name)
    elif isinstance(expression.values[0], str):
        if not isinstance(column, NameColumn):
            raise _kind(expression.column, "names")
        hit = _by_name(column, [name in expression.values for name in column.names])
    else:
        if not isinstance(column, np.ndarray) or column.dtype != np.float64:
            raise _kind(expression.column, "numbers")
        hit = np.isin(column, np.array(expression.values))
    return _told(hit, ~_missing(column))


def _flag(operand: Operand, columns: Mapping[str, Column], rows: int) -> _Answer:
    if not isinstance(operand, Name):
        return _told(np.full(rows, bool(operand)))
    column = columns.get(operand.name)
    if column is None:
        return np.zeros(rows, np.int8)
    if not isinstance(column, np.ndarray) or not _is_flags(column):
        raise _kind(operand.name, "flags")
    return _told(column == 1, ~_missing(column))


def _compare(test: Compare, columns: Mapping[str, Column], rows: int) -> _Answer:
    left = columns.get(test.column)
    other = columns.get(test.other.name) if isinstance(test.other, Name) else test.other
    if left is None or other is None:
        return np.zeros(rows, np.int8)
    if isinstance(left, NameColumn):
        if test.operator not in ("==", "!="):
            raise DataError(
                f"names have no order, so {test.operator} says nothing", where=f"column {test.column!r}"
            )
        if isinstance(other, str):
            hit = _by_name(left, [name == other for name in left.names])
        elif isinstance(other, NameColumn):
            place = {name: code for code, name in enumerate(other.names)}
            hit = left.codes_in(place) == other.codes
        else:
            raise _kind(test.column, "numbers")
        if test.operator == "!=":
            hit = ~hit
    elif isinstance(left, NameLists):
        raise _kind(test.column, "numbers or names")
    else:
        wanted = "flags" if _is_flags(left) else "numbers"
        if isinstance(other, NameColumn | NameLists | str) or (wanted == "flags") != _is_flags(other):
            raise _kind(test.column, "names" if isinstance(other, str | NameColumn) else _opposite(wanted))
        hit = _OPERATORS[test.operator](left, other)
    known = ~_missing(left)
    return _told(hit, known if isinstance(other, str | float | int) else known & ~_missing(other))


def _is_flags(value: NDArray[Any] | float | bool) -> bool:
    return value.dtype in (np.bool_, np.int8) if isinstance(value, np.ndarray) else isinstance(value, bool)


def _opposite(wanted: str) -> str:
    return "flags" if wanted == "numbers" else "numbers"


def _hits(names: tuple[str, ...], other: str, same: bool) -> Flags:
    """[names + 1] whether each name is the other (or is not); the last, of code −1, is False."""
    return (
        _known_hits(names, other, same) if len(names) <= 64 else _known_hits.__wrapped__(names, other, same)
    )


@functools.lru_cache(maxsize=4096)
def _known_hits(names: tuple[str, ...], other: str, same: bool) -> Flags:
    return np.array([*((name == other) is same for name in names), False], np.bool_)


def _by_name(column: NameColumn, hits: list[bool]) -> Flags:
    return np.array([*hits, False], np.bool_)[column.codes]  # code −1 reads the last


def _listed(column: NameLists, name: str) -> Flags:
    hits = _by_name(NameColumn(column.names, column.codes), [one == name for one in column.names])
    before = np.concatenate([[0], np.cumsum(hits)])
    counts = before[column.offsets[1:]] - before[column.offsets[:-1]]
    result: Flags = counts > 0
    return result


def _missing(column: Column) -> Flags:
    if isinstance(column, NameColumn):
        result: Flags = column.codes < 0
        return result
    if isinstance(column, NameLists):
        return np.zeros(len(column), np.bool_) if column.missing is None else column.missing
    return np.isnan(column) if column.dtype == np.float64 else column < 0


def _told(hit: Flags, known: Flags | None = None) -> _Answer:
    """Answers from where a test holds and where it can be said."""
    result: _Answer = np.where(hit, np.int8(1), np.int8(-1))
    return result if known is None else result * known


def _kind(column: str, wanted: str) -> DataError:
    return DataError(
        f"it does not hold {wanted}", where=f"column {column!r}", mend="correct the plan's `when`"
    )
