"""The benchmark's files: one JSON record a video, as released, read from the user's own copy.

The released annotations are CC BY-NC-SA and about people who can be recognised; none of them is part of this package.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError, needing
from noria.core.files import write_atomic
from noria.grounding.names import (
    CATEGORIES,
    LETTERS,
    LEVELS,
    OBSERVED,
    TRAITS,
    Bins,
    Polarity,
    level_number,
    source_of,
    to_levels,
)
from noria.grounding.questions import boxes_in, spans_in

with needing("grounding"):
    import msgspec

__all__ = [
    "Analysis",
    "Box",
    "Corpus",
    "Key",
    "Keys",
    "Observation",
    "Option",
    "Problem",
    "Question",
    "Record",
    "check",
    "load_corpus",
    "load_keys",
    "save_corpus",
    "statistics",
]

LARGEST_FILE = 8 * 2**20
"""Bytes of one record."""


class Box(msgspec.Struct, frozen=True):
    """A region at a time in seconds; x, y, w, h are shares of the frame from its top left."""

    frame_time: float
    x: float
    y: float
    w: float
    h: float
    region: str = ""
    note: str = ""


class Observation(msgspec.Struct, frozen=True):
    """What was seen or heard between two times in seconds."""

    dimension: str
    start_time: float
    end_time: float
    description: str
    bboxes: tuple[Box, ...] = ()


class Analysis(msgspec.Struct, frozen=True):
    """A trait's level and why. `evidence` numbers observations; the release has none, ours do."""

    trait: str
    level: str
    score: float
    rationale: str
    evidence_bboxes: tuple[Any, ...] = ()
    evidence: tuple[int, ...] = ()


class Option(msgspec.Struct, frozen=True):
    """A letter and what it says."""

    id: str
    text: str


