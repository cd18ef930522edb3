"""Is an answer right? Rules that need no judge, by name; and how cheap was it, in [0, 1]."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noria.core.errors import DataError

__all__ = ["RULES", "Thrift", "exact", "f1", "normalised", "score"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-−])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")  # the 3 of 5-3 has no sign
_LETTER = re.compile(r"\b(?:[B-HJ-Z]|[AI](?!['’]|\s+(?!(?:is|because|since|as|and|or)\b)[a-z]))\b")
"""A capital that stands alone, and is neither an article (A dog) nor a pronoun (I think)."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = {"yes", "no", "noanswer"}


def normalised(text: str) -> str:
    """Normalise a text: in small letters, without punctuation and articles, single-spaced (SQuAD's way)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(text: str, answers: Sequence[str]) -> float:
    """1 where the normalised text is one of the answers."""
    return float(normalised(text) in {normalised(answer) for answer in answers})


def f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of words over the answers; 0 where one of the two is a bare yes or no and the other is not."""
    return max((_f1(normalised(text), normalised(answer)) for answer in answers), default=0.0)


def _f1(ours: str, theirs: str) -> float:
    if ours != theirs and (ours in _CLOSED or theirs in _CLOSED):
        return 0.0
    a, b = Counter(ours.split()), Counter(theirs.split())
    shared = sum((a & b).values())
    if not shared:
        return 0.0
    precision, recall = shared / sum(a.values()), shared / sum(b.values())
    return 2 * precision * recall / (precision + recall)


def contains(text: str, answers: Sequence[str]) -> float:
    """1 where an answer is among the words of the text."""
    words = f" {normalised(text)} "
    return float(any(f" {normalised(answer)} " in words for answer in answers if normalised(answer)))


def number(text: str, answers: Sequence[str]) -> float:
    """1 where the last number in the text is that of an answer, to six digits."""
    last = _last_number(text)
    wanted = [_last_number(answer) for answer in answers]
    return float(
        last is not None and any(w is not None and math.isclose(last, w, rel_tol=1e-6) for w in wanted)
    )


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "").replace("−", "-")) if numbers else None


def choice(text: str, answers: Sequence[str]) -> float:
    """1 where the last capital letter that stands alone is an answer."""
    letters = _LETTER.findall(text)
    return float(bool(letters) and letters[-1] in {answer.strip() for answer in answers})


RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact,
    "f1": f1,
    "contains": contains,
    "number": number,
    "choice": choice,
}
"""Rules that score an answer, by name."""


def score(rule: str, text: str, answers: Sequence[str]) -> float:
    """Score a text by a rule, from 0 to 1.

    Raises:
        DataError: there is no such rule, or nothing to compare with.
    """
    if rule not in RULES:
        raise DataError(f"no rule {rule!r} for answers", mend=f"choose from {', '.join(RULES)}")
    if not answers:
        raise DataError("a question without an answer cannot be scored", mend="give it `answers`")
    return RULES[rule](text, answers)


@dataclass(frozen=True)
class Thrift:
    """Cheapness in [0, 1]: 1 − (√cost − q₅)/(q₉₅ − q₅), clipped; q are percentiles of √cost of a reference.

    Router-R1 (arXiv 2506.09033) keeps a moving window of the last thousand costs, so that a reward depends on the order
    of its batch and on the process it is computed in. Here the reference is fixed.

    Attributes:
        low, high: q₅ and q₉₅.
    """

    low: float
    high: float

    @classmethod
    def of(cls, costs: Sequence[float] | np.ndarray) -> Thrift:
        """Take the percentiles of costs; those that are NaN are left out.

        Raises:
            DataError: there is none.
        """
        known = np.asarray(costs, dtype=float).ravel()
        known = known[np.isfinite(known)]
        if not len(known):
            raise DataError("no cost is known", mend="give prices, or leave thrift out")
        low, high = np.percentile(np.sqrt(np.maximum(known, 0.0)), [5, 95])
        return cls(float(low), float(high))

    @classmethod
    def of_known(cls, costs: Sequence[float] | np.ndarray) -> Thrift | None:
        """Take the percentiles of costs, as `of` does; None where none is known."""
        return cls.of(costs) if np.isfinite(np.asarray(costs, dtype=float)).any() else None

    def __call__(self, cost: float | np.ndarray) -> np.ndarray:
        """Thrift of one cost or of many; NaN where it is unknown, ½ where all costs are alike."""
        root = np.sqrt(np.maximum(np.asarray(cost, dtype=float), 0.0))
        if self.high - self.low < 1e-8 * max(1.0, self.high):
            return np.where(np.isnan(root), np.nan, 0.5)
        return np.asarray(1 - np.clip((root - self.low) / (self.high - self.low), 0, 1))
