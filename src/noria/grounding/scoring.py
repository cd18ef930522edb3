"""From answers to rates: the 2×2×2 table of rating, reasoning and grounding, and everything read off it.

Arrays in, numbers out; no file, no clock. n is videos, q questions, s sources, b bootstrap draws.

A video passes the rating when R1 = correct traits / 5 ≥ θ1, the reasoning when R2 = judged composite / 10 ≥ θ2, the
grounding when R3 = correct answers / questions ≥ θ3 (paper, Sec. 4.4). Shares are compared as integers and
rationals, so that 3/5 is never just below .6.

*Strict*: what a model did not answer is wrong, and a video that it could have passed had it answered counts against it
in every rate that conditions on passing. So no refusal ever improves a score, whichever way it is better. What a
*judge* did not answer is missing: masked, counted, never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.core.statistics.intervals import proportion_interval

__all__ = [
    "DEFAULT",
    "RATES",
    "SWEEP",
    "Marks",
    "Ratio",
    "Theta",
    "Truth",
    "averaged",
    "bootstrap",
    "cells",
    "chance_of_passing",
    "cluster_weights",
    "distinct_settings",
    "estimates",
    "linked_prejudice",
    "measures",
    "passes",
    "positional_bias",
    "rank_gap",
    "rates",
    "total_variation",
]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RATES = ("PR", "CR", "IR", "HR")


@dataclass(frozen=True)
class Truth:
    """What is right.

    Attributes:
        levels: [n, 5] in 0 … 4; −1 where there is no score.
        sources: [n] number of the source that a clip is from.
        video: [q] which video a question is of.
        category: [q] in 0 … 6; −1 for a category that is none of the paper's.
        answer: [q] place of the right option.
        options: [q] how many there are.
        linked: [q, 5] whether the question is about a trait.
    """

    levels: Ints
    sources: Ints
    video: Ints
    category: Ints
    answer: Ints
    options: Ints
    linked: Bools

    @property
    def n(self) -> int:
        """Videos."""
        return len(self.levels)

    @property
    def questions(self) -> Ints:
        """[n] how many each video has."""
        return np.bincount(self.video, minlength=self.n)


@dataclass(frozen=True)
class Marks:
    """What a model said.

    Attributes:
        levels: [n, 5] in 0 … 4; −1 where it gave none.
        answers: [q] place of the option it chose; −1 where it chose none.
        reasoned: [n, 5] whether it gave a rationale.
        judged: [n, 5, 4] scores 1 … 10 of the rationales; NaN where the judge gave none. None: nobody judged.
    """

    levels: Ints
    answers: Ints
    reasoned: Bools
    judged: Floats | None = None


@dataclass(frozen=True)
class Theta:
    """Thresholds of the rating, the reasoning and the grounding.

    >>> Theta("1/2", ".7", 0.5)
    Theta(rating=Fraction(1, 2), reasoning=Fraction(7, 10), grounding=Fraction(1, 2))
    """

    rating: Fraction
    reasoning: Fraction
    grounding: Fraction

    def __init__(
        self,
        rating: str | float | Fraction,
        reasoning: str | float | Fraction,
        grounding: str | float | Fraction,
    ) -> None:
        for name, value in (("rating", rating), ("reasoning", reasoning), ("grounding", grounding)):
            exact = Fraction(str(value)) if isinstance(value, float) else Fraction(value)
            if not 0 < exact <= 1:
                raise ValueError(f"a threshold of {value} is not in (0, 1]")
            object.__setattr__(self, name, exact)

    def __str__(self) -> str:
        return f"{float(self.rating):g}/{float(self.reasoning):g}/{float(self.grounding):g}"


DEFAULT = Theta(".5", ".7", ".5")
SWEEP = tuple(
    Theta(a, b, c) for a in (".4", ".5", ".6") for b in (".6", ".7", ".8") for c in (".4", ".5", ".6")
)
"""The paper's 27 settings, of which 18 are different rules."""


