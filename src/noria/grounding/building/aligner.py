"""Checks of a record by code, before any model or person looks: the aligner's first layer.

Each check says what is wrong in words that go back to the model that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from noria.grounding.corpus.cues import alike
from noria.grounding.corpus.questions import (
    WITHIN,
    Place,
    boxes_in,
    even_lengths,
    inside_frame,
    names_level,
    overlap,
    spans_in,
    times_in,
)
from noria.grounding.corpus.records import Analysis, Observation, Option, Question
from noria.grounding.corpus.types import LETTERS, LEVELS, OBSERVED, TRAITS, level_number

__all__ = ["check_analyses", "check_observations", "check_question", "deal_letters", "with_letter"]


def check_observations(observations: Sequence[Observation], duration: float) -> list[str]:
    """What is wrong with what was observed in a clip of `duration` seconds."""
    faults = []
    if not observations:
        faults.append("there is no observation")
    for n, one in enumerate(observations):
        if one.dimension not in OBSERVED:
            faults.append(
                f"observation {n}: the dimension {one.dimension!r} is none of {', '.join(OBSERVED)}"
            )
        if not one.description.strip():
            faults.append(f"observation {n}: no description")
        if not 0 <= one.start_time < one.end_time <= duration + 0.5:
            faults.append(
                f"observation {n}: {one.start_time} to {one.end_time} s of a clip of {duration:g} s"
            )
        for box in one.bboxes:
            if not inside_frame(box.place):
                faults.append(f"observation {n}: a box leaves the frame")
            if not one.start_time - 0.5 <= box.frame_time <= one.end_time + 0.5:
                faults.append(f"observation {n}: a box at {box.frame_time:g} s, outside of its time")
    return faults


def check_analyses(
    analyses: Sequence[Analysis], levels: Sequence[int], observations: Sequence[Observation]
) -> list[str]:
    """What is wrong with the analyses of a clip whose true levels are `levels`, 0 … 4 in the order of the traits."""
    faults = []
    for trait, level in zip(TRAITS, levels, strict=True):
        mine = [one for one in analyses if one.trait.lower() == trait]
        if len(mine) != 1:
            faults.append(f"{trait}: {len(mine)} analyses")
            continue
        if level_number(mine[0].level) != level:
            faults.append(f"{trait}: the level is {LEVELS[level]}, not {mine[0].level}")
        if not mine[0].rationale.strip():
            faults.append(f"{trait}: no rationale")
        if not mine[0].evidence:
            faults.append(f"{trait}: it cites no observation")
        if any(not 0 <= n < len(observations) for n in mine[0].evidence):
            faults.append(f"{trait}: it cites an observation that is not there")
    return faults


def check_question(question: Question, observations: Sequence[Observation], duration: float) -> list[str]:
    """What is wrong with a question, the facts of its right option included where code can tell."""
    texts = [option.text.strip() for option in question.options]
    faults = []
    if len(texts) != 6 or len(set(texts)) != 6 or not all(texts):
        faults.append("there must be six different options")
        return faults
    right = question.correct
    if right is None:
        faults.append("the right letter is none of the options'")
        return faults
    if names_level(question.question, texts):
        faults.append("the words name a level, which gives the rating away")
    mean = sum(map(len, texts)) / 6
    if not even_lengths(texts):
        faults.append(
            f"an option is over {WITHIN:.0%} longer or shorter than the mean of {mean:.0f} characters"
        )
    for text in (question.question, *texts):
        if any(not 0 <= a < b <= duration + 0.5 for a, b in spans_in(text)):
            faults.append(f"a span outside of the clip's {duration:g} s")
        if any(t > duration + 0.5 for t in times_in(text)):
            faults.append(f"a time outside of the clip's {duration:g} s")
        if not all(map(inside_frame, boxes_in(text))):
            faults.append("a box that leaves the frame")
    return faults + _facts(question, right, observations)


def _facts(question: Question, right: Option, observations: Sequence[Observation]) -> list[str]:
    """Whether the right option of a localisation question is what was observed there and then."""
    if question.category == "Spatial Localization Verification":
        boxes, times = boxes_in(question.question), times_in(question.question)
        if not boxes or not times:
            return ["the stem needs a time and a box"]
        there = [one for one in observations if _at(one, times[0], boxes[0])]
        if not any(alike(one.description, right.text) > 0.2 for one in there):
            return ["no observation at that time and place is like the right option"]
    if question.category == "Temporal-Spatial Joint Localization":
        boxes, times = boxes_in(right.text), times_in(right.text)
        if not boxes or not times:
            return ["every option needs a time and a box"]
        there = [one for one in observations if _at(one, times[0], boxes[0])]
        if not any(alike(one.description, question.question) > 0.2 for one in there):
            return ["no observation at the right option's time and place is like the stem"]
    if question.category == "Micro-expression Localization":
        spans = spans_in(right.text)
        if not spans:
            return ["every option needs a time interval"]
        a, b = spans[0]
        if not any(
            one.start_time < b and one.end_time > a for one in observations if one.dimension != "Background"
        ):
            return ["nothing was observed in the right interval"]
    return []


def _at(one: Observation, when: float, box: Place) -> bool:
    if not one.start_time - 0.5 <= when <= one.end_time + 0.5:
        return False
    return any(overlap(b.place, box) > 0.02 for b in one.bboxes)


# -- letters ----------------------------------------------------------------------------------------------------------


def deal_letters(count: int, generator: np.random.Generator) -> list[str]:
    """`count` letters in a random order, each as often as the others to within one."""
    deck = [LETTERS[int(n)] for _ in range(-(-count // 6)) for n in generator.permutation(6)]
    return deck[:count]


def with_letter(question: Question, letter: str, generator: np.random.Generator) -> Question:
    """The question with its right option under `letter`, the others in a random order.

    Raises:
        ValueError: the question has no right option.
    """
    right = question.correct
    if right is None:
        raise ValueError("a question without a right option")
    wrong = [option.text for option in question.options if option is not right]
    wrong = [wrong[int(n)] for n in generator.permutation(len(wrong))]
    place = LETTERS.index(letter)
    texts = [*wrong[:place], right.text, *wrong[place:]]
    options = tuple(Option(LETTERS[n], text) for n, text in enumerate(texts))
    return Question(question.category, question.question, options, letter, question.explanation)
