"""What the benchmark knows of a video: observations, analyses of traits, questions; and a corpus of such records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError, needing
from noria.grounding.corpus.questions import Place
from noria.grounding.corpus.types import TRAITS, Bins, Polarity, source_of, to_levels

__all__ = [
    "Analysis",
    "Box",
    "Corpus",
    "Key",
    "Keys",
    "Observation",
    "Option",
    "Question",
    "Record",
    "each_question",
]

with needing("grounding"):
    import msgspec


class Box(msgspec.Struct, frozen=True):
    """A region at a time in seconds; x, y, w, h are shares of the frame from its top left."""

    frame_time: float
    x: float
    y: float
    w: float
    h: float
    region: str = ""
    note: str = ""

    @property
    def place(self) -> Place:
        """The box without its time."""
        return self.x, self.y, self.w, self.h


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
    """The part of a record that scoring needs."""

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
    """Everything that is known of a video."""

    video_path: str
    transcription: str
    observations: tuple[Observation, ...]
    personality_analyses: tuple[Analysis, ...]
    metadata: msgspec.Raw = msgspec.Raw(b"{}")

    def analysis(self, trait: str) -> Analysis | None:
        """The analysis of a trait, if there is one."""
        return next((one for one in self.personality_analyses if one.trait.lower() == trait), None)


K = TypeVar("K", bound=Key)


def each_question(records: Iterable[K]) -> Iterator[tuple[K, int, Question]]:
    """Every question with its record and its number, from 1."""
    for record in records:
        for number, question in enumerate(record.mcq_questions, start=1):
            yield record, number, question


@dataclass(frozen=True)
class Keys:
    """Answer keys in the order of their ids, and the folder they are from."""

    records: tuple[Key, ...]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> list[str]:
        """Ids of the videos."""
        return [record.video_id for record in self.records]

    @property
    def sources(self) -> list[str]:
        """Source of each video."""
        return [record.source for record in self.records]

    @property
    def numbers(self) -> dict[str, set[int]]:
        """{video: numbers of its questions, from 1}."""
        return {record.video_id: set(range(1, len(record.mcq_questions) + 1)) for record in self.records}

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
