"""What models said, as JSON lines in the released format, and as arrays for scoring.

One line a video: `{"video_id", "task1": {trait: level}, "task2": {trait: text}, "task3": [{"q_idx": 1, "answer": "C"}],
"task2_judged": {trait: {dimension: 1 … 10}}}`. Ours add `"parse": {"task1": {trait: rung}, "task3": {number: rung}}`,
the rungs of the parsing ladder that each was read on; one number where all are of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.records import json_records
from noria.grounding.corpus.letters import letter_of
from noria.grounding.corpus.records import Key, Keys, Question
from noria.grounding.corpus.types import (
    CATEGORIES,
    DIMENSIONS,
    LETTERS,
    LEVELS,
    TRAITS,
    Bins,
    Polarity,
    level_number,
)
from noria.grounding.scoring.answers import entry_of, from_one, gathered
from noria.grounding.scoring.rates import Marks, Truth

N = TypeVar("N", str, int)

STRICT_RUNG = 3
"""The last rung of the parsing ladder that counts as strict."""
_HALF = re.compile("[\ud800-\udfff]")


def whole_text(value: Any) -> Any:
    """A JSON value in whose texts halves of characters, which JSON can escape and no file can hold, are U+FFFD."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [whole_text(inner) for inner in value]
    if isinstance(value, dict):
        return {whole_text(key): whole_text(inner) for key, inner in value.items()}
    return value


