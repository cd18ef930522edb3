"""A judge of the shop: rules for what can be read from an answer, and a ridge regression for whether it serves.

It learns from two hundred answers with labels of which one in ten is wrong, and reads words alone: neither pictures nor
the cards beside an answer. So it errs, and two judges that learnt from other labels disagree.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noria.core.records import json_records

LABELS = Path(__file__).parents[2] / "assets" / "judges" / "labels.jsonl"
"""Labelled answers that ship: :mod:`noria.assistant.world.judges.labels` makes them."""
NAMES = ("judge-live", "judge-learner", "judge-gate")
"""The judges: of live traffic, of learners, of gates. Each has labels of its own."""
EACH = 200
"""Labels of a judge."""
QUESTIONS = {
    "served": "Does the answer give what was asked for?",
    "named": "Does it name the price of a product, or the source of a report, where it speaks of one?",
    "short": "Is it at most twenty-four words long?",
}
"""What judges are asked, by the id of the item."""
WEIGHTS = {"served": 3.0, "named": 1.0, "short": 1.0}
GAPS = {"product": "the price is missing", "report": "the source is missing"}
"""What a judge misses of an answer that names neither."""
LONGEST = 24
_BAGS = 48
_SMALL = frozenset(
    (
        "a", "an", "the", "i", "you", "we", "it", "is", "are", "do", "does", "have", "has", "can", "could", "would",
        "like", "want", "need", "me", "my", "your", "to", "of", "for", "in", "on", "at", "with", "and", "or", "be",
        "this", "that", "some", "any", "please", "hello", "hi",
    )
)  # fmt: skip
_KINDS = {
    "unknown": r"do not know|cannot do|found nothing",
    "report": r"\breport\b",
    "edited": r"\bedited\b",
    "drawn": r"\bdrawn\b",
    "fact": r"\breturn it for\b|\bdelivery takes\b|\bwrapping costs\b|\bwarranty lasts\b",
    "product": r"fits your words|\bcosts \d",
}


@dataclass(frozen=True)
class Case:
    """What a judge reads.

    Attributes:
        request: words of the user.
        answer: words of the answer.
    """

    request: str
    answer: str


def kind_of(answer: str) -> str:
    """What an answer is about, by its words."""
    return next((name for name, words in _KINDS.items() if re.search(words, answer.lower())), "other")


def names_what_belongs(answer: str) -> bool:
    """Whether an answer names the price of its product, or the source of its report; true where it has neither."""
    kind = kind_of(answer)
    if kind == "product":
        return bool(re.search(r"\d+\.\d{2}", answer))
    return kind != "report" or bool(re.search(r"source|come from", answer.lower()))


def is_short(answer: str) -> bool:
    """Whether an answer has few words."""
    return len(answer.split()) <= LONGEST


def features(case: Case) -> NDArray[np.float64]:
    """[features] of a request with its answer: shares of words in common, its kind, and the request's words by kind."""
    asked, said = _words(case.request), _words(case.answer)
    common = asked & said
    kind = [*_KINDS, "other"].index(kind_of(case.answer))
    kinds = np.eye(len(_KINDS) + 1)[kind]
    bag = np.zeros(_BAGS)
    for word in asked:
        bag[zlib.crc32(word.encode()) % _BAGS] = 1.0
    shares = [len(common) / max(1, len(asked)), len(common) / max(1, len(said)), len(said) / LONGEST]
    return np.concatenate([[1.0], shares, kinds, shares[1] * kinds, bag, np.outer(kinds, bag).ravel() / 2])


class LearntJudge:
    """Says how likely an answer serves.

    Args:
        cases: labelled answers.
        labels: whether each serves, as somebody said who errs.
        penalty: weight of the squared coefficients.
    """

    def __init__(self, cases: Sequence[Case], labels: Sequence[bool], *, penalty: float = 3.0) -> None:
        rows = np.stack([features(one) for one in cases])
        wanted = np.asarray(labels, np.float64)
        self._mean = float(wanted.mean())
        square = rows.T @ rows + penalty * np.eye(rows.shape[1])
        self._weights = np.linalg.solve(square, rows.T @ (wanted - self._mean))

    def chance(self, case: Case) -> float:
        """Estimate of the chance that an answer serves, cut to 0 and 1."""
        return float(np.clip(self._mean + features(case) @ self._weights, 0.0, 1.0))


def judged_score(judge: LearntJudge, case: Case) -> float:
    """The weighted share of the checklist that a judge calls good, as its verdicts give it to a gate."""
    said = verdicts(judge, case)
    return sum(WEIGHTS[name] * good for name, good in said.items()) / sum(WEIGHTS.values())


def verdicts(judge: LearntJudge, case: Case) -> dict[str, bool]:
    """Whether each item of the checklist is good, by a judge."""
    return {
        "served": judge.chance(case) > 0.5,
        "named": names_what_belongs(case.answer),
        "short": is_short(case.answer),
    }


def load_judges(path: Path = LABELS) -> dict[str, LearntJudge]:
    """The judges by their names, each trained on its own part of the labels.

    Raises:
        DataError: the labels cannot be read.
    """
    rows = [row for _, row in json_records(path)]
    judges = {}
    for place, name in enumerate(NAMES):
        own = rows[place * EACH : (place + 1) * EACH]
        judges[name] = LearntJudge(
            [Case(one["request"], one["answer"]) for one in own], [bool(one["serves"]) for one in own]
        )
    return judges


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9-]+", text.lower())) - _SMALL
