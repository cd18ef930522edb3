"""Scores of recorded judgements of RISEBench and KRIS-Bench: strict, and compatible with the released scorers.

`compat` computes what the released code computes, its known bugs included. They are named in `KNOWN_BUGS`, and `strict`
is without them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from noria.core.chat.json_replies import object_in
from noria.core.chat.reasoning import bare_text
from noria.core.errors import DataError
from noria.core.statistics.intervals import mean_known, proportion_interval
from noria.editing.benchmarks.items import KNOWLEDGE, KRIS_DIMENSIONS, BenchItem

Mode: TypeAlias = Literal["strict", "compat", "compat-2025"]
"""
strict       without the known bugs
compat       the released scorers as they are; RISEBench's since April 2026
compat-2025  the same before it: an item without a consistency judgement is never accurate
"""
KNOWN_BUGS = {
    "rise.free": "An item whose consistency_free is empty is scored as consistency-free wherever the column exists, "
    "since an empty cell is NaN, which is true.",
    "rise.all": "Where one of an item's three replies has no score, its other scores are dropped, too.",
    "rise.numbers": "All numbers behind the words Final Score count: a reply with two shifts the dimensions.",
    "rise.free-accuracy": "Until April 2026, an item without a consistency judgement is never accurate (compat-2025).",
    "kris.digit": "A reply without its JSON has the first digit from 1 to 5 that stands anywhere in it as its score.",
    "kris.zero": "A JSON score outside of 1 to 5 counts as it is.",
    "kris.keys": "The scorers read the fields instruction and explain, while the annotations have ins_en and "
    "explain_en: the judge saw an empty instruction. Recorded judgements cannot be mended; judge again.",
}
"""Bugs of the released scorers by name."""
RISE_DIMENSIONS = ("consistency", "reasoning", "plausibility")
KRIS_SCORES = ("consistency", "quality", "instruction", "knowledge")
CONCEPTUAL = {t for d in ("social", "natural", "logical") for t in KRIS_DIMENSIONS[d]}
"""Tasks that are judged by their knowledge, too."""


@dataclass(frozen=True)
class ItemScore:
    """Scores of one item.

    Attributes:
        item: id of the item.
        family: family that it counts in.
        values: score by dimension, 1 to 5; None where it is missing or does not apply.
        score: combined score, 1 to 5; None where it is missing.
        accurate: whether every dimension that applies is 5.
        failed: whether the edit failed, so that there was no picture to judge.
    """

    item: str
    family: str
    values: Mapping[str, float | None]
    score: float | None
    accurate: bool
    failed: bool = False


# -- replies ----------------------------------------------------------------------------------------------------------

_FINAL = re.compile(r"Final Scores?\*{0,2}:?\s*([\d*\s,]*)", re.IGNORECASE)


def rise_numbers(reply: str) -> list[int]:
    """All numbers behind the first `Final Score` that has any, as the released scorer reads them."""
    for match in _FINAL.finditer(reply):
        if numbers := re.findall(r"\d+", match[1]):
            return [int(number) for number in numbers]
    return []


def strict_score(reply: str, *, low: int = 1, high: int = 5) -> int | None:
    """The one score of a reply: that of its JSON, or the one number behind its last `Final Score`; None otherwise."""
    score: object = (object_in(reply) or {}).get("score")
    if score is None:
        found = [re.findall(r"\d+", match[1]) for match in _FINAL.finditer(bare_text(reply))]
        numbers = [one for one in found if one]
        score = int(numbers[-1][0]) if numbers and len(numbers[-1]) == 1 else None
    if isinstance(score, bool) or not isinstance(score, int | float) or score != int(score):
        return None
    return int(score) if low <= score <= high else None


def kris_number(reply: str, name: str) -> int | None:
    """The score of a KRIS-Bench reply, as the released scorers read it: JSON, `name score: 3`, 3/5, any digit."""
    if match := re.search(r"\{[^{}]*" + name + r"_score[^{}]*\}", reply, re.DOTALL):
        try:
            value = json.loads(match[0]).get(f"{name}_score")
            if value is not None:
                return int(value)
        except (ValueError, TypeError, AttributeError):
            pass
    for pattern in (name + r"[_\s]*score\s*[:：]?\s*([1-5])", r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5",
                    r"\b([1-5])\b"):  # fmt: skip
        if found := re.search(pattern, reply, re.IGNORECASE | re.DOTALL):
            return int(found[1])
    return None


# -- RISEBench --------------------------------------------------------------------------------------------------------


def score_rise(item: BenchItem, replies: Mapping[str, str | None], mode: Mode = "strict") -> ItemScore:
    """Score an item of RISEBench: .3 C + .5 R + .2 V; .8 R + .2 V without consistency; logical ones .3 C + .7 R.

    Logical items are judged 0 or 1, which count as 1 and 5. Where R is 1, the score is halved, and 1 at least.

    Args:
        item: item that was judged.
        replies: the judge's text by dimension; None, or no entry, where there is none.
        mode: with or without the known bugs.
    """
    logical = item.family == "logical_reasoning"
    free = _present(item.flags.get("consistency_free"))
    names = [
        n
        for n in RISE_DIMENSIONS
        if not (n == "plausibility" and logical) and not (n == "consistency" and free)
    ]
    if mode == "strict":
        values = {n: strict_score(replies.get(n) or "", low=0 if logical else 1) for n in names}
    else:
        values = _rise_compat(item.id, names, replies)
    if logical:
        values = {n: None if v is None else 4 * min(v, 1) + 1 for n, v in values.items()}
    known: dict[str, float | None] = dict.fromkeys(RISE_DIMENSIONS) | dict(values.items())
    # The bug: the column is there for all items, and an empty cell of it counts as true.
    as_free = free or (mode != "strict" and bool(item.flags.get("has_consistency_free")))
    accurate = all(values[n] == 5 for n in names)
    if mode == "compat-2025" and free and not logical:
        accurate = False
    return ItemScore(item.id, item.family, known, _rise_score(known, logical, as_free), accurate)


def _rise_compat(item: str, names: Sequence[str], replies: Mapping[str, str | None]) -> dict[str, int | None]:
    """Scores of the dimensions as the released scorer lines them up.

    Raises:
        DataError: it would fail on these replies.
    """
    numbers = [rise_numbers(replies.get(name) or "") for name in names]
    if not all(numbers):
        return dict.fromkeys(names)
    flat = [number for one in numbers for number in one]
    if len(flat) < len(names) or len(flat) > 3:
        raise DataError(
            f"the released scorer fails on {len(flat)} scores for {len(names)} replies",
            where=f"item {item}",
            mend="score it strictly",
        )
    return dict(zip(names, flat, strict=False))


def _rise_score(values: Mapping[str, float | None], logical: bool, free: bool) -> float | None:
    weights = {"consistency": 0.3, "reasoning": 0.5, "plausibility": 0.2}
    if logical:
        weights = {"consistency": 0.3, "reasoning": 0.7}
    elif free:
        weights = {"reasoning": 0.8, "plausibility": 0.2}
    total = 0.0
    for name, weight in weights.items():
        value = values[name]
        if value is None:
            return None
        total += weight * value
    return max(1.0, 0.5 * total) if values["reasoning"] == 1 else total


def _present(value: object) -> bool:
    """Whether a cell holds something: None and NaN are empty."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


