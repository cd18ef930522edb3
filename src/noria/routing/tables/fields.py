"""Fields of a record from a file: the value of the kind that is needed, or one line on what it is instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from noria.core.errors import DataError


def text(record: Mapping[str, Any], field: str, where: str) -> str:
    """Read a field that must be a text with words in it.

    Raises:
        DataError: it is something else.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{field}: no text", where=where)
    return value


def optional_text(record: Mapping[str, Any], field: str, where: str) -> str | None:
    """Read a field that is a text, or null.

    Raises:
        DataError: it is something else.
    """
    value = record.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{field}: {shown(value)} is no text", where=where, mend="null if there is none")
    return value


def name(record: Mapping[str, Any], field: str, where: str) -> str:
    """Read a field that names something, by a text or a whole number; "" where it is absent.

    Raises:
        DataError: it is something else.
    """
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    return optional_text(record, field, where) or ""


def answers(value: Any, where: str) -> tuple[str, ...]:
    """Read right answers: a list of texts, or one text.

    Raises:
        DataError: it is something else.
    """
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(answer, str) for answer in listed):
        raise DataError("answers: not a list of strings", where=where, mend='write "answers": ["…"]')
    return tuple(listed)


def number(value: Any, field: str, where: str, *, most: float = math.inf) -> float:
    """Read a number from 0 to `most`; NaN for None.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return math.nan
    try:
        found = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        found = math.inf
    if not math.isfinite(found):
        raise DataError(f"{field}: {shown(value)} is no number", where=where, mend="null if it is unknown")
    if not 0 <= found <= most:
        reach = f"from 0 to {most:g}" if most < math.inf else "0 or more"
        raise DataError(f"{field}: {found:g} is not {reach}", where=where, mend="null if it is unknown")
    return found


def shown(value: Any) -> str:
    """A value as an error shows it, cut where it is long."""
    try:
        words = repr(value)
    except ValueError:  # a whole number of thousands of digits
        words = "a number of thousands of digits"
    return words if len(words) <= 60 else f"{words[:57]}…"
