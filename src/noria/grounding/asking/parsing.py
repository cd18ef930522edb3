"""A model's reply is read by a ladder from strict to lenient, and the rung is always reported.

1. the whole reply is JSON;
2. so it is without reasoning tags and code fences;
3. its largest balanced object is;
4. a broken object, mended;
5. letters and levels in prose, where an anchor such as `answer 3:` says what they answer.

Rungs 1 to 3 are strict. What a rung does not find stays unanswered; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.core.errors import require
from noria.grounding.corpus.types import LETTERS, TRAITS, level_number
from noria.grounding.scoring.predictions import letter_of

__all__ = ["Reading", "looks_refused", "objects_in", "read_reply"]

LONGEST = 200_000
"""Characters of a reply that are looked at."""
LONGEST_MENDED = 40_000
DEEPEST = 60


@dataclass
class Reading:
    """What a reply says.

    Attributes:
        levels: {trait: level 0 … 4}.
        rationales: {trait: text}.
        answers: {number of the question: letter}.
        rung: rung of the ladder; 0 where nothing was found.
        problems: faults of the reply, in words.
    """

    levels: dict[str, int] = field(default_factory=dict)
    rationales: dict[str, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    rung: int = 0
    problems: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.levels or self.rationales or self.answers)


def read_reply(text: str, *, numbers: Sequence[int] = (), traits: bool = False) -> Reading:
    """Climb the ladder until a rung holds anything that was asked.

    Args:
        text: the reply.
        numbers: numbers of the questions asked, from 1.
        traits: whether levels or rationales were asked for.
    """
    if len(text) > LONGEST:
        return Reading(problems=[f"a reply of {len(text):,} characters"])
    for rung, value in objects_in(text):
        reading = _reading(value, numbers, traits)
        if reading:
            reading.rung = rung
            return reading
    reading = _prose(_bare(text), numbers, traits)
    reading.rung = 5 if reading else 0
    if not reading:
        reading.problems.append("nothing that was asked is in the reply")
    return reading


# -- rungs 1 to 4 -----------------------------------------------------------------------------------------------------

_HALF = re.compile("[\ud800-\udfff]")
_THINKING = re.compile(r"<(/?)(think|thinking|reasoning|reflection)>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json|JSON)?\s*(.*?)```", re.DOTALL)
_REFUSAL = re.compile(
    r"\b(?:i\s*(?:'m|’m|\s+am)\s+(?:sorry|unable|not able)|i\s+(?:can(?:no|')?t|cannot|can’t|won(?:'|’)t|will not|"
    r"must decline|refuse)|as an ai\b.{0,40}\b(?:cannot|can't|unable))",
    re.IGNORECASE | re.DOTALL,
)


def _bare(text: str) -> str:
    """Without reasoning: what stands between tags, before a tag that only closes, behind one that only opens.

    One pass over the tags, for a model that is stuck may write thousands.
    """
    kept: list[str] = []
    place, inside = 0, ""
    for tag in _THINKING.finditer(text):
        closes, name = bool(tag[1]), tag[2].lower()
        if not closes and not inside:
            kept.append(text[place : tag.start()])
            inside = name
        elif closes and not inside:  # the opening tag was eaten
            kept.clear()
            place = tag.end()
        elif closes and inside == name:
            place, inside = tag.end(), ""
    return "".join(kept) if inside else "".join([*kept, text[place:]])


def objects_in(text: str) -> Iterator[tuple[int, Any]]:
    """(rung, value) of every JSON value that rungs 1 to 4 find in a reply, in order.

    Halves of characters, which JSON can escape and no file can hold, become U+FFFD.
    """
    halves = "\\ud" in text.lower() or not _is_whole(text)
    for rung, value in _objects_in(text):
        yield rung, _whole(value) if halves else value


def _is_whole(text: str) -> bool:
    return text.isascii() or _HALF.search(text) is None


def _whole(value: Any) -> Any:
    """A JSON value without halves of characters."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return value