# -- KRIS-Bench -------------------------------------------------------------------------------------------------------


def score_kris(item: BenchItem, replies: Mapping[str, str | None], mode: Mode = "strict") -> ItemScore:
    """Score an item of KRIS-Bench: consistency, quality, instruction, and knowledge on conceptual and logical tasks.

    Knowledge counts as 1 where instruction is 2 or less. The combined score is the mean of those that apply; averages
    over items are flat means of all single scores (`kris_average`), not means of means.

    Args:
        item: item that was judged.
        replies: the judge's text by dimension.
        mode: with or without the known bugs.
    """
    names = [n for n in KRIS_SCORES if n != "knowledge" or item.flags.get("task") in CONCEPTUAL]
    read: Callable[[str, str], int | None] = kris_number
    if mode == "strict":
        read = lambda text, name: strict_score(text)  # noqa: E731
    values: dict[str, float | None] = {n: read(replies.get(n) or "", n) for n in names}
    instruction, knowledge = values["instruction"], values.get("knowledge")
    if knowledge is not None and instruction is not None and instruction <= 2:
        values["knowledge"] = 1
    known = [v for v in values.values() if v is not None]
    whole = len(known) == len(names)
    score = sum(known) / len(known) if whole or (known and mode != "strict") else None
    full: dict[str, float | None] = dict.fromkeys(KRIS_SCORES) | values
    return ItemScore(item.id, item.family, full, score, whole and all(v == 5 for v in known))


def score_failed(item: BenchItem) -> ItemScore:
    """The lowest score that there is, for an item whose edit failed: nobody gains by failing on what is hard."""
    lowest = '{"score": 0}' if item.family == "logical_reasoning" else '{"score": 1}'
    score = score_kris if item.kind == "kris" else score_rise
    return replace(score(item, dict.fromkeys((*RISE_DIMENSIONS, *KRIS_SCORES), lowest)), failed=True)


def kris_average(scores: Sequence[ItemScore]) -> float:
    """Flat mean of all single scores, in percent: 25 (mean − 1); NaN where there is none."""
    return percent(mean_known(value for one in scores for value in one.values.values()))


def knowledge_of(family: str) -> str:
    """Type of knowledge of a KRIS-Bench dimension."""
    return next((name for name, families in KNOWLEDGE.items() if family in families), "other")


def percent(score: float) -> float:
    """A score of 1 to 5 in percent."""
    return 25 * (score - 1)


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table.

    Attributes:
        name: family, or `all`.
        items: number of items.
        scored: items with a score.
        score: mean score in percent; NaN where there is none.
        accuracy: share of accurate items, those without a score counted as not.
        low, high: 95 % interval of the accuracy.
        availability: share of items whose edit did not fail.
    """

    name: str
    items: int
    scored: int
    score: float
    accuracy: float
    low: float = math.nan
    high: float = math.nan
    availability: float = 1.0


def summary(scores: Sequence[ItemScore], kind: str) -> list[Row]:
    """Rows by family, and of all; a missing score is left out of a mean, and not accurate.

    Args:
        scores: scores of the items.
        kind: kind of the benchmark.
    """
    groups: dict[str, list[ItemScore]] = {}
    for one in scores:
        groups.setdefault(one.family, []).append(one)
        if kind == "kris":
            groups.setdefault(knowledge_of(one.family), []).append(one)
    groups["all"] = list(scores)
    rows = []
    for name, group in groups.items():
        known = [one.score for one in group if one.score is not None]
        mean = kris_average(group) if kind == "kris" else percent(mean_known(one.score for one in group))
        share = proportion_interval(sum(one.accurate for one in group), len(group))
        failed = sum(one.failed for one in group)
        available = 1 - failed / len(group) if group else math.nan
        rows.append(Row(name, len(group), len(known), mean, share.effect, share.low, share.high, available))
    return rows
