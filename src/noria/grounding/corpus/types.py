"""The vocabulary of the task: traits, levels, categories, and the two rules that turn a score into a level."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.grounding.corpus.letters import LETTERS as LETTERS

TRAITS = ("extraversion", "agreeableness", "conscientiousness", "neuroticism", "openness")
LEVELS = ("Very Low", "Low", "Medium", "High", "Very High")

CATEGORIES = (
    "Personality Attribution",
    "Counterfactual Reasoning",
    "Temporal-Causal Reasoning",
    "Mixed Emotion Discrimination",
    "Micro-expression Localization",
    "Spatial Localization Verification",
    "Temporal-Spatial Joint Localization",
)
SHORT = dict(zip(CATEGORIES, ("Pers", "Counter", "TempC", "Mixed", "Micro", "Spat", "TSJnt"), strict=True))
"""Category to the short name that tables use."""
OBSERVED = ("Expression", "Action", "Audio", "Background")
"""Dimensions of an observation."""
DIMENSIONS = ("evidence_coverage", "logical_coherence", "grounding_accuracy", "directional_accuracy")
"""What the reasoning is judged on, in the order of every array's last axis."""

Bins: TypeAlias = Literal["paper", "official"]
"""`paper`: [0, .2) [.2, .4) [.4, .6) [.6, .8) [.8, 1]; `official`: the scorer's, each closed above."""
Polarity: TypeAlias = Literal["as_released", "flipped"]
"""Polarity of the neuroticism score: as released, or one minus it, as if it were emotional stability."""
Rubric: TypeAlias = Literal["atomic", "graded", "rules"]
"""Ways to judge reasons: yes/no items by models, the paper's four grades, or items answered by rules."""

_EDGES = np.array([0.2, 0.4, 0.6, 0.8])


def to_levels(scores: ArrayLike, bins: Bins = "paper") -> NDArray[np.int8]:
    """Scores in [0, 1] to levels 0 … 4; −1 where a score is NaN.

    `paper` cuts at [0, .2) [.2, .4) [.4, .6) [.6, .8) [.8, 1] (MM-OCEAN, arXiv 2605.22109, Sec. 3). `official`, the
    released scorer's, closes each cut above: .2 is level 0. They differ at .2, .4, .6 and .8 only.
    """
    values = np.asarray(scores, dtype=float)
    levels = np.searchsorted(_EDGES, values, side="right" if bins == "paper" else "left").astype(np.int8)
    return np.where(np.isnan(values), np.int8(-1), levels)


_DIGITS = {str(number + 1): number for number in range(5)}
_WORDS = {
    **{level.lower(): number for number, level in enumerate(LEVELS)},
    **_DIGITS,
    **dict(zip(("vl", "l", "m", "h", "vh"), range(5), strict=True)),
    "moderate": 2,
    "average": 2,
    "neutral": 2,
}


def level_number(given: object) -> int | None:
    """A level as models write it (`very_high`, `VH`, `5`, `Moderate`) as 0 … 4; None for anything else."""
    if isinstance(given, bool):
        return None
    if isinstance(given, int | float):
        return int(given) - 1 if given in (1, 2, 3, 4, 5) else None
    if not isinstance(given, str) or len(given) > 40:
        return None
    word = re.sub(r"[\s_\-]+", " ", given).strip(" .*\"'").lower()
    return _WORDS.get(word)


_CLIP = re.compile(r"\.\d{3}(?:\.mp4)?$")


def source_of(video_id: str) -> str:
    """The source video that a clip was cut from: its id up to the last `.NNN.mp4`.

    >>> source_of("-6otZ7M-Mro.002.mp4")
    '-6otZ7M-Mro'
    """
    return _CLIP.sub("", video_id) or video_id
