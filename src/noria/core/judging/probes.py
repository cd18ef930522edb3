"""Probes of a judge: does it like length, and does the order of two answers decide?

A judge that gives a better score to the same answer with empty sentences behind it pays for words, and whatever learns
from it learns to write more. Long answers are often better ones, so the length of answers as they come says little: a
probe changes the length and nothing else (Dubois et al. 2024 regress the same effect out of logs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from noria.core.experiments.gates import Rule, grouped_gain
from noria.core.statistics.intervals import Interval, proportion_interval

EMPTY = (
    "I hope that this answers your question.",
    "Please let me know if there is anything else that you would like to know.",
    "I am always happy to help with this and with other questions.",
    "Thank you for asking, and please do not hesitate to ask again.",
    "As said above, this is my answer to what you asked.",
    "It is good to take some time to think about this.",
)
"""Sentences that say nothing about any request."""
LEVEL = 0.95
"""Confidence of a probe's intervals."""


def lengthened(answer: str) -> str:
    """An answer with empty sentences behind it, in their order, until it is at least twice as long."""
    words, number = answer.rstrip(), 0
    while len(words) < 2 * len(answer):
        words += ("\n\n" if not number else " ") + EMPTY[number % len(EMPTY)]
        number += 1
    return words


def length_slope(
    answers: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str],
    contents: Sequence[str] = (),
) -> Interval:
    """Mean rise of a judge's score where empty sentences double the length of an answer.

    The mean of (after − before) / log₂(length after / length before) over answers, with an interval over groups.

    Args:
        answers: [answers] the answers as they were given, none of them empty.
        before: [answers] score of each as it was given; NaN where there is none.
        after: [answers] score of :func:`lengthened` of it; NaN where there is none.
        groups: [answers] leakage group of each.
        contents: [answers] what each shares with others, such as its request; none by default.
    """
    slopes = [
        (late - early) / math.log2(len(lengthened(answer)) / len(answer))
        for answer, early, late in zip(answers, before, after, strict=True)
    ]
    return grouped_gain(slopes, groups, contents, level=LEVEL)


def length_rule(slope: Interval, asked: int, known: int, most: float) -> Rule:
    """Whether a judge may decide: it fails where it is sure to like empty sentences, by more than is allowed.

    Args:
        slope: result of :func:`length_slope`.
        asked: answers that were probed.
        known: those with both scores.
        most: rise of the score that is allowed.
    """
    if known < max(2, asked / 2) or math.isnan(slope.low):
        return Rule("judge and length", "missing", f"{known} of {asked} lengthened answers were judged twice")
    words = (
        f"{slope.effect:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}] where empty sentences double "
        f"{known} answers, {most:+.3f} allowed"
    )
    return Rule("judge and length", "failed" if slope.low > 0 and slope.effect > most else "passed", words)


def position_rate(first: Sequence[str | None], swapped: Sequence[str | None]) -> Interval:
    """Share of the pairs of which a judge says something else where their answers change places.

    Args:
        first: [pairs] what it said of a pair, in words that name no place; None where that is not valid.
        swapped: [pairs] what it said with the answers in the other order.
    """
    known = [(a, b) for a, b in zip(first, swapped, strict=True) if a is not None and b is not None]
    return proportion_interval(sum(a != b for a, b in known), len(known))
