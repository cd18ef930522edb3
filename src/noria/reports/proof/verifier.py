"""A verifier of claims, trained on facts of some countries and judged on others: a logistic regression on nine
features.

It is compared with lexical overlap, whose threshold is tuned on the same training pairs. Negatives have another number,
another country, or another measure; the claims it is judged on are worded by templates that training did not have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.reports.evidence.quantities import agrees, quantities
from noria.reports.evidence.records import Fact
from noria.reports.search.index import Index

TRAIN = ("{e}: {m} was {v} in {p}.", "In {p}, {m} of {e} was {v}.")
TEST = ("{v} is what {m} came to in {e} during {p}.", "For {e}, statistics of {p} give {m} as {v}.")
_WORD = re.compile(r"[a-z]+")
Pair = tuple[str, str, bool, str]
"""Claim, passage, whether it follows, and what was swapped."""


def make_pairs(index: Index, seed: int, count: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs for training and for judging, of different countries and different templates."""
    rng = np.random.default_rng(seed)
    measures = [m for m, n in index.measures().items() if n >= 100]
    facts = [f for m in measures for f in index.facts(measure=m) if f.period and f.unit]
    entities = sorted({f.entity for f in facts})
    held = {str(e) for e in rng.choice(entities, len(entities) // 3, replace=False)}
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for side, wanted, templates in ((0, False, TRAIN), (1, True, TEST)):
        pool = [f for f in facts if (f.entity in held) == wanted]
        for number in rng.choice(len(pool), count, replace=False):
            fact, other = pool[int(number)], pool[int(rng.integers(len(pool)))]
            sides[side].extend(
                _pairs(fact, other, str(rng.choice(templates)), float(rng.uniform(1.1, 2.0)), index)
            )
    return sides


def _pairs(fact: Fact, other: Fact, template: str, factor: float, index: Index) -> list[Pair]:
    passage = f"{fact.entity}. {fact.measure}: {fact.raw} ({fact.period} est.)"
    value = f"{fact.raw}" if fact.unit in fact.raw else f"{fact.raw} {fact.unit}"
    wrong = next(quantities(fact.raw), None)
    swapped = value if wrong is None else value.replace(wrong.raw, _moved(wrong.raw, factor), 1)

    def said(entity: str, measure: str, number: str) -> str:
        return template.format(e=entity, m=measure, v=number, p=fact.period)

    pairs = [(said(fact.entity, fact.measure, value), passage, True, "none")]
    if swapped != value:
        pairs.append((said(fact.entity, fact.measure, swapped), passage, False, "number"))
    if other.entity != fact.entity:
        pairs.append((said(other.entity, fact.measure, value), passage, False, "entity"))
    return pairs


def _moved(raw: str, factor: float) -> str:
    """A number's text with its digits moved by a factor, in the same form."""
    digits = re.search(r"\d[\d,]*(?:\.\d+)?", raw)
    if digits is None:
        return raw
    plain = digits[0].replace(",", "")
    places = len(plain.partition(".")[2])
    moved = round(Decimal(plain) * Decimal(str(factor)), places)
    text = f"{moved:,.{places}f}" if "," in digits[0] else f"{moved:.{places}f}"
    return raw if text == digits[0] else raw.replace(digits[0], text, 1)


def overlap(claim: str, passage: str) -> float:
    """Share of a claim's words and numbers that the passage has."""
    tokens = set(_WORD.findall(claim.lower())) | set(re.findall(r"\d[\d,.]*\d|\d", claim))
    have = set(_WORD.findall(passage.lower())) | set(re.findall(r"\d[\d,.]*\d|\d", passage))
    return len(tokens & have) / max(1, len(tokens))


def features(claim: str, passage: str) -> list[float]:
    """Overlaps of words, capitalised words, numbers as text, numbers as quantities, years; and sizes."""
    ours, theirs = list(quantities(claim)), list(quantities(passage))
    numbers = [q for q in ours if not q.is_year]
    years = [q for q in ours if q.is_year]
    agree = [any(agrees(q, other.value, other.unit) for other in theirs) for q in numbers]
    names = set(re.findall(r"\b[A-Z][a-z]+", claim))
    have = set(re.findall(r"\b[A-Z][a-z]+", passage))
    return [
        overlap(claim, passage),
        len(names & have) / max(1, len(names)),
        float(all(agree)) if agree else 0.5,
        sum(agree) / max(1, len(agree)),
        float(all(str(q.raw) in passage for q in years)),
        float(bool(agree)),
        len(set(_WORD.findall(claim.lower())) & set(_WORD.findall(passage.lower()))) / 10,
        len(numbers) / 4,
        1.0,
    ]


def judge(train: Sequence[Pair], test: Sequence[Pair]) -> dict[str, float]:
    """Accuracy of both verifiers on the judged pairs: all, and those with swapped numbers and their true partners."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(max_iter=1000, C=10.0)
    labels = np.array([pair[2] for pair in train])
    model.fit(np.array([features(pair[0], pair[1]) for pair in train]), labels)
    scores = np.array([overlap(pair[0], pair[1]) for pair in train])
    threshold = max(np.unique(scores), key=lambda t: float(((scores >= t) == labels).mean()))
    learned: NDArray[np.bool_] = model.predict(np.array([features(pair[0], pair[1]) for pair in test]))
    lexical = np.array([overlap(pair[0], pair[1]) >= threshold for pair in test])
    truth = np.array([pair[2] for pair in test])
    part = np.array([pair[3] in ("none", "number") for pair in test])
    return {
        "learned": float((learned == truth).mean()),
        "overlap": float((lexical == truth).mean()),
        "learned, numbers": float((learned == truth)[part].mean()),
        "overlap, numbers": float((lexical == truth)[part].mean()),
    }
