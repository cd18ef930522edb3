"""The released scorer's definitions, one video at a time, so that published numbers can be met to the last digit.

It differs from strict scoring in what it does with what is missing; `DIFFERENCES` lists every place. Written from the
released program's behaviour, which is CC BY-NC-SA and no part of this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.grounding.corpus.files import load_keys
from noria.grounding.corpus.types import LEVELS, TRAITS

DIFFERENCES = (
    "A level that is absent or not one of the five exact words leaves T1 accuracy and MAE; strict counts it wrong.",
    "A video without a prediction leaves every figure; strict counts it wrong.",
    "R2 averages the traits that were judged, and is 0 where none was; strict counts a trait without a rationale as 0 "
    "and leaves out what the judge failed on.",
    "T2 averages all judged traits of all predictions, of videos without a record, too; strict averages videos.",
    "A rate whose condition nothing meets is 0; strict says that it is undefined.",
    "A line that is not JSON, or has no video, is skipped, and a video's last line counts; strict refuses both.",
    "An answer, a task or a judgement of another type (null, a list) ends the program; here it is an error with its "
    "video, and strict counts it as no answer.",
    "Levels are binned closed above (.2 is Very Low); strict bins as the paper says (.2 is Low) unless told otherwise.",
    "Dimensions are compared as floating-point numbers; strict compares shares as rationals.",
)
"""Between the released scorer and strict scoring."""

JUDGED = ("evidence_coverage", "logical_coherence", "directional_accuracy", "grounding_accuracy")


def read_truth(folder: Path) -> dict[str, dict[str, Any]]:
    """{video: levels and questions} of a folder of records.

    Raises:
        DataError: a record cannot be read.
    """
    return {
        record.video_id: {
            "levels": {t: _level(s) for t, s in record.original_scores.items() if t in TRAITS},
            "questions": [
                {"category": question.category, "correct_answer": question.correct_answer}
                for question in record.mcq_questions
            ],
        }
        for record in load_keys(folder).records
    }


def read_lines(path: Path, skipped: list[int] | None = None) -> dict[str, dict[str, Any]]:
    """{video: line}; what cannot be read is skipped, and the last line of a video counts.

    A line ends where Python's text files end one: at a line feed, a carriage return or both, not at U+2028.

    Args:
        path: file of predictions.
        skipped: takes the numbers of the lines that are skipped.

    Raises:
        DataError: the file cannot be opened, or is not UTF-8, at which the released scorer ends, too.
    """
    lines: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    record = json.loads(line.strip())
                    lines[record["video_id"]] = record
                except (ValueError, KeyError, TypeError, RecursionError):
                    if skipped is not None:
                        skipped.append(number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None
    return lines


def _level(score: float) -> str:
    for edge, level in zip((0.2, 0.4, 0.6, 0.8), LEVELS, strict=False):
        if score <= edge:
            return level
    return LEVELS[-1]


def score_official(
    truth: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Mapping[str, Any]],
    *,
    thresholds: tuple[float, float, float] = (0.5, 0.7, 0.5),
) -> dict[str, Any]:
    """The released scorer's summary: T1, MAE, T2, T3, T3 by category, HR, PR, CR, IR, rounded as it rounds.

    Raises:
        DataError: no video is shared, or a value that the released scorer would end at.
    """
    shared = [video for video in truth if video in predictions]
    if not shared:
        raise DataError("no prediction is of a video of the annotations", where="compat official")
    rated = [
        (LEVELS.index(right), LEVELS.index(level))
        for video in shared
        for right, level in _pairs(truth[video], predictions[video])
        if right in LEVELS and level in LEVELS
    ]
    judged = [score for line in predictions.values() for score in _judged(line)]
    hits = {video: _hits(truth[video]["questions"], predictions[video]) for video in shared}
    by_category: dict[str, list[bool]] = {}
    for video in shared:
        for question, hit in zip(truth[video]["questions"], hits[video], strict=True):
            by_category.setdefault(question["category"], []).append(hit)
    every = [hit for row in hits.values() for hit in row]
    passed = []
    for video in shared:
        line = predictions[video]
        r1 = sum(right == level for right, level in _pairs(truth[video], line)) / len(TRAITS)
        scores = _judged(line)
        r2 = (sum(scores) / len(scores)) / 10.0 if scores else 0.0
        r3 = sum(hits[video]) / max(len(hits[video]), 1)
        passed.append(tuple(r >= theta for r, theta in zip((r1, r2, r3), thresholds, strict=True)))
    rating = [p for p in passed if p[0]]
    grounded = [p for p in passed if p[2]]
    return {
        "task1_accuracy": round(_share(right == level for right, level in rated), 1),
        "task1_mae": round(sum(abs(a - b) for a, b in rated) / len(rated), 2) if rated else 0,
        "task2_avg4": round(sum(judged) / len(judged), 2) if judged else 0,
        "task3_accuracy": round(_share(every), 1),
        "task3_per_category": {name: round(_share(row), 1) for name, row in by_category.items()},
        "HR": round(_share(all(p) for p in passed), 1),
        "PR": round(_share(not p[2] for p in rating), 1),
        "CR": round(_share(not p[1] for p in rating), 1),
        "IR": round(_share(not p[0] for p in grounded), 1),
    }


def _share(values: Iterable[bool]) -> float:
    row = list(values)
    return sum(row) / len(row) * 100 if row else 0


def _pairs(truth: Mapping[str, Any], line: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    levels = _field(line, "task1", {})
    return [(truth["levels"].get(trait), levels.get(trait)) for trait in TRAITS]


def _judged(line: Mapping[str, Any]) -> list[float]:
    """A mean of four a trait that has all four."""
    means = []
    judged = _field(line, "task2_judged", {})
    for trait in TRAITS:
        scores = judged.get(trait, {})
        if not isinstance(scores, Mapping):
            raise _ends(line, f"task2_judged of {trait}", scores)
        values: list[Any] = [scores.get(dimension) for dimension in JUDGED]
        if all(isinstance(value, int | float) for value in values):
            try:
                means.append(sum(values) / len(values))
            except OverflowError:
                raise _ends(line, f"task2_judged of {trait}", values) from None
    return means


def _hits(questions: Iterable[Mapping[str, Any]], line: Mapping[str, Any]) -> list[bool]:
    answers = {}
    for place, entry in enumerate(_field(line, "task3", []), start=1):
        if not isinstance(entry, Mapping) or isinstance(entry.get("q_idx"), list | dict):
            raise _ends(line, f"entry {place} of task3", entry)
        answers[entry.get("q_idx", place)] = entry.get("answer", "")
    row = []
    for number, question in enumerate(questions, start=1):
        answer = answers.get(number, "")
        if not isinstance(answer, str):
            raise _ends(line, f"the answer to question {number}", answer)
        row.append(answer.strip().upper() == question["correct_answer"].strip().upper())
    return row


def _field(line: Mapping[str, Any], name: str, default: Any) -> Any:
    """A task of a line, of the type that the released scorer needs."""
    value = line.get(name, default)
    if not isinstance(value, type(default)):
        raise _ends(line, name, value)
    return value


def _ends(line: Mapping[str, Any], what: str, value: object) -> DataError:
    return DataError(
        f"{what} is {str(value)[:40]!r}, which ends the released scorer",
        where=f"video {line.get('video_id')}",
        mend="leave it out, or score in strict mode",
    )
