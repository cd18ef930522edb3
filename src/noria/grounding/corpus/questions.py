"""What the words of a question hold: times, spans, boxes, traits, levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from noria.grounding.corpus.types import TRAITS, level_number

Place: TypeAlias = tuple[float, float, float, float]
"""A box x, y, w, h in shares of the frame from its top left."""
WITHIN = 0.15
"""Options may be this much longer or shorter than their mean."""

_NUMBER = r"(\d{1,4}(?:\.\d{1,6})?)"
_SPAN = re.compile(rf"\[?\s*{_NUMBER}\s*s?\s*(?:-|–|—|to|and|until)\s*{_NUMBER}\s*s\b", re.IGNORECASE)
_TIME = re.compile(rf"(?<![\w.=]){_NUMBER}\s*s\b", re.IGNORECASE)
_BOX = re.compile(
    rf"x\s*=\s*{_NUMBER}\s*,\s*y\s*=\s*{_NUMBER}\s*,\s*w\s*=\s*{_NUMBER}\s*,\s*h\s*=\s*{_NUMBER}",
    re.IGNORECASE,
)
_LEVEL = r"(Very[ -]High|Very[ -]Low|High|Low|Medium)"
_TRAIT = "(" + "|".join(TRAITS) + ")"
_LEVEL_TRAIT = re.compile(
    rf"\b{_LEVEL}\s+(?:(?:level|score|rating)\s+(?:of|in|on)\s+)?{_TRAIT}\b", re.IGNORECASE
)
_MOVE = re.compile(rf"\b{_TRAIT}\b[^.]*?\bfrom\s+(?:a\s+)?{_LEVEL}\b", re.IGNORECASE)
_ANY_TRAIT = re.compile(rf"\b{_TRAIT}\b", re.IGNORECASE)


def spans_in(text: str) -> list[tuple[float, float]]:
    """Spans such as `1.2s - 3.4s` or `[1.2s – 3.4s]`, in seconds."""
    return [(float(a), float(b)) for a, b in _SPAN.findall(text)]


def times_in(text: str) -> list[float]:
    """Single times such as `[11.1s]` or `around 4.9s`; both ends of a span count, too."""
    return [float(a) for a in _TIME.findall(text)]


def boxes_in(text: str) -> list[Place]:
    """Boxes such as `x=0.26, y=0.03, w=0.38, h=0.58`."""
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h in _BOX.findall(text)]


def traits_in(text: str) -> set[str]:
    """The traits that are named."""
    return {name.lower() for name in _ANY_TRAIT.findall(text)}


def levels_in(text: str) -> dict[str, int]:
    """{trait: level 0 … 4} where a level stands before a trait: `their High Neuroticism`, `a low level of Openness`."""
    levels = {}
    for level, trait in _LEVEL_TRAIT.findall(text):
        number = level_number(level)
        if number is not None:
            levels[trait.lower()] = number
    return levels


def moves_in(text: str) -> dict[str, int]:
    """{trait: level 0 … 4} that a change starts from: `Openness would go from High to Medium`."""
    levels = {}
    for trait, before in _MOVE.findall(text):
        number = level_number(before)
        if number is not None:
            levels[trait.lower()] = number
    return levels


def names_level(stem: str, options: Sequence[str]) -> bool:
    """Whether the words of a question name a trait's level, which gives the rating away."""
    return bool(levels_in(stem)) or any(moves_in(option) for option in options)


def even_lengths(texts: Sequence[str]) -> bool:
    """Whether every text is within 15 % of their mean length; no text is not."""
    mean = sum(map(len, texts)) / max(1, len(texts))
    return bool(texts) and all(abs(len(text) - mean) <= WITHIN * mean for text in texts)


def inside_frame(box: Place) -> bool:
    """Whether a box has a size and lies in the frame."""
    x, y, w, h = box
    return x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 1 + 1e-6 and y + h <= 1 + 1e-6


def overlap(a: Place, b: Place) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    both = max(0.0, right - left) * max(0.0, bottom - top)
    union = a[2] * a[3] + b[2] * b[3] - both
    return both / union if union > 0 else 0.0