# -- passing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passes:
    """Who passed what; all [n].

    Attributes:
        rating, reasoning, grounding: passed.
        dodged_rating, dodged_grounding: not passed, but would have been had every missing answer been right.
        has_rating, has_reasoning, has_grounding: whether there is anything to pass.
    """

    rating: Bools
    reasoning: Bools
    grounding: Bools
    dodged_rating: Bools
    dodged_grounding: Bools
    has_rating: Bools
    has_reasoning: Bools
    has_grounding: Bools


def composite(truth: Truth, marks: Marks) -> tuple[Floats, Bools]:
    """S_T2 = mean over traits of the mean of four dimensions, [n], and where it is known, [n].

    A trait without a rationale is 0. A trait that the judge failed on is left out; where that leaves no trait, the
    video's composite is unknown.
    """
    if marks.judged is None:
        return np.full(truth.n, np.nan), np.zeros(truth.n, bool)
    by_trait = marks.judged.mean(axis=2)  # NaN where a dimension is missing
    by_trait = np.where(marks.reasoned, by_trait, 0.0)
    known = ~np.isnan(by_trait)
    count = known.sum(axis=1)
    total = np.where(known, by_trait, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(truth.n, np.nan), where=count > 0), count > 0


def passes(truth: Truth, marks: Marks, theta: Theta = DEFAULT) -> Passes:
    """Who passes at `theta`."""
    right = (marks.levels == truth.levels) & (truth.levels >= 0)
    silent = (marks.levels < 0) & (truth.levels >= 0)
    correct, unsaid, rated = right.sum(axis=1), silent.sum(axis=1), (truth.levels >= 0).sum(axis=1)
    hits = np.bincount(truth.video, weights=marks.answers == truth.answer, minlength=truth.n).astype(int)
    blank = np.bincount(truth.video, weights=marks.answers < 0, minlength=truth.n).astype(int)
    asked = truth.questions
    score, known = composite(truth, marks)

    def reaches(count: Ints, of: Ints, share: Fraction) -> Bools:
        return (count * share.denominator >= of * share.numerator) & (of > 0)

    rating = reaches(correct, rated, theta.rating)
    grounding = reaches(hits, asked, theta.grounding)
    with np.errstate(invalid="ignore"):
        reasoning = score / 10 >= float(theta.reasoning) - 1e-9
    return Passes(
        rating=rating,
        reasoning=reasoning & known,
        grounding=grounding,
        dodged_rating=reaches(correct + unsaid, rated, theta.rating) & ~rating,
        dodged_grounding=reaches(hits + blank, asked, theta.grounding) & ~grounding,
        has_rating=rated > 0,
        has_reasoning=known,
        has_grounding=asked > 0,
    )


def cells(passed: Passes, weights: Floats | None = None) -> Floats:
    """[8] videos by 4 r1 + 2 r2 + r3, among those where all three are known.

    Args:
        passed: who passed.
        weights: [n] of the videos; 1 by default.
    """
    known = passed.has_rating & passed.has_reasoning & passed.has_grounding
    code = 4 * passed.rating.astype(int) + 2 * passed.reasoning + passed.grounding
    w = np.ones(len(known)) if weights is None else weights
    return np.bincount(code[known], weights=w[known], minlength=8).astype(float)


