"""Formulas of derived numbers: what a report computes from facts, by name, so that a reader can compute it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

from noria.core.errors import DataError
from noria.reports.evidence.quantities import dimension
from noria.reports.evidence.records import Book, Derived

_Values = Sequence[Decimal]


def _growth(values: _Values) -> Decimal:
    return (values[-1] - values[0]) / abs(values[0]) * 100


def _correlation(values: _Values) -> Decimal:
    """Pearson's r of the first half of the values with the second."""
    half = len(values) // 2
    first, second = values[:half], values[half:]
    zero = Decimal(0)
    mean_a, mean_b = sum(first, zero) / half, sum(second, zero) / half
    covariance = sum(((a - mean_a) * (b - mean_b) for a, b in zip(first, second, strict=True)), zero)
    spread = sum(((a - mean_a) ** 2 for a in first), zero) * sum(((b - mean_b) ** 2 for b in second), zero)
    return covariance / spread.sqrt()


def _median(values: _Values) -> Decimal:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


FORMULAS: dict[str, Callable[[_Values], Decimal]] = {
    "sum": lambda v: sum(v, Decimal(0)),
    "mean": lambda v: sum(v, Decimal(0)) / len(v),
    "median": _median,
    "count": lambda v: Decimal(len(v)),
    "difference": lambda v: v[0] - v[-1],
    "ratio": lambda v: v[0] / v[1],
    "growth": _growth,
    "share": lambda v: v[0] / sum(v[1:], Decimal(0)) * 100,
    "gap to median": lambda v: v[0] - _median(v[1:]),
    "rank": lambda v: Decimal(1 + sum(other > v[0] for other in v[1:])),
    "correlation": _correlation,
    "convert": lambda v: v[0],
}
"""Formula by name; `growth` and `share` are in per cent, `share` is that of the first in the sum of the others."""
UNITLESS = {"ratio", "rank", "correlation", "count"}
PERCENT = {"growth", "share"}
_LEAST = {
    "difference": 2,
    "ratio": 2,
    "growth": 2,
    "share": 2,
    "gap to median": 2,
    "rank": 2,
    "correlation": 6,
}


def compute(operation: str, values: Sequence[Decimal]) -> Decimal | None:
    """Result of a formula to 12 digits; None where it is undefined (a division by zero, too few values).

    Raises:
        DataError: there is no such formula.
    """
    if operation not in FORMULAS:
        raise DataError(
            f"no formula {operation!r}", where="derived number", mend=f"formulas: {', '.join(FORMULAS)}"
        )
    if len(values) < _LEAST.get(operation, 1):
        return None
    with localcontext() as context:
        context.prec = 28
        try:
            result = FORMULAS[operation](values)
        except ArithmeticError:
            return None
        context.prec = 12
        return (+result).normalize() + 0


def derive(
    book: Book, operation: str, operands: Sequence[str], *, unit: str | None = None, label: str = ""
) -> Derived | None:
    """Compute a number from facts of the ledger and enter it; None where it is undefined or units do not fit.

    Args:
        book: ledger that holds the facts.
        operation: name of the formula.
        operands: ids of facts.
        unit: unit of the result; by default that of the facts, none for ratios, and per cent for growth and shares.
        label: description of the number in words.
    """
    facts = [book.facts[id] for id in operands]
    units = {dimension(fact.unit)[0] for fact in facts}
    if operation not in ("correlation", "count") and len(units) > 1:
        return None
    first = facts[0].unit
    values = [
        in_unit(fact.value, fact.unit, first) if operation != "correlation" else fact.value for fact in facts
    ]
    value = compute(operation, values)
    if value is None:
        return None
    if unit is None:
        unit = "%" if operation in PERCENT else "" if operation in UNITLESS else first
    return book.derive(operation, tuple(operands), value, unit, label)


def in_unit(value: Decimal, unit: str, target: str) -> Decimal:
    """A value in another unit of the same dimension."""
    ours, theirs = dimension(unit), dimension(target)
    return value if unit == target or ours[0] != theirs[0] else value * ours[1] / theirs[1]


def recompute(book: Book, entry: Derived) -> Decimal | None:
    """Compute a derived number again from its facts; None where one is missing or the formula is undefined."""
    facts = [book.facts.get(id) for id in entry.operands]
    known = [fact for fact in facts if fact is not None]
    if len(known) < len(facts) or not known:
        return None
    scale = entry.operation != "correlation"
    return compute(
        entry.operation, [in_unit(f.value, f.unit, known[0].unit) if scale else f.value for f in known]
    )
