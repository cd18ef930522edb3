"""Faults of records that reading alone does not show, and what a corpus holds in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.grounding.corpus.questions import boxes_in, inside_frame, spans_in
from noria.grounding.corpus.records import Corpus, Record
from noria.grounding.corpus.types import (
    CATEGORIES,
    LETTERS,
    LEVELS,
    OBSERVED,
    TRAITS,
    Bins,
    Polarity,
    level_number,
    to_levels,
)

__all__ = ["Problem", "check", "statistics"]


@dataclass(frozen=True)
class Problem:
    """Something in a record that is not as it should be.

    Attributes:
        video: id of the video.
        field: place in the record.
        kind: a short name of the fault, by which problems are counted.
        what: the fault in words.
        grave: whether the record cannot be scored rightly.
    """

    video: str
    field: str
    kind: str
    what: str
    grave: bool


Found = Iterator[tuple[str, str, str, bool]]


def check(corpus: Corpus) -> list[Problem]:
    """Every fault of every record that reading alone does not show."""
    problems = []
    for record in corpus:
        for part in (_check_scores, _check_observations, _check_analyses, _check_questions):
            problems += [Problem(record.video_id, *problem) for problem in part(record)]
        if corpus.folder is not None and not (corpus.folder / f"{record.video_id}.json").is_file():
            problems.append(
                Problem(
                    record.video_id, "video_id", "file_name", "the file is not named after the video", False
                )
            )
    return problems


def _check_scores(record: Record) -> Found:
    for trait in TRAITS:
        score = record.original_scores.get(trait)
        if score is None:
            yield f"original_scores.{trait}", "no_score", "no score", True
        elif not 0 <= score <= 1:
            yield f"original_scores.{trait}", "score_range", f"{score} is not in [0, 1]", True
    for trait in record.original_scores:
        if trait not in TRAITS:
            yield f"original_scores.{trait}", "unknown_trait", "no trait of the five", False


def _check_observations(record: Record) -> Found:
    for n, one in enumerate(record.observations):
        field = f"observations[{n}]"
        if one.dimension not in OBSERVED:
            yield (
                f"{field}.dimension",
                "unknown_dimension",
                f"{one.dimension!r} is none of {', '.join(OBSERVED)}",
                False,
            )
        if not 0 <= one.start_time < one.end_time:
            yield f"{field}.start_time", "time_order", f"{one.start_time} … {one.end_time} s", False
        for m, box in enumerate(one.bboxes):
            if not inside_frame(box.place):
                yield f"{field}.bboxes[{m}]", "box_range", "the box leaves the frame", False
            if not one.start_time - 1 <= box.frame_time <= one.end_time + 1:
                yield (
                    f"{field}.bboxes[{m}].frame_time",
                    "box_time",
                    "over a second from its observation",
                    False,
                )


def _check_analyses(record: Record) -> Found:
    seen = Counter(one.trait.lower() for one in record.personality_analyses)
    for trait in TRAITS:
        if seen[trait] != 1:
            yield "personality_analyses", "analysis_count", f"{seen[trait]} analyses of {trait}", False
    for n, one in enumerate(record.personality_analyses):
        field = f"personality_analyses[{n}]"
        number, score = level_number(one.level), record.original_scores.get(one.trait.lower())
        if number is None or one.level not in LEVELS:
            yield f"{field}.level", "unknown_level", f"{one.level!r} is no level", False
        elif score is not None and number != int(to_levels(score, "official")):
            yield f"{field}.level", "level_disagrees", f"{one.level}, and its score is {score}", False
        if any(not 0 <= e < len(record.observations) for e in one.evidence):
            yield f"{field}.evidence", "evidence_range", "it numbers an observation that is not there", False


def _check_questions(record: Record) -> Found:
    end = max((one.end_time for one in record.observations), default=float("inf"))
    if not record.mcq_questions:
        yield "mcq_questions", "no_questions", "no question", True
    for category, count in Counter(q.category for q in record.mcq_questions).items():
        if count > 1:
            yield "mcq_questions", "category_twice", f"{count} questions of {category}", False
    for n, question in enumerate(record.mcq_questions):
        field = f"mcq_questions[{n}]"
        letters = [option.id for option in question.options]
        if question.category not in CATEGORIES:
            yield f"{field}.category", "unknown_category", f"{question.category!r}", False
        if sorted(letters) != list(LETTERS[: len(letters)]) or len(letters) < 2:
            yield f"{field}.options", "option_ids", f"the options are {', '.join(letters)}", True
        elif letters != list(LETTERS[: len(letters)]):
            yield f"{field}.options", "option_order", f"the options come as {', '.join(letters)}", False
        if question.correct is None:
            yield f"{field}.correct_answer", "no_answer", f"{question.correct_answer!r} is no option", True
        texts = [question.question, *(option.text for option in question.options)]
        for text in texts:
            if any(not 0 <= a < b <= end + 0.5 for a, b in spans_in(text)):
                yield field, "question_time", f"a time outside of 0 … {end:g} s", False
            if not all(map(inside_frame, boxes_in(text))):
                yield field, "question_box", "a box that leaves the frame", False
        if len({option.text.strip() for option in question.options}) < len(question.options):
            yield f"{field}.options", "same_options", "two options say the same", True


# -- counting ---------------------------------------------------------------------------------------------------------


def statistics(corpus: Corpus, bins: Bins = "paper", polarity: Polarity = "as_released") -> dict[str, Any]:
    """What is in the corpus, in numbers: JSON values."""
    levels = corpus.levels(bins, polarity)
    known = levels[levels >= 0]
    questions = [question for record in corpus for question in record.mcq_questions]
    words = [len(record.transcription.split()) for record in corpus]
    per_video = [len(record.observations) for record in corpus]
    return {
        "videos": len(corpus),
        "sources": len(set(corpus.sources)),
        "observations": sum(per_video),
        "observations_per_video": {
            "least": min(per_video),
            "mean": float(np.mean(per_video)),
            "most": max(per_video),
        },
        "observations_by_dimension": dict(
            Counter(one.dimension for record in corpus for one in record.observations).most_common()
        ),
        "boxes": sum(len(one.bboxes) for record in corpus for one in record.observations),
        "analyses": sum(len(record.personality_analyses) for record in corpus),
        "questions": len(questions),
        "questions_by_category": dict(Counter(q.category for q in questions).most_common()),
        "questions_per_video": dict(sorted(Counter(len(r.mcq_questions) for r in corpus).items())),
        "correct_letters": dict(sorted(Counter(q.correct_answer for q in questions).items())),
        "words_per_transcript": {"least": min(words), "mean": float(np.mean(words)), "most": max(words)},
        "levels": {
            level: float(np.mean(known == n)) if len(known) else None for n, level in enumerate(LEVELS)
        },
    }