# -- ratios -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """A figure Σ part / Σ whole over videos, which any weighting of the videos re-makes.

    Attributes:
        name: of the figure.
        part, whole: [n].
        better: which way is better.
        share: whether it is a share, 0 … 1.
    """

    name: str
    part: Floats
    whole: Floats
    better: Literal["higher", "lower"] = "higher"
    share: bool = True

    @property
    def value(self) -> float | None:
        """None where the whole is empty."""
        whole = float(self.whole.sum())
        return float(self.part.sum()) / whole if whole > 0 else None


def averaged(rows: Sequence[Sequence[Ratio]]) -> list[Ratio]:
    """The mean of several sets of the same figures: parts and wholes averaged video by video."""
    if len(rows) == 1:
        return list(rows[0])
    return [
        replace(
            column[0],
            part=np.mean([ratio.part for ratio in column], axis=0),
            whole=np.mean([ratio.whole for ratio in column], axis=0),
        )
        for column in zip(*rows, strict=True)
    ]


def rates(passed: Passes) -> list[Ratio]:
    """PR = Pr[r3=0 | r1=1], CR = Pr[r2=0 | r1=1], IR = Pr[r1=0 | r3=1], HR = Pr[r1=r2=r3=1].

    Where a model dodged (see the module), the video counts as a failure in the rate's condition.
    """
    r1, r2, r3 = passed.rating, passed.reasoning, passed.grounding
    both13 = passed.has_rating & passed.has_grounding
    both12 = passed.has_rating & passed.has_reasoning
    every = both13 & passed.has_reasoning
    dodged1, dodged3 = passed.dodged_rating, passed.dodged_grounding

    def ratio(name: str, condition: Bools, fails: Bools, dodged: Bools, known: Bools) -> Ratio:
        part = known & fails & (condition | dodged)
        whole = known & (condition | (fails & dodged))
        return Ratio(name, part.astype(float), whole.astype(float), "lower")

    return [
        ratio("PR", r1, ~r3, dodged1, both13),
        ratio("CR", r1, ~r2, dodged1, both12),
        ratio("IR", r3, ~r1, dodged3, both13),
        Ratio("HR", (every & r1 & r2 & r3).astype(float), every.astype(float)),
    ]


def measures(truth: Truth, marks: Marks) -> list[Ratio]:
    """T1 accuracy and MAE, T2, T3 and its accuracy by category.

    Acc_T1 = Σ 1[ŷ=y] / 5N; MAE_T1 = Σ |ŷ−y| / 5N, a missing level being as far off as a level can be;
    Acc_T3 = Σ 1[â=a] / |Q| (micro average); T2 the mean composite.
    """
    rated = truth.levels >= 0
    right = (marks.levels == truth.levels) & rated
    farthest = np.maximum(truth.levels, 4 - truth.levels)
    error = np.where(marks.levels < 0, farthest, np.abs(marks.levels - truth.levels)) * rated
    score, known = composite(truth, marks)
    hit = marks.answers == truth.answer

    def per_video(values: NDArray[np.generic]) -> Floats:
        return np.bincount(truth.video, weights=values.astype(float), minlength=truth.n).astype(float)

    traits = rated.sum(axis=1).astype(float)
    found = [
        Ratio("T1", right.sum(axis=1).astype(float), traits),
        Ratio("MAE", error.sum(axis=1).astype(float), traits, "lower", share=False),
        Ratio("T2", np.where(known, score, 0.0), known.astype(float), share=False),
        Ratio("T3", per_video(hit), per_video(np.ones(len(hit)))),
    ]
    from noria.grounding.names import CATEGORIES, SHORT, TRAITS

    for number, category in enumerate(CATEGORIES):
        mine = truth.category == number
        found.append(Ratio(f"T3 {SHORT[category]}", per_video(hit & mine), per_video(mine)))
    grounded = truth.category >= 4
    found.append(Ratio("T3 grounding", per_video(hit & grounded), per_video(grounded)))
    for number, trait in enumerate(TRAITS):
        found.append(Ratio(f"T1 {trait}", right[:, number].astype(float), rated[:, number].astype(float)))
    return found


# -- uncertainty ------------------------------------------------------------------------------------------------------


def cluster_weights(sources: Ints, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[draws, clusters] how often each source is drawn when as many are drawn, with replacement, as there are."""
    count = int(sources.max()) + 1 if len(sources) else 0
    picks = generator.integers(count, size=(draws, count))
    flat = picks + np.arange(draws)[:, None] * count
    return np.bincount(flat.ravel(), minlength=draws * count).reshape(draws, count).astype(float)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; None where undefined. `videos` is the size of its whole, `n` of its sources."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    whole: float
    sources: int


