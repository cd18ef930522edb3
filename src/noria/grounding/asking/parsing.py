"""A model's reply is read by a ladder from strict to lenient, and each value keeps the rung that it was read on.

1. the whole reply is JSON;
2. so it is without reasoning and code fences;
3. a whole object in it is;
4. a broken object, mended; an answer in any dress, such as `(C)` or `C: the words`;
5. letters and levels in prose, where an anchor such as `answer 3:` says what they answer.

Rungs 1 to 3 are strict. Where a reply corrects itself, its last word counts. A question that is answered twice, or on
no rung, stays unanswered; nothing is guessed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from noria.core.chat.json_replies import LONGEST_REPLY, Found, side_by_side, values_in
from noria.core.chat.reasoning import bare_text
from noria.core.errors import require
from noria.grounding.corpus.letters import LONGEST_ANSWER, answers_in, claim, letter_in, letter_of, plain_text
from noria.grounding.corpus.types import TRAITS, level_number
from noria.grounding.scoring.answers import Several, entry_of, from_one, gathered, number_of, unwrapped
from noria.grounding.scoring.predictions import STRICT_RUNG, whole_text

K = TypeVar("K", str, int)
V = TypeVar("V")

DEEPEST = 60
"""Most lists and objects around a value of a reply."""


@dataclass
class Reading:
    """Answers that a reply was read as.

    Attributes:
        levels: {trait: level 0 … 4}.
        rationales: {trait: text}.
        answers: {number of the question: letter}.
        rungs: {trait or number: rung that its level or answer was read on}.
        torn: what was answered twice, differently.
        problems: faults of the reply, in words.
    """

    levels: dict[str, int] = field(default_factory=dict)
    rationales: dict[str, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    rungs: dict[str | int, int] = field(default_factory=dict)
    torn: set[str | int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.levels or self.rationales or self.answers)

    @property
    def rung(self) -> int:
        """The most lenient rung that a level or an answer was read on; 1 for rationales alone, 0 for nothing."""
        return max(self.rungs.values(), default=int(bool(self)))


def read_reply(
    text: str, *, numbers: Sequence[int] = (), traits: bool = False, tags: Sequence[str] = ()
) -> Reading:
    """Read what was asked out of a reply.

    Args:
        text: the reply.
        numbers: numbers of the questions asked, from 1.
        traits: whether levels or rationales were asked for.
        tags: names of reasoning tags besides the usual ones.
    """
    if len(text) > LONGEST_REPLY:
        return Reading(problems=[f"a reply of {len(text):,} characters"])
    bare = bare_text(text, tags)
    reading, end = Reading(), 0
    for found in _values(text, bare):
        later = _reading(found.value, numbers, traits)
        beside = bool(reading) and side_by_side(bare[end : found.start])
        _add(reading, later, found.rung, beside=beside)
        end = found.end
    if numbers:
        nothing = not (reading.answers or reading.torn)
        _add(reading, _prose_answers(bare[end:], numbers, whole=nothing and not end), 5)
        if nothing and end and not reading.answers:
            _add(reading, _prose_answers(bare, numbers, whole=False), 5)
    if traits and not reading.levels:
        _add(reading, Reading(levels=_prose_levels(bare)), 5)
    reading.problems += [f"{name}: several answers" for name in sorted(reading.torn, key=str)]
    if not reading:
        reading.problems.append("nothing that was asked is in the reply")
    return reading


def _add(reading: Reading, later: Reading, rung: int, *, beside: bool = False) -> None:
    """Put what a later part of a reply says in the place of what an earlier one said of the same.

    Args:
        reading: what was read so far.
        later: what the next part says.
        rung: rung of the part.
        beside: no words stand between the two, so that what differs is no correction but a second answer.
    """
    names: list[str | int] = [*later.levels, *later.answers]
    same: set[str | int] = {n for n, level in later.levels.items() if reading.levels.get(n) == level}
    same |= {n for n, letter in later.answers.items() if reading.answers.get(n) == letter}
    _lay(reading.levels, later.levels, reading.torn, beside)
    _lay(reading.answers, later.answers, reading.torn, beside)
    reading.torn |= later.torn
    for name in later.torn:
        reading.levels.pop(name, None)  # type: ignore[arg-type]
        reading.answers.pop(name, None)  # type: ignore[arg-type]
    for name in names:
        own = max(rung, later.rungs.get(name, 0))
        # What was said strictly before, and is said again, was said strictly.
        reading.rungs[name] = min(own, reading.rungs.get(name, own)) if name in same else own
    kept = {*reading.levels, *reading.answers}
    reading.rungs = {name: own for name, own in reading.rungs.items() if name in kept}
    reading.rationales |= later.rationales
    reading.problems += later.problems


def _lay(mine: dict[K, V], said: Mapping[K, V], torn: set[str | int], beside: bool) -> None:
    for name, value in said.items():
        if beside and (name in torn or mine.get(name, value) != value):
            torn.add(name)
            mine.pop(name, None)
        else:
            torn.discard(name)
            mine[name] = value


# -- rungs 1 to 4 -----------------------------------------------------------------------------------------------------

_HALF = re.compile("[\ud800-\udfff]")
_REFUSAL = re.compile(
    r"\b(?:i\s*(?:'m|’m|\s+am)\s+(?:sorry|unable|not able)|i\s+(?:can(?:no|')?t|cannot|can’t|won(?:'|’)t|will not|"
    r"must decline|refuse)|as an ai\b.{0,40}\b(?:cannot|can't|unable)|je (?:suis désolé|ne peux pas)|lo siento|"
    r"no puedo|es tut mir leid|ich kann (?:das|diese|dazu|nicht)|não posso|non posso)|抱歉|对不起|無法|无法|申し訳|"
    r"できません|죄송",
    re.IGNORECASE | re.DOTALL,
)


def objects_in(text: str) -> list[tuple[int, Any]]:
    """(rung, value) of every JSON value that rungs 1 to 4 find in a reply, in the order of the text."""
    return [(one.rung, one.value) for one in _values(text, bare_text(text))]


def _values(text: str, bare: str) -> list[Found]:
    """The values of a reply. Halves of characters, which JSON can escape and no file can hold, become U+FFFD."""
    values = values_in(text, bare, _loaded, mend=_mended)
    if "\\ud" in text.lower() or not _is_whole(text):
        return [replace(one, value=whole_text(one.value)) for one in values]
    return values


def _is_whole(text: str) -> bool:
    return text.isascii() or _HALF.search(text) is None


def _mended(piece: str) -> list[Any]:
    if _depth(piece) > DEEPEST:
        return []
    mend = require("json_repair", "grounding")
    try:
        return [mend.loads(piece, skip_json_loads=True)]
    except (ValueError, RecursionError, IndexError):
        return []


def _loaded(text: str) -> list[Any]:
    """The value of a JSON text in a list; empty where it is none."""
    if not text.startswith(("{", "[")) or _depth(text) > DEEPEST:
        return []
    try:
        return [json.loads(text, object_pairs_hook=_mapping)]
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError, too
        return []


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a name that is given twice, differently, holds `Several`."""
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        twice = name in mapping and mapping[name] != value
        mapping[name] = Several((mapping[name], value)) if twice else value
    return mapping


