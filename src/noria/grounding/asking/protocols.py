"""Who is asked what in which call, and what of the clip is shown.

A protocol cuts a video's tasks into chains of steps; a step is one request. A control says what stands in the place of
the frames. Nothing here decodes or asks.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import ConfigError
from noria.grounding.asking.config import PlanSettings
from noria.grounding.corpus.questions import boxes_in
from noria.grounding.corpus.records import Corpus, Option, Question, Record
from noria.grounding.corpus.types import LETTERS

ORDER = "ask.order"
"""Beginning of the names of `permute`'s parts; the number of the order follows."""


@dataclass(frozen=True)
class Step:
    """One request about one video.

    Attributes:
        video: id of the video.
        part: name of the step, unique in the video.
        rate, reason: ask for levels, for rationales.
        numbers: numbers of the questions asked, from 1.
        order: number of the options' random order; None leaves them as they stand.
    """

    video: str
    part: str
    rate: bool = False
    reason: bool = False
    numbers: tuple[int, ...] = ()
    order: int | None = None

    @property
    def id(self) -> str:
        """Name of the sample that the step gives."""
        return f"{self.video}/{self.part}"


Chain: TypeAlias = tuple[Step, ...]
"""Steps that are taken one after the other."""


def plan(corpus: Corpus, settings: PlanSettings) -> list[Chain]:
    """All chains of a run, video by video.

    * `unified`: everything in one request, as published.
    * `staged`: levels and rationales first, questions in another request that does not see them, so that words in the
      questions cannot leak into the ratings.
    * `per-item`: one question a request, so that no question hints at another's answer.
    * `permute`: all questions in each of several random orders of their options.

    The control `cropped-box` asks only the questions that have a box, one by one.

    Raises:
        ConfigError: a protocol and a control that do not go together.
    """
    if settings.control == "cropped-box" and settings.protocol != "per-item":
        raise ConfigError(
            "cropped-box shows each question its own box", where="control", mend="use it with per-item"
        )
    return [chain for record in corpus for chain in _chains(record, settings)]


def _chains(record: Record, settings: PlanSettings) -> list[Chain]:
    video, numbers = record.video_id, tuple(range(1, len(record.mcq_questions) + 1))
    if settings.control == "cropped-box":
        boxed = [n for n in numbers if boxes_in(record.mcq_questions[n - 1].question)]
        return [(Step(video, f"ask.{n}", numbers=(n,)),) for n in boxed]
    if settings.protocol == "unified":
        return [(Step(video, "all", rate=True, reason=True, numbers=numbers),)]
    rating = Step(video, "rate", rate=True, reason=True)
    if not numbers:
        return [(rating,)]
    if settings.protocol == "staged":
        asking = Step(video, "ask", numbers=numbers)
        return [(rating, asking)] if settings.conversation else [(rating,), (asking,)]
    if settings.protocol == "per-item":
        return [(rating,), *((Step(video, f"ask.{n}", numbers=(n,)),) for n in numbers)]
    orders = (Step(video, f"{ORDER}{k}", numbers=numbers, order=k) for k in range(settings.orders))
    return [(rating,), *((step,) for step in orders)]


def dealt(seed: int, order: int, video: str, number: int, options: int) -> NDArray[np.int64]:
    """[options] which option stands at each place when a question is asked in a random order: the same every time.

    Args:
        seed: seed of the run.
        order: number of the order, from 0.
        video, number: video and number of the question.
        options: number of its options.
    """
    return np.random.default_rng([seed, order, zlib.crc32(video.encode()), number]).permutation(options)


def permuted(question: Question, order: Sequence[int] | NDArray[np.int64]) -> tuple[Question, dict[str, str]]:
    """The question with its options in an order, and {letter shown: letter meant}."""
    options = [question.options[int(n)] for n in order]
    shown = tuple(Option(LETTERS[place], option.text) for place, option in enumerate(options))
    back = {LETTERS[place]: option.id for place, option in enumerate(options)}
    answer = next((letter for letter, meant in back.items() if meant == question.correct_answer), "")
    return Question(question.category, question.question, shown, answer, question.explanation), back


def strangers(corpus: Corpus, seed: int) -> dict[str, str]:
    """{video: a video of another source}, every video used once where sources allow it; the same for the same seed.

    Raises:
        ConfigError: there is but one source.
    """
    sources = corpus.sources
    if len(set(sources)) < 2:
        raise ConfigError("frames of another source need two sources", where="control")
    # Sources one after the other in a random order; a shift by the largest one's size leaves every source behind.
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(sources))
    rank = dict(zip(names, generator.permutation(len(names)).tolist(), strict=True))
    order = sorted(range(len(corpus)), key=lambda n: (rank[sources[n]], corpus.ids[n]))
    largest = max(sources.count(source) for source in set(sources))
    stranger = {}
    for place, n in enumerate(order):
        for shift in range(largest, largest + len(order)):
            other = order[(place + shift) % len(order)]
            if sources[other] != sources[n]:
                stranger[corpus.ids[n]] = corpus.ids[other]
                break
    return stranger