def bootstrap(ratios: Sequence[Ratio], sources: Ints, weights: Floats) -> Floats:
    """[draws, ratios] every figure under every drawn weighting of the sources; NaN where its whole is empty.

    One matrix product for all figures.

    Args:
        ratios: the figures.
        sources: [n].
        weights: [draws, clusters] of `cluster_weights`.
    """
    sums = _by_source(ratios, sources, weights.shape[1])
    drawn = weights @ sums
    half = len(ratios)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(drawn[:, half:] > 0, drawn[:, :half] / drawn[:, half:], np.nan)


def _by_source(ratios: Sequence[Ratio], sources: Ints, count: int) -> Floats:
    """[clusters, 2 ratios] parts, then wholes."""
    columns = [ratio.part for ratio in ratios] + [ratio.whole for ratio in ratios]
    sums = np.zeros((count, len(columns)))
    np.add.at(sums, sources, np.stack(columns, axis=1))
    return sums


def estimates(
    ratios: Sequence[Ratio],
    sources: Ints,
    weights: Floats,
    *,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> list[Estimate]:
    """Every figure with its cluster-bootstrap interval.

    A share of exactly 0 or 1 has Wilson's interval over the sources in its place: every resample of nothing is nothing.

    Args:
        ratios: the figures.
        sources: [n].
        weights: [draws, clusters] of `cluster_weights`.
        level: confidence.
        method: `percentile`, or `bca` with the jackknife over sources (Efron 1987).
    """
    drawn = bootstrap(ratios, sources, weights)
    sums = _by_source(ratios, sources, weights.shape[1])
    found = []
    for column, ratio in enumerate(ratios):
        part, whole = sums[:, column], sums[:, len(ratios) + column]
        counted = int((whole > 0).sum())
        low = high = None
        if counted >= 2 and ratio.value is not None:
            if ratio.share and ratio.value in (0.0, 1.0):
                score = proportion_interval(int(ratio.value) * counted, counted, level=level)
                low, high = score.low, score.high
            else:
                low, high = _interval(drawn[:, column], part, whole, ratio.value, level, method)
        found.append(Estimate(ratio.name, ratio.value, low, high, float(ratio.whole.sum()), counted))
    return found


def _interval(
    drawn: Floats, part: Floats, whole: Floats, value: float, level: float, method: str
) -> tuple[float | None, float | None]:
    kept = drawn[~np.isnan(drawn)]
    if not len(kept):
        return None, None
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        ends = _bca_ends(kept, part, whole, value, ends)
    low, high = np.quantile(kept, ends)
    return float(low), float(high)


def _bca_ends(kept: Floats, part: Floats, whole: Floats, value: float, ends: Floats) -> Floats:
    from scipy.special import ndtr, ndtri

    below = float(np.mean(kept < value) + 0.5 * np.mean(kept == value))
    bias = float(ndtri(min(max(below, 1e-6), 1 - 1e-6)))
    rest = whole.sum() - whole
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = np.where(rest > 0, (part.sum() - part) / rest, np.nan)
    spread = np.nanmean(left_out) - left_out
    scale = float(np.nansum(spread**2)) ** 1.5
    speed = float(np.nansum(spread**3)) / (6 * scale) if scale > 0 else 0.0
    z = bias + ndtri(ends)
    return np.asarray(ndtr(bias + z / (1 - speed * z)), dtype=float)


def distinct_settings(truth: Truth, settings: Sequence[Theta] = SWEEP) -> list[Theta]:
    """The settings that are different rules for these videos: 3/5 passes .5 and .6 alike."""

    def least(share: Fraction, of: int) -> int:
        return -(-share.numerator * of // share.denominator)

    sizes = sorted(set(truth.questions.tolist()) - {0})
    seen: dict[object, Theta] = {}
    for theta in settings:
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
    found = np.full(truth.n, np.nan)
    for n in range(truth.n):
        mine = tuple(sorted(counts[starts[n] : starts[n + 1]].tolist()))
        if not mine:
            continue
        if mine not in known:
            least = -(-theta.grounding.numerator * len(mine) // theta.grounding.denominator)
            known[mine] = float(_hits(mine)[least:].sum())
        found[n] = known[mine]
    return found


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
        theta: thresholds.
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
    from noria.grounding.names import TRAITS

    hit = (marks.answers == truth.answer)[:, None] & truth.linked
    asked = np.zeros((truth.n, 5))
    hits = np.zeros((truth.n, 5))
    np.add.at(asked, truth.video, truth.linked.astype(float))
    np.add.at(hits, truth.video, hit.astype(float))
    share = theta.grounding
    passed = (hits * share.denominator >= asked * share.numerator) & (asked > 0)
    known = (truth.levels >= 0) & (asked > 0)
    right = (marks.levels == truth.levels) & known
    dodged = (marks.levels < 0) & known & ~passed
    part, whole = ((right & ~passed) | dodged).astype(float), (right | dodged).astype(float)
    by_trait = {
        trait: Ratio(f"PR {trait}", part[:, number], whole[:, number], "lower")
        for number, trait in enumerate(TRAITS)
    }
    return Ratio("PR linked", part.sum(axis=1), whole.sum(axis=1), "lower"), by_trait


def positional_bias(chosen: Ints, right: Ints, options: Ints) -> dict[str, float | None]:
    """How unevenly letters are chosen: σ = 100 √(1/6 Σ (p − 1/6)²), in per cent, over six-option questions answered.

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
    from noria.grounding.names import TRAITS

    found: dict[str, float | None] = {}
    for number, trait in enumerate(TRAITS):
        said, true = marks.levels[:, number], truth.levels[:, number]
        both = (said >= 0) & (true >= 0)
        found[trait] = None
        if both.any():
            p, q = (np.bincount(x[both], minlength=5) / both.sum() for x in (said, true))
            found[trait] = float(0.5 * np.abs(p - q).sum())
    return found


def rank_correlation(truth: Truth, marks: Marks) -> float | None:
    """Spearman's ρ between levels given and levels true, over all pairs of video and trait where both are known."""
    from scipy.stats import spearmanr

    both = (marks.levels >= 0) & (truth.levels >= 0)
    said, true = marks.levels[both], truth.levels[both]
    if len(said) < 3 or len(set(said.tolist())) < 2 or len(set(true.tolist())) < 2:
        return None
    return float(spearmanr(said, true).statistic)


def association(passed: Sequence[Passes]) -> dict[str, float | None]:
    """How far the three passes go together, over all orders of options.

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
    """RGM(m) = ½ (rk_T2 + rk_T3) − rk_T1 of each model, 1 the best rank, ties averaged.

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


@dataclass(frozen=True)
class Curve:
    """Rates over one threshold, the others at their defaults: [(threshold, {rate: value})]."""

    of: str
    points: list[tuple[float, dict[str, float | None]]] = field(default_factory=list)


def threshold_curves(truth: Truth, marks: Sequence[Marks], around: Theta = DEFAULT) -> list[Curve]:
    """Each rate as a function of each threshold, in steps of .05, for a threshold is a choice and no fact.

    Args:
        truth: what is right.
        marks: what the model said, in each order of options that it was asked in; rates are their means.
        around: the thresholds that are not varied.
    """
    steps = [Fraction(n, 20) for n in range(1, 21)]
    makers: Mapping[str, Callable[[Fraction], Theta]] = {
        "rating": lambda x: Theta(x, around.reasoning, around.grounding),
        "reasoning": lambda x: Theta(around.rating, x, around.grounding),
        "grounding": lambda x: Theta(around.rating, around.reasoning, x),
    }
    return [
        Curve(
            name,
            [
                (
                    float(x),
                    {r.name: r.value for r in averaged([rates(passes(truth, m, make(x))) for m in marks])},
                )
                for x in steps
            ],
        )
        for name, make in makers.items()
    ]