def _depth(text: str) -> int:
    deepest = depth = 0
    for mark in re.findall(r"[\[\]{}]", text):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _reading(value: Any, numbers: Sequence[int], traits: bool) -> Reading:
    """What an object holds of what was asked."""
    reading = Reading()
    if isinstance(value, list):
        value = {"task3": value} if numbers else {}
    named = _unwrapped(_named(value))
    if traits:
        ratings = _by_trait(named.get("task1", named))
        digits = [r for r in ratings.values() if isinstance(r, int | float) and not isinstance(r, bool)]
        other_scale = any(not 1 <= digit <= 5 for digit in digits)  # 0 to 4, or 1 to 10
        for trait, rating in ratings.items():
            level = None if other_scale and rating in digits else level_number(rating)
            if level is None:
                reading.problems.append(f"{trait}: {str(rating)[:40]!r} is no level")
            else:
                reading.levels[trait] = level
        for trait, text in _by_trait(named.get("task2", {})).items():
            if isinstance(text, str) and text.strip():
                reading.rationales[trait] = text.strip()
    if numbers:
        _read_answers(reading, named, numbers)
    return reading


_ASKED = {"task1", "task2", "task3", "answers", "answer"}


def _named(value: Any) -> dict[str, Any]:
    """The fields of an object by their names without case, spaces and marks."""
    if not isinstance(value, Mapping):
        return {}
    return _mapping([(re.sub(r"[^a-z0-9]", "", str(key).lower()), inner) for key, inner in value.items()])


