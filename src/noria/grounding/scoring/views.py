"""What stands beside the rates: chance, prejudice by trait, bias of letters, thresholds, ranks.

σ of letters, total variation and Spearman's ρ describe the answers that were given: withholding some can move them
either way, so they are read beside the number of answers that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from noria.grounding.corpus.types import TRAITS
from noria.grounding.scoring.rates import (
    DEFAULT,
    SWEEP,
    Floats,
    Ints,
    Marks,
    Passes,
    Ratio,
    Theta,
    Truth,
    averaged,
    cells,
    passes,
    rates,
)


def distinct_settings(truth: Truth) -> list[Theta]:
    """The settings of the sweep that are different rules for these videos: 3/5 passes .5 and .6 alike."""

    def least(share: Fraction, of: int) -> int:
        return -(-share.numerator * of // share.denominator)

    sizes = sorted(set(truth.questions.tolist()) - {0})
    seen: dict[object, Theta] = {}
    for theta in SWEEP:
        rule = (
            least(theta.rating, 5),
            theta.reasoning,
            tuple(least(theta.grounding, m) for m in sizes),
        )
        seen.setdefault(rule, theta)
    return list(seen.values())


# -- chance -----------------------------------------------------------------------------------------------------------


def chance_of_passing(truth: Truth, theta: Theta = DEFAULT) -> Floats:
    """[n] the chance that a guesser passes the grounding of a video: Pr[Σ hits ≥ θ3 m], exact.

    Each question is hit with probability 1 / options; NaN for a video without questions.
    """
    order = np.argsort(truth.video, kind="stable")
    counts = truth.options[order]
    starts = np.concatenate([[0], np.cumsum(truth.questions)])
    known: dict[tuple[int, ...], float] = {}
    chances = np.full(truth.n, np.nan)
    for n in range(truth.n):
        mine = tuple(sorted(counts[starts[n] : starts[n + 1]].tolist()))
        if not mine:
            continue
        if mine not in known:
            least = -(-theta.grounding.numerator * len(mine) // theta.grounding.denominator)
            known[mine] = float(_hits(mine)[least:].sum())
        chances[n] = known[mine]
    return chances


def _hits(options: Sequence[int]) -> Floats:
    """[m + 1] the distribution of the number of right guesses."""
    chances = np.array([1.0])
    for count in options:
        chances = np.convolve(chances, [1 - 1 / count, 1 / count])
    return chances


def chance_corrected(
    truth: Truth, passed: Sequence[Passes], theta: Theta = DEFAULT
) -> tuple[float | None, float | None]:
    """(PR of a guesser on the videos this model rates rightly, share of it that the model avoids).

    The share is (PR_guess − PR) / PR_guess: 0 for a guesser, 1 for a model that is never prejudiced.

    Args:
        truth: what is right.
        passed: who passed, in each order of options.
        theta: thresholds of passing.
    """
    guess = 1 - chance_of_passing(truth, theta)
    condition = passed[0].rating & passed[0].has_grounding  # ratings are asked for once
    if not condition.any():
        return None, None
    reference = float(guess[condition].mean())
    value = averaged([rates(one) for one in passed])[0].value
    return reference, None if value is None or reference == 0 else (reference - value) / reference


# -- more views -------------------------------------------------------------------------------------------------------


def linked_prejudice(truth: Truth, marks: Marks, theta: Theta = DEFAULT) -> tuple[Ratio, dict[str, Ratio]]:
    """Prejudice by trait: Pr[fewer than θ3 of the questions about a trait right | the trait rated right].

    The paper's PR ties a whole video's rating to questions about other traits; this one does not. A trait without a
    question about it is left out. A trait that was not rated, though its questions were failed, counts as a failure:
    it might have been rated right.

    Returns:
        Over all traits, and by trait.
    """
    hit = (marks.answers == truth.answer)[:, None] & truth.linked
    questions = np.zeros((truth.n, 5))
    hits = np.zeros((truth.n, 5))
    np.add.at(questions, truth.video, truth.linked.astype(float))
    np.add.at(hits, truth.video, hit.astype(float))
    share = theta.grounding
    passed = (hits * share.denominator >= questions * share.numerator) & (questions > 0)
    known = (truth.levels >= 0) & (questions > 0)
    right = (marks.levels == truth.levels) & known
    dodged = (marks.levels < 0) & known & ~passed
    part, whole = ((right & ~passed) | dodged).astype(float), (right | dodged).astype(float)
    by_trait = {
        trait: Ratio(f"PR {trait}", part[:, number], whole[:, number], "lower")
        for number, trait in enumerate(TRAITS)
    }
    return Ratio("PR linked", part.sum(axis=1), whole.sum(axis=1), "lower"), by_trait


def positional_bias(chosen: Ints, right: Ints, options: Ints) -> dict[str, float | None]:
    """Unevenness of the chosen letters: σ = 100 √(1/6 Σ (p − 1/6)²), in per cent, over six-option questions answered.

    The right answers are themselves uneven (1.96 in the release), so σ against uniform is no neutral reference:
    `against_truth` takes the right letters' shares in the place of 1/6. `of_truth` is σ of the right letters.

    Args:
        chosen, right: [q] places of the options chosen and of the right ones as they were shown; −1 where none.
        options: [q] how many there were.
    """
    six = (options == 6) & (chosen >= 0)
    if not six.any():
        return {"sigma": None, "of_truth": None, "against_truth": None}
    shares = np.bincount(chosen[six], minlength=6)[:6] / six.sum()
    true = np.bincount(right[six & (right >= 0)], minlength=6)[:6] / six.sum()

    def sigma(a: Floats, b: Floats | float) -> float:
        return float(100 * np.sqrt(np.mean((a - b) ** 2)))

    return {
        "sigma": sigma(shares, 1 / 6),
        "of_truth": sigma(true, 1 / 6),
        "against_truth": sigma(shares, true),
    }


def total_variation(truth: Truth, marks: Marks) -> dict[str, float | None]:
    """½ Σ |p̂ − p| between the levels given and the levels that are true, by trait; missing levels are no level."""
    distance: dict[str, float | None] = {}
    for number, trait in enumerate(TRAITS):
        given, true = marks.levels[:, number], truth.levels[:, number]
        both = (given >= 0) & (true >= 0)
        distance[trait] = None
        if both.any():
            p, q = (np.bincount(x[both], minlength=5) / both.sum() for x in (given, true))
            distance[trait] = float(0.5 * np.abs(p - q).sum())
    return distance


def rank_correlation(truth: Truth, marks: Marks) -> float | None:
    """Spearman's ρ between levels given and levels true, over all pairs of video and trait where both are known."""
    from scipy.stats import spearmanr

    both = (marks.levels >= 0) & (truth.levels >= 0)
    given, true = marks.levels[both], truth.levels[both]
    if len(given) < 3 or len(set(given.tolist())) < 2 or len(set(true.tolist())) < 2:
        return None
    return float(spearmanr(given, true).statistic)