def _objects_in(text: str) -> Iterator[tuple[int, Any]]:
    yield from ((1, value) for value in _loaded(text.strip()))
    bare = _bare(text).strip()
    for body in (bare, *(match[1].strip() for match in _FENCE.finditer(bare))):
        yield from ((2, value) for value in _loaded(body))
    spans = sorted(_balanced(bare), key=lambda span: span[0] - span[1])
    for start, end in spans[:8]:
        yield from ((3, value) for value in _loaded(bare[start:end]))
    start = bare.find("{")
    if start >= 0 and len(bare) - start <= LONGEST_MENDED and _depth(bare[start:]) <= DEEPEST:
        mend = require("json_repair", "grounding")
        try:
            yield 4, mend.loads(bare[start:], skip_json_loads=True)
        except (ValueError, RecursionError, IndexError):
            return


def _loaded(text: str) -> list[Any]:
    """The value of a JSON text in a list; empty where it is none."""
    if not text.startswith(("{", "[")) or _depth(text) > DEEPEST:
        return []
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError, too
        return []


def _depth(text: str) -> int:
    deepest = depth = 0
    for mark in re.findall(r"[\[\]{}]", text):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _balanced(text: str) -> Iterator[tuple[int, int]]:
    """Spans of outermost `{…}` whose braces match, outside of strings."""
    depth, start, quoted, escaped = 0, 0, False, False
    for place, mark in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif mark == "\\":
                escaped = True
            elif mark == '"':
                quoted = False
        elif mark == '"' and depth:
            quoted = True
        elif mark == "{":
            start = place if not depth else start
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
            if not depth:
                yield start, place + 1


def _reading(value: Any, numbers: Sequence[int], traits: bool) -> Reading:
    """What an object holds of what was asked."""
    reading = Reading()
    if isinstance(value, list):
        value = {"task3": value} if numbers else {}
    if not isinstance(value, Mapping):
        return reading
    named = {re.sub(r"[^a-z0-9]", "", str(key).lower()): inner for key, inner in value.items()}
    if traits:
        for trait, rating in _by_trait(named.get("task1", named)).items():
            level = level_number(rating)
            if level is None:
                reading.problems.append(f"{trait}: {str(rating)[:40]!r} is no level")
            else:
                reading.levels[trait] = level
        for trait, text in _by_trait(named.get("task2", {})).items():
            if isinstance(text, str) and text.strip():
                reading.rationales[trait] = text.strip()
    if numbers:
        for number, answers in _answers(named, numbers).items():
            letters = {letter_of(one, lenient=True) for one in answers}
            if len(letters) > 1:
                reading.problems.append(f"question {number}: answered {len(answers)} times, differently")
            elif (letter := letters.pop()) is None:
                reading.problems.append(f"question {number}: {str(answers[0])[:40]!r} is no letter")
            else:
                reading.answers[number] = letter
    return reading


