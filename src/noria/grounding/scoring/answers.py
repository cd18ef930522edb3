"""Numbered answers as replies and files write them: {number from 1: answer}."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Several:
    """Values given for the same thing that differ, which is no value."""

    values: tuple[Any, ...]


_NUMBERS = (
    "q_idx",
    "qidx",
    "question_number",
    "question_idx",
    "question_id",
    "number",
    "question",
    "idx",
    "index",
    "q",
    "id",
)
"""What models call the number of a question."""
_ANSWERS = ("answer", "letter", "choice", "option", "selected", "response")
"""What they call its answer."""


def entry_of(entry: Any) -> tuple[int | None, Any]:
    """(its number, its answer) of an entry of a list."""
    if not isinstance(entry, Mapping):
        return None, entry
    number = next((n for key in _NUMBERS if (n := number_of(entry.get(key))) is not None), None)
    return number, unwrapped(next((entry[key] for key in _ANSWERS if entry.get(key) is not None), None))


def unwrapped(answer: Any) -> Any:
    """The answer inside a mapping (`{"letter": "C"}`) or a list of one."""
    if isinstance(answer, Mapping):
        return next((answer[key] for key in (*_ANSWERS, "id") if answer.get(key) is not None), None)
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def number_of(given: Any) -> int | None:
    """3 of 3, 3.0, "3", "Q3", "question 3"."""
    if isinstance(given, float) and given.is_integer() and abs(given) < 1000:
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if not isinstance(given, str) or len(given) > 40:
        return None
    match = re.fullmatch(r"(?:q|question|q_?idx)?[\s_.#]*(\d{1,3})", given.strip().lower())
    return int(match[1]) if match else None


def gathered(entries: Iterable[tuple[int | None, Any]]) -> dict[int, Any]:
    """{number: answer}; what is answered twice, differently, is `Several`."""
    answers: dict[int, Any] = {}
    for number, answer in entries:
        if number is None or answer is None:
            continue
        before = answers.get(number)
        if before is not None and not _alike(before, answer):
            earlier = before.values if isinstance(before, Several) else (before,)
            answer = Several((*earlier, answer))
        answers[number] = answer
    return answers


def _alike(one: Any, other: Any) -> bool:
    bare = [value.strip(" ()[].:*").upper() if isinstance(value, str) else value for value in (one, other)]
    return type(one) is type(other) and bare[0] == bare[1]


def from_one(given: Mapping[int, T], numbers: Sequence[int]) -> tuple[dict[int, T], bool]:
    """The answers under the numbers that were asked, and whether that is beyond doubt.

    Who writes the number before the first counts from zero: all numbers are one more. It is beyond doubt where every
    question is answered so. With the last number there, too, a reply that counts from zero has one answer too many,
    and nobody knows which.

    >>> from_one({0: "B", 1: "C"}, (1, 2)), from_one({0: "B", 1: "C", 2: "D"}, (1, 2))
    (({1: 'B', 2: 'C'}, True), ({}, False))
    """
    asked = set(numbers)
    if asked and (before := min(asked) - 1) in given:
        if max(asked) not in given:
            shifted = {number + 1: answer for number, answer in given.items() if number + 1 in asked}
            return shifted, set(shifted) == asked
        if not before:
            return {}, False
    return {number: answer for number, answer in given.items() if number in asked}, True