def association(passed: Sequence[Passes]) -> dict[str, float | None]:
    """Association of the three passes, over all orders of options.

    `lift` = HR / (P1 P2 P3), 1 under independence; `phi` = the correlation of r1 and r3.
    """
    table = np.sum([cells(one) for one in passed], axis=0)
    total = table.sum()
    r1, r3 = (
        np.concatenate(
            [getattr(one, name)[one.has_rating & one.has_grounding].astype(float) for one in passed]
        )
        for name in ("rating", "grounding")
    )
    phi = float(np.corrcoef(r1, r3)[0, 1]) if len(r1) and r1.std() > 0 and r3.std() > 0 else None
    if not total:
        return {"lift": None, "phi": phi}
    p1, p2 = table[4:].sum() / total, table[[2, 3, 6, 7]].sum() / total
    independent = p1 * p2 * (table[1::2].sum() / total)
    return {"lift": float(table[7] / total / independent) if independent > 0 else None, "phi": phi}


def rank_gap(t1: Sequence[float], t2: Sequence[float], t3: Sequence[float]) -> list[float]:
    """RGM(m) = ½ (rk_T2 + rk_T3) − rk_T1 of each model (MM-OCEAN, arXiv 2605.22109); rank 1 is best, ties averaged.

    Positive: its rating ranks better than its reasons and its grounding.
    """
    from scipy.stats import rankdata

    one, two, three = (rankdata([-x for x in values]) for values in (t1, t2, t3))
    return [float(x) for x in 0.5 * (two + three) - one]


def guesses(truth: Truth, generator: np.random.Generator) -> Marks:
    """What a uniform guesser says, with no rationale."""
    return Marks(
        levels=generator.integers(5, size=truth.levels.shape),
        answers=(generator.random(len(truth.answer)) * truth.options).astype(np.int64),
        reasoned=np.zeros(truth.levels.shape, bool),
    )


def threshold_curves(truth: Truth, marks: Sequence[Marks], around: Theta = DEFAULT) -> list[dict[str, Any]]:
    """Each rate as a function of each threshold, in steps of .05, for a threshold is a choice and no fact.

    Args:
        truth: what is right.
        marks: the model's marks, in each order of options that it was asked in; rates are their means.
        around: the thresholds that are not varied.

    Returns:
        {of: name of the threshold, points: [[threshold, {rate: value}]]} of each.
    """

    def at(theta: Theta) -> dict[str, float | None]:
        return {r.name: r.value for r in averaged([rates(passes(truth, m, theta)) for m in marks])}

    steps = [Fraction(n, 20) for n in range(1, 21)]
    return [
        {"of": name, "points": [[float(x), at(replace(around, **{name: x}))] for x in steps]}
        for name in ("rating", "reasoning", "grounding")
    ]