def _unwrapped(named: dict[str, Any]) -> dict[str, Any]:
    """The fields inside a wrapper such as `{"response": {…}}`."""
    while len(named) == 1 and not (_ASKED | set(TRAITS)) & named.keys():
        (inner,) = named.values()
        if not isinstance(inner, Mapping):
            break
        named = _named(inner)
    return named


def _read_answers(reading: Reading, named: Mapping[str, Any], numbers: Sequence[int]) -> None:
    answers, sure = _answers(named, numbers)
    for number, answer in answers.items():
        strict = letter_of(answer)
        letter = strict or (claim(answer) if isinstance(answer, str) else None)
        if letter == "" or isinstance(answer, Several | list):
            reading.torn.add(number)
        elif letter is None:
            reading.problems.append(f"question {number}: {str(answer)[:40]!r} is no letter")
        else:
            reading.answers[number] = letter
            reading.rungs[number] = 1 if strict and sure else STRICT_RUNG + 1


def _by_trait(value: Any) -> dict[str, Any]:
    """{trait: value} of a mapping, or of a list of {trait, level|text}."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, Mapping) and "trait" in row]
        value = _mapping([(str(row["trait"]), row) for row in rows])
    if not isinstance(value, Mapping):
        return {}
    values: dict[str, Any] = {}
    for key, inner in value.items():
        name = str(key).strip().lower()
        if name in TRAITS:
            if isinstance(inner, Mapping):
                inner = inner.get("level", inner.get("rating", inner.get("rationale", inner.get("text"))))
            twice = name in values and values[name] != inner
            values[name] = Several((values[name], inner)) if twice else inner
    return values


def _answers(named: Mapping[str, Any], numbers: Sequence[int]) -> tuple[dict[int, Any], bool]:
    """{number: answer} of those asked, and whether their numbers are beyond doubt.

    Entries without numbers of their own are in the order of the questions, if there are as many; else nobody knows
    which is which.
    """
    block = named.get("task3", named.get("answers"))
    if block is None:
        block = named["answer"] if "answer" in named and len(numbers) == 1 else named
    while isinstance(block, Mapping) and len(block) == 1:  # `{"answers": […]}`
        ((key, inner),) = block.items()
        if number_of(key) is not None or not isinstance(inner, list):
            break
        block = inner
    if isinstance(block, str) and len(numbers) == 1:
        return {numbers[0]: block}, True
    if isinstance(block, str):
        read = _prose_answers(block, numbers, whole=True)
        return dict(read.answers) | {n: Several(()) for n in read.torn if isinstance(n, int)}, False
    if isinstance(block, Mapping) and "answer" not in block:
        entries = [(number_of(key), unwrapped(inner)) for key, inner in block.items()]
    else:
        entries = [entry_of(entry) for entry in (block if isinstance(block, list) else [block])]
        unnumbered = all(number is None for number, _ in entries)
        # One answer to one question is an answer to it, whatever its number.
        if len(entries) == len(numbers) and (unnumbered or len(numbers) == 1):
            entries = [(number, answer) for number, (_, answer) in zip(numbers, entries, strict=True)]
    return from_one(gathered(entries), numbers)


# -- rung 5 -----------------------------------------------------------------------------------------------------------

_NUMBERED = re.compile(
    r"(?:(?:^|[^\w.])(?:answer|question|q|item|no\.?|number|#|frage|aufgabe|pregunta|pergunta|domanda|вопрос|第|问题|問題)"
    r"\s?(?:to\s)?(?:question\s?)?#?\s?(\d{1,3})(?![\d.]\d)\s?[题題问問번]?(?:\s?(?:is|:|：|=|\)|\.|-|–|—|→|\||\*|\]|_|,)){0,8}"
    r"|(?:^|[\s,;|(\[*])(\d{1,3})[)\]*]{0,3}\s?(?:[.:：)=|–—→-]|->){1,3}(?!\d))",
    re.IGNORECASE | re.MULTILINE,
)
_LEVEL = r"(?:very[ _-]?high|very[ _-]?low|high|low|medium|moderate)"
_LEVELS = re.compile(
    r"\b(" + "|".join(TRAITS) + rf")\b[*_\"']*\s*(?:is|:|=|-|–)+\s*[*_\"']*({_LEVEL})\b"
    rf"(?!(?:[*_\"' /,–-]|to|or|and){{1,8}}{_LEVEL})",
    re.IGNORECASE,
)


def _prose_answers(text: str, numbers: Sequence[int], *, whole: bool) -> Reading:
    """The letters of a text that an anchor ties to their questions; one question alone needs no number.

    Args:
        text: the reply, or what stands behind its last object.
        numbers: numbers of the questions asked.
        whole: whether it is the whole reply, which for one question may be a letter and no more.
    """
    if len(numbers) == 1:
        letter = letter_in(text) if whole else _one_letter(text)
        if letter:
            return Reading(answers={numbers[0]: letter})
        if not whole:
            return Reading(torn=set(numbers) if letter == "" else set())
    text = plain_text(text)
    claims: list[tuple[int, str]] = []
    torn: set[str | int] = set()
    anchors = list(_NUMBERED.finditer(text))
    for anchor, following in itertools.zip_longest(anchors, anchors[1:]):
        number = int(anchor[1] or anchor[2])
        block = text[anchor.end() : following.start() if following else len(text)][:LONGEST_ANSWER]
        first = claim(block.lstrip("*_: ").rstrip(" ,;|([*\n"))
        letters = {first} if first is not None else {c for c in answers_in(block) if c is not None}
        if len(letters) == 1 and "" not in letters:
            claims += [(number, letter) for letter in letters if letter]
        elif letters:
            torn.add(number)
    found, _ = from_one(gathered(claims), numbers)
    torn |= {number for number, answer in found.items() if isinstance(answer, Several)}
    return Reading(answers={n: a for n, a in found.items() if n not in torn}, torn=torn & set(numbers))


def _one_letter(text: str) -> str | None:
    """The letter behind the anchors of a text; "" where they differ."""
    letters = {letter for letter in answers_in(plain_text(text)) if letter is not None}
    return (letters.pop() if len(letters) == 1 else "") if letters else None


def _prose_levels(text: str) -> dict[str, int]:
    """Levels that stand behind their trait; one that is given twice, differently, is none."""
    rated: dict[str, set[int]] = {}
    for trait, word in _LEVELS.findall(text):
        level = level_number(word)
        if level is not None:
            rated.setdefault(trait.lower(), set()).add(level)
    return {trait: next(iter(levels)) for trait, levels in rated.items() if len(levels) == 1}


def looks_refused(text: str) -> bool:
    """Whether a reply that answers nothing declines to; its first words decide."""
    return bool(_REFUSAL.search(bare_text(text)[:400]))