def _by_trait(value: Any) -> dict[str, Any]:
    """{trait: value} of a mapping, or of a list of {trait, level|text}."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, Mapping) and "trait" in row]
        value = {
            row["trait"]: row.get("level", row.get("rating", row.get("rationale", row.get("text"))))
            for row in rows
        }
    if not isinstance(value, Mapping):
        return {}
    values = {}
    for key, inner in value.items():
        name = str(key).strip().lower()
        if name in TRAITS:
            if isinstance(inner, Mapping):
                inner = inner.get("level", inner.get("rating", inner.get("rationale", inner.get("text"))))
            values[name] = inner
    return values


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


def _answers(named: Mapping[str, Any], numbers: Sequence[int]) -> dict[int, list[Any]]:
    """{number: everything answered} of those asked.

    Entries without numbers of their own are in the order of the questions, if there are as many; else nobody knows
    which is which.
    """
    block = named.get("task3", named.get("answers"))
    if block is None:
        block = named["answer"] if "answer" in named and len(numbers) == 1 else named
    if isinstance(block, Mapping) and "answer" not in block:
        entries = [_entry({"q_idx": key, "answer": inner}) for key, inner in block.items()]
    else:
        entries = [_entry(entry) for entry in (block if isinstance(block, list) else [block])]
        unnumbered = all(number is None for number, _ in entries)
        # One answer to one question is an answer to it, whatever its number.
        if len(entries) == len(numbers) and (unnumbered or len(numbers) == 1):
            entries = [(number, answer) for number, (_, answer) in zip(numbers, entries, strict=True)]
    answers: dict[int, list[Any]] = {}
    for number, answer in entries:
        if number is not None and answer is not None and number in numbers:
            answers.setdefault(number, []).append(answer)
    return answers


def _entry(entry: Any) -> tuple[int | None, Any]:
    """(its number, its answer) of an entry."""
    if not isinstance(entry, Mapping):
        return None, entry
    number = next((n for key in _NUMBERS if (n := _number(entry.get(key))) is not None), None)
    answer = entry.get("answer", entry.get("letter", entry.get("choice")))
    return number, answer.get("answer") if isinstance(answer, Mapping) else answer


def _number(given: Any) -> int | None:
    """3 of 3, "3", "Q3", "question 3"."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    match = re.fullmatch(r"(?:q|question|q_?idx)?[\s_.#]*(\d{1,3})", str(given).strip().lower())
    return int(match[1]) if match else None


# -- rung 5 -----------------------------------------------------------------------------------------------------------

_ANCHORED = re.compile(
    rf"(?:\b(?:answer|question|q)\s*(?:to\s+question\s*)?#?\s*(\d{{1,3}})\s*(?:is|:|=|\)|\.|-)+\s*(?:answer\s*(?:is|:)\s*)?"
    rf"|^\s*(\d{{1,3}})\s*[.):-]\s*(?:answer\s*(?:is|:)\s*)?)[*_\"'(\[]*([{LETTERS}])(?![A-Za-z])",
    re.IGNORECASE | re.MULTILINE,
)
_ONLY = re.compile(rf"\banswer\b\s*(?:is|:|=)+\s*[*_\"'(\[]*([{LETTERS}])(?![A-Za-z'])", re.IGNORECASE)
_LEVELS = re.compile(
    r"\b(" + "|".join(TRAITS) + r")\b[*_\"']*\s*(?:is|:|=|-|–)+\s*[*_\"']*"
    r"(very[ _-]?high|very[ _-]?low|high|low|medium|moderate)\b",
    re.IGNORECASE,
)


def _prose(text: str, numbers: Sequence[int], traits: bool) -> Reading:
    """Letters and levels that an anchor ties to what they answer; one that is given twice, differently, is none."""
    reading = Reading()
    anchored: dict[int, set[str]] = {}
    for one, two, letter in _ANCHORED.findall(text):
        anchored.setdefault(int(one or two), set()).add(letter.upper())
    if len(numbers) == 1 and not anchored:
        anchored[numbers[0]] = {letter.upper() for letter in _ONLY.findall(text)}
    for number in numbers:
        letters = anchored.get(number, set())
        if len(letters) == 1:
            reading.answers[number] = next(iter(letters))
        elif letters:
            reading.problems.append(f"question {number}: answered {', '.join(sorted(letters))}")
    if traits:
        rated: dict[str, set[int]] = {}
        for trait, word in _LEVELS.findall(text):
            level = level_number(word)
            if level is not None:
                rated.setdefault(trait.lower(), set()).add(level)
        reading.levels = {trait: next(iter(levels)) for trait, levels in rated.items() if len(levels) == 1}
    return reading


def looks_refused(text: str) -> bool:
    """Whether a reply that answers nothing declines to; its first words decide."""
    return bool(_REFUSAL.search(_bare(text)[:400]))