class Question(msgspec.Struct, frozen=True):
    """One multiple-choice question."""

    category: str
    question: str
    options: tuple[Option, ...]
    correct_answer: str
    explanation: str = ""

    @property
    def correct(self) -> Option | None:
        """The right option, if there is one."""
        return next((option for option in self.options if option.id == self.correct_answer), None)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Of a video, what scoring needs."""

    video_id: str
    original_scores: dict[str, float]
    mcq_questions: tuple[Question, ...]

    @property
    def source(self) -> str:
        """The video that the clip was cut from."""
        return source_of(self.video_id)

    def scores(self, polarity: Polarity = "as_released") -> list[float]:
        """One a trait in the order of `TRAITS`; NaN where there is none."""
        values = [self.original_scores.get(trait, float("nan")) for trait in TRAITS]
        if polarity == "flipped":
            values[3] = 1 - values[3]
        return values


class Record(Key, frozen=True, kw_only=True):
    """All that is known of a video."""

    video_path: str
    transcription: str
    observations: tuple[Observation, ...]
    personality_analyses: tuple[Analysis, ...]
    metadata: msgspec.Raw = msgspec.Raw(b"{}")

    def analysis(self, trait: str) -> Analysis | None:
        """That of a trait, if there is one."""
        return next((one for one in self.personality_analyses if one.trait.lower() == trait), None)


@dataclass(frozen=True)
class Keys:
    """Answer keys in the order of their ids, and the folder they are from."""

    records: tuple[Key, ...]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> list[str]:
        """Of the videos."""
        return [record.video_id for record in self.records]

    @property
    def sources(self) -> list[str]:
        """Of each video, its source."""
        return [record.source for record in self.records]

    def levels(self, bins: Bins = "paper", polarity: Polarity = "as_released") -> NDArray[np.int8]:
        """[videos, 5 traits] in 0 … 4, −1 where there is no score."""
        scores = [record.scores(polarity) for record in self.records]
        return to_levels(np.array(scores, dtype=float).reshape(len(scores), 5), bins)


@dataclass(frozen=True)
class Corpus(Keys):
    """Whole records in the order of their ids, and the folder they are from."""

    records: tuple[Record, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def only(self, ids: Sequence[str]) -> Corpus:
        """The records of these videos.

        Raises:
            DataError: one is not here.
        """
        known = {record.video_id: record for record in self.records}
        for name in ids:
            if name not in known:
                raise DataError(f"no video {name!r}", where=str(self.folder or "corpus"))
        return Corpus(tuple(known[name] for name in ids), self.folder)


# -- reading ----------------------------------------------------------------------------------------------------------

_KEYS, _RECORDS = msgspec.json.Decoder(Key), msgspec.json.Decoder(Record)
K = TypeVar("K", bound=Key)


def load_corpus(folder: Path) -> Corpus:
    """Read every `*.json` of a folder, or of its `data/test` or `annotations`.

    Raises:
        DataError: with file and field: it is not JSON, lacks a field, has one of another type, or a video is there
            twice.
    """
    return Corpus(*_load(folder, _RECORDS))


def load_keys(folder: Path) -> Keys:
    """The same files, read for scoring only: several times as fast.

    Raises:
        DataError: as of `load_corpus`.
    """
    return Keys(*_load(folder, _KEYS))


def _load(folder: Path, decoder: msgspec.json.Decoder[K]) -> tuple[tuple[K, ...], Path]:
    home = next((p for p in (folder / "data" / "test", folder / "annotations") if p.is_dir()), folder)
    try:
        names = sorted(entry.name for entry in os.scandir(home) if entry.name.endswith(".json"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(folder)) from None
    if not names:
        raise DataError(
            "no annotations here", where=str(folder), mend="give the folder that holds one JSON file a video"
        )
    records: dict[str, tuple[K, str]] = {}
    for name in names:
        record = _read(f"{home}/{name}", decoder)
        if record.video_id in records:
            raise DataError(
                f"the video {record.video_id!r} is in {records[record.video_id][1]}, too",
                where=str(home / name),
            )
        records[record.video_id] = record, name
    return tuple(records[name][0] for name in sorted(records)), home


def _read(where: str, decoder: msgspec.json.Decoder[K]) -> K:
    try:
        raw = _bytes(where)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=where) from None
    if len(raw) > LARGEST_FILE:
        raise DataError(f"more than {LARGEST_FILE:,} bytes", where=where)
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"not a record: {what}", where=where) from None


def _bytes(path: str) -> bytes:
    """A file's bytes, a little more than `LARGEST_FILE` at most; without the file object, which costs as much again."""
    handle = os.open(path, os.O_RDONLY)
    try:
        raw = os.read(handle, 1 << 16)
        while len(raw) <= LARGEST_FILE and (more := os.read(handle, 1 << 20)):
            raw += more
        return raw
    finally:
        os.close(handle)


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write every record as `ID.json`, in the released format.

    Raises:
        DataError: an id leaves the folder.
        RunError: the disk refuses.
    """
    from noria.core.files import inside

    for record in corpus:
        text = msgspec.json.format(msgspec.json.encode(record), indent=1)
        write_atomic(inside(folder, f"{record.video_id}.json"), text + b"\n", sync=False)


# -- checking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Something in a record that is not as it should be.

    Attributes:
        video: its id.
        field: where in the record.
        kind: a short name of the fault, by which problems are counted.
        what: in words.
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
    found = []
    for record in corpus:
        for part in (_check_scores, _check_observations, _check_analyses, _check_questions):
            found += [Problem(record.video_id, *problem) for problem in part(record)]
        if corpus.folder is not None and not (corpus.folder / f"{record.video_id}.json").is_file():
            found.append(
                Problem(
                    record.video_id, "video_id", "file_name", "the file is not named after the video", False
                )
            )
    return found


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
            if not _fits(box.x, box.y, box.w, box.h):
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
            if any(not _fits(*box) for box in boxes_in(text)):
                yield field, "question_box", "a box that leaves the frame", False
        if len({option.text.strip() for option in question.options}) < len(question.options):
            yield f"{field}.options", "same_options", "two options say the same", True


def _fits(x: float, y: float, w: float, h: float) -> bool:
    slack = 1e-6
    return x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 1 + slack and y + h <= 1 + slack


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
