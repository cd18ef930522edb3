"""JSON in the words of a chat model: without its reasoning, inside or outside a code fence.

Where a reply corrects itself, its last word counts. Values that differ and stand side by side, without a word between
them, are no answer, and neither is an object that names a field twice, differently.
"""

from __future__ import annotations

import collections
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from noria.core.chat.reasoning import bare_text
from noria.core.errors import DataError
from noria.core.records import json_value

LONGEST_REPLY = 200_000
"""Most characters of a reply without its reasoning; a longer one holds no answer."""
LONGEST_MENDED = 40_000
"""Most characters of broken objects that are mended between two code fences."""
MOST_OBJECTS = 64
"""Objects of a reply that are looked at; the last ones, for the last word counts."""


@dataclass(frozen=True)
class Found:
    """A JSON value in a reply.

    Attributes:
        value: the value.
        rung: 1 where the whole reply is JSON, 2 where it is without reasoning and code fences, 3 for a whole value in
            it, 4 for a broken one that was mended.
        start, end: place of the value in the reply without reasoning.
    """

    value: Any
    rung: int
    start: int
    end: int


Load = Callable[[str], list[Any]]
"""Gives the value of a JSON text in a list; empty where it is none."""


def json_in(reply: str, wanted: Callable[[Any], bool] = lambda value: True) -> Any:
    """The JSON object or list that a reply ends with; None where there is none, or two that differ stand side by side.

    NaN and the infinities are null. Half an object, a doubled field, numbers of thousands of digits and half characters
    make it None: what cannot be read whole is no answer.

    Args:
        reply: words of the model.
        wanted: whether a value can be the answer; others, such as `[1]` for a source, are left out.
    """
    bare = bare_text(reply)
    if len(bare) > LONGEST_REPLY:
        return None
    answer, end = None, 0
    for found in values_in(reply, bare, _loaded, mend=lambda piece: [_BROKEN], lists=True):
        if found.value is not _BROKEN and not wanted(found.value):
            continue
        torn = bool(end) and found.value != answer and side_by_side(bare[end : found.start])
        answer, end = (_BROKEN if torn else found.value), found.end
    return None if answer is _BROKEN else answer


def object_in(reply: str) -> dict[str, Any] | None:
    """The JSON object that a reply ends with, as `json_in` reads it; None where there is none."""
    value: dict[str, Any] | None = json_in(reply, lambda value: isinstance(value, dict))
    return value


def side_by_side(between: str) -> bool:
    """Whether text between two values says no more than `or`: a correction has words."""
    return not re.search(r"[^\W\d_]", re.sub(r"\b(?:or|json)\b", "", between, flags=re.IGNORECASE))


def values_in(
    reply: str, bare: str, load: Load, *, mend: Load = lambda piece: [], lists: bool = False
) -> list[Found]:
    """The JSON values of a reply, in the order of the text.

    Args:
        reply: words of the model.
        bare: the reply without reasoning.
        load: reads a JSON text.
        mend: reads a broken one.
        lists: whether lists in prose are values, beside objects.
    """
    for rung, whole in ((1, reply), (2, bare)):
        for value in load(whole.strip()):
            return [Found(value, rung, 0, len(bare))]
    values: list[Found] = []
    place = 0
    for fence in _FENCE.finditer(bare):
        for value in load(fence[1].strip()):
            values += _in_prose(bare, place, fence.start(), load, mend, lists=lists)
            values.append(Found(value, 2, fence.start(), fence.end()))
            place = fence.end()
    return values + _in_prose(bare, place, len(bare), load, mend, lists=lists)


_FENCE = re.compile(r"```(?:json|JSON)?\s*(.*?)```", re.DOTALL)
_OBJECT = re.compile(r"\{(?=\s*(?:[\"'“}]|\w{1,40}\s*:))")
"""A brace that begins an object; `{B}` and `{{` in a sentence do not."""
_VALUE = re.compile(_OBJECT.pattern + r"|\[(?=\s*[\[{\"\]0-9-])")
_ROWS = re.compile(r"\[\s*[\[{]")
"""The beginning of a list of objects or lists; a broken one is an answer that was cut off, and no prose."""
_BROKEN: Any = object()


def _in_prose(text: str, start: int, end: int, load: Load, mend: Load, *, lists: bool) -> list[Found]:
    """The values in a part of a text; what is broken is mended, as far as it is not too long."""
    values: list[Found] = []
    left = LONGEST_MENDED
    spans = _balanced(text, start, end, _VALUE if lists else _OBJECT)
    for first, last in collections.deque(spans, MOST_OBJECTS):
        piece = text[first:last]
        loaded, rung = load(piece), 3
        if not loaded and piece[0] == "[" and not _ROWS.match(piece):  # `[0, 5)` in a sentence
            values += _in_prose(text, first, last, load, mend, lists=False)
        elif not loaded and len(piece) <= left:
            left -= len(piece)
            loaded, rung = mend(piece), 4
        values += [Found(value, rung, first, last) for value in loaded]
    return values


def _balanced(text: str, start: int, end: int, opens: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Spans of outermost values, outside of strings; one that is never closed reaches to the end."""
    depth, first, quoted, escaped = 0, start, False, False
    openings = {found.start() for found in opens.finditer(text, start, end)}
    begins, closes = ("{[", "}]") if opens is _VALUE else ("{", "}")
    for place in range(start, end):
        mark = text[place]
        if quoted:
            if escaped:
                escaped = False
            elif mark == "\\":
                escaped = True
            elif mark == '"':
                quoted = False
        elif mark == '"' and depth:
            quoted = True
        elif mark in begins and (depth or place in openings):
            first = place if not depth else first
            depth += 1
        elif mark in closes and depth:
            depth -= 1
            if not depth:
                yield first, place + 1
    if depth:
        yield first, end


def _loaded(text: str) -> list[Any]:
    if not text.startswith(("{", "[")):
        return []
    try:
        json_value(text, "reply")  # within its bounds
        return [
            json.loads(text, parse_constant=lambda name: None, parse_float=_finite, object_pairs_hook=_single)
        ]
    except (ValueError, RecursionError, DataError):
        return []


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of fields that are each named once, or each time with the same value."""
    fields = dict(pairs)
    if len(fields) < len(pairs) and any(fields[name] != value for name, value in pairs):
        raise ValueError("a field is named twice")
    return fields