@dataclass(frozen=True)
class Prediction:
    """One video's answers; what is absent was not answered.

    Attributes:
        video_id: id of the video.
        levels: {trait: level, as it was written}.
        rationales: {trait: text}.
        answers: {number of the question from 1: answer, as it was written}.
        judged: {trait: {dimension: score}}, where a judge has been.
        level_rungs, answer_rungs: rungs of the parsing ladder, by trait and by number; 1 where the file does not say.
    """

    video_id: str
    levels: Mapping[str, Any] = field(default_factory=dict)
    rationales: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Any] = field(default_factory=dict)
    judged: Mapping[str, Mapping[str, float]] | None = None
    level_rungs: Mapping[str, int] = field(default_factory=dict)
    answer_rungs: Mapping[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The line of the file."""
        line: dict[str, Any] = {
            "video_id": self.video_id,
            "task1": dict(self.levels),
            "task2": dict(self.rationales),
            "task3": [{"q_idx": number, "answer": answer} for number, answer in sorted(self.answers.items())],
            "parse": {
                "task1": _told(self.levels, self.level_rungs),
                "task3": _told(self.answers, self.answer_rungs),
            },
        }
        return (
            line
            if self.judged is None
            else line | {"task2_judged": {t: dict(s) for t, s in self.judged.items()}}
        )


def _told(names: Iterable[N], rungs: Mapping[N, int]) -> int | dict[str, int]:
    """Rungs as the file holds them: one number where all are of one, else those that are not the first."""
    every = {name: rungs.get(name, 1) for name in names}
    if len(set(every.values())) <= 1:
        return next(iter(every.values()), 1)
    return {str(name): rung for name, rung in every.items() if rung != 1}


def load_predictions(path: Path) -> dict[str, Prediction]:
    """{video: prediction} of a file.

    Raises:
        DataError: with file and line: not JSON, no video, a video twice, a field of another type.
    """
    predictions: dict[str, Prediction] = {}
    for where, record in json_records(path):
        one = _prediction(whole_text(record), where)
        if one.video_id in predictions:
            raise DataError(
                f"the video {one.video_id!r} is there twice", where=where, mend="keep one of the lines"
            )
        predictions[one.video_id] = one
    if not predictions:
        raise DataError("no predictions", where=str(path))
    return predictions


def _prediction(record: Mapping[str, Any], where: str) -> Prediction:
    name = record.get("video_id")
    if not isinstance(name, str) or not name:
        raise DataError("no video_id", where=where)
    one, two, three = (record.get(key) for key in ("task1", "task2", "task3"))
    judged = record.get("task2_judged")
    for key, value, kind in (
        ("task1", one, dict),
        ("task2", two, dict),
        ("task3", three, list),
        ("task2_judged", judged, dict),
    ):
        if value is not None and not isinstance(value, kind):
            raise DataError(f"{key} is no {'mapping' if kind is dict else 'list'}", where=where)
    levels = {str(t).lower(): level for t, level in (one or {}).items()}
    entries = map(entry_of, three or [])
    answers = gathered(
        (place if n is None else n, answer) for place, (n, answer) in enumerate(entries, start=1)
    )
    parse = record.get("parse")
    rungs = parse if isinstance(parse, Mapping) else {}
    return Prediction(
        name,
        levels,
        {str(t).lower(): text for t, text in (two or {}).items() if isinstance(text, str)},
        answers,
        None if judged is None else {str(t).lower(): s for t, s in judged.items() if isinstance(s, Mapping)},
        _rungs(levels, rungs.get("task1")),
        _rungs(answers, rungs.get("task3")),
    )


def _rungs(names: Iterable[N], rungs: object) -> dict[N, int]:
    """The rungs that are not the first, of one number for all or of a mapping."""

    def rung(name: N) -> object:
        return rungs.get(str(name)) if isinstance(rungs, Mapping) else rungs

    return {name: n for name in names if isinstance(n := rung(name), int) and n != 1}


def save_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write the file, whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    lines = [json.dumps(one.to_json(), ensure_ascii=False) for one in predictions]
    write_atomic(path, "".join(line + "\n" for line in lines))


def truth_of(keys: Keys, bins: Bins = "paper", polarity: Polarity = "as_released") -> Truth:
    """The right answers of a corpus as arrays.

    Raises:
        DataError: a score is not in [0, 1], or a question has no right answer among its options.
    """
    names: dict[str, int] = {}
    video, category, answer, options, linked = [], [], [], [], []
    order = {name: number for number, name in enumerate(CATEGORIES)}
    for n, record in enumerate(keys.records):
        for trait in TRAITS:
            if not 0 <= record.original_scores.get(trait, 0) <= 1:
                raise _unscorable(
                    record, f"the {trait} score {record.original_scores[trait]:g} is not in [0, 1]"
                )
        for number, question in enumerate(record.mcq_questions, start=1):
            ids = sorted(option.id for option in question.options)
            if "".join(ids) != LETTERS[: len(ids)] or question.correct_answer not in ids:
                raise _unscorable(record, f"question {number} has no right answer among options A, B, …, F")
            video.append(n)
            category.append(order.get(question.category, -1))
            answer.append(LETTERS.index(question.correct_answer))
            options.append(len(question.options))
            linked.append(_about(question))
    return Truth(
        levels=keys.levels(bins, polarity).astype(np.int64),
        sources=np.array([names.setdefault(s, len(names)) for s in keys.sources], dtype=np.int64),
        video=np.array(video, dtype=np.int64),
        category=np.array(category, dtype=np.int64),
        answer=np.array(answer, dtype=np.int64),
        options=np.array(options, dtype=np.int64),
        linked=np.array(linked, dtype=bool).reshape(-1, 5),
    )


def _unscorable(record: Key, what: str) -> DataError:
    return DataError(
        what, where=record.video_id, mend="mend the record; noria grounding validate lists all faults"
    )


def _about(question: Question) -> list[bool]:
    """Which traits the stem or the right option names."""
    right = question.correct
    words = (question.question + " " + (right.text if right else "")).lower()
    return [trait in words for trait in TRAITS]


def marks_of(keys: Keys, predictions: Mapping[str, Prediction], *, lenient: bool = False) -> Marks:
    """What the predictions say about a corpus, as arrays; a video that they lack was not answered.

    Args:
        keys: answer keys, which fix the order.
        predictions: predictions by video.
        lenient: take replies from every rung of the ladder and letters in any dress; strict otherwise.
    """
    levels = np.full((len(keys), 5), -1, dtype=np.int64)
    reasoned = np.zeros((len(keys), 5), bool)
    judged = np.full((len(keys), 5, len(DIMENSIONS)), np.nan)
    answers: list[int] = []
    anyone = False
    exact = {level: number for number, level in enumerate(LEVELS)}
    for n, record in enumerate(keys.records):
        one = predictions.get(record.video_id)
        if one is None:
            answers += [-1] * len(record.mcq_questions)
            continue
        strict = 99 if lenient else STRICT_RUNG
        for m, trait in enumerate(TRAITS):
            level = one.levels.get(trait) if one.level_rungs.get(trait, 1) <= strict else None
            number = exact.get(level) if isinstance(level, str) else None
            if number is None:
                number = level_number(level)
            levels[n, m] = -1 if number is None else number
            reasoned[n, m] = bool(one.rationales.get(trait, "").strip())
        if one.judged is not None:
            anyone = True
            _judged(judged[n], reasoned[n], one.judged)
        numbers = range(1, len(record.mcq_questions) + 1)
        given, sure = from_one(
            {n: a for n, a in one.answers.items() if one.answer_rungs.get(n, 1) <= strict}, numbers
        )
        for number in numbers:
            answer = given.get(number) if sure or lenient else None
            letter = letter_of(answer, lenient=lenient)
            place = -1 if letter is None else LETTERS.index(letter)
            answers.append(place if place < len(record.mcq_questions[number - 1].options) else -1)
    return Marks(levels, np.array(answers, dtype=np.int64), reasoned, judged if anyone else None)


def _judged(
    row: np.ndarray[Any, Any], reasoned: np.ndarray[Any, Any], judged: Mapping[str, Mapping[str, Any]]
) -> None:
    for m, trait in enumerate(TRAITS):
        scores = judged.get(trait)
        if scores is None:
            continue
        for d, dimension in enumerate(DIMENSIONS):
            value = scores.get(dimension)
            if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 10:
                row[m, d] = value
                reasoned[m] = True  # a file may bring the judgement without the words that were judged
