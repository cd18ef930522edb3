"""Rates out of answers: the 2×2×2 table of rating, reasoning and grounding, and everything read off it.

Arrays in, numbers out; no file, no clock. n is videos, q questions, s sources, b bootstrap draws.

A video passes the rating when R1 = correct traits / 5 ≥ θ1, the reasoning when R2 = judged composite / 10 ≥ θ2, the
grounding when R3 = correct answers / questions ≥ θ3 (MM-OCEAN, arXiv 2605.22109, Sec. 4.4). Shares are compared as
integers and rationals, so that 3/5 is never just below .6.

*Strict*: what a model did not answer is wrong, and a video that it could have passed had it answered counts against it
in every rate that conditions on passing. So no refusal improves T1, MAE, T2, T3 or a rate, whichever way it is better.
(What describes answers that were given, in `views`, can move either way: σ of letters, total variation, Spearman's ρ.)
What a *judge* did not answer is missing: masked, counted, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.grounding.corpus.types import CATEGORIES, SHORT, TRAITS

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RATES = ("PR", "CR", "IR", "HR")
SUMMARY = ("T1", "MAE", "T2", "T3", "T3 grounding", "PR", "CR", "IR", "HR", "PR linked")
"""The figures of a short table."""
BY_CATEGORY = tuple(f"T3 {SHORT[category]}" for category in CATEGORIES)
BY_TRAIT = tuple(f"T1 {trait}" for trait in TRAITS)


@dataclass(frozen=True)
class Truth:
    """True levels and right answers of a corpus.

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
        """Number of videos."""
        return len(self.levels)

    @property
    def questions(self) -> Ints:
        """[n] how many each video has."""
        return np.bincount(self.video, minlength=self.n)


@dataclass(frozen=True)
class Marks:
    """Levels, answers and judged rationales of a model.

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
    """Videos that passed rating, reasoning and grounding; all fields are [n].

    Attributes:
        rating, reasoning, grounding: whether the video passed.
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
    """Find the videos that pass at the thresholds `theta`."""
    right = (marks.levels == truth.levels) & (truth.levels >= 0)
    silent = (marks.levels < 0) & (truth.levels >= 0)
    correct, unsaid, rated = right.sum(axis=1), silent.sum(axis=1), (truth.levels >= 0).sum(axis=1)
    hits = np.bincount(truth.video, weights=marks.answers == truth.answer, minlength=truth.n).astype(int)
    blank = np.bincount(truth.video, weights=marks.answers < 0, minlength=truth.n).astype(int)
    questions = truth.questions
    score, known = composite(truth, marks)

    def reaches(count: Ints, of: Ints, share: Fraction) -> Bools:
        return (count * share.denominator >= of * share.numerator) & (of > 0)

    rating = reaches(correct, rated, theta.rating)
    grounding = reaches(hits, questions, theta.grounding)
    with np.errstate(invalid="ignore"):
        reasoning = score / 10 >= float(theta.reasoning) - 1e-9
    return Passes(
        rating=rating,
        reasoning=reasoning & known,
        grounding=grounding,
        dodged_rating=reaches(correct + unsaid, rated, theta.rating) & ~rating,
        dodged_grounding=reaches(hits + blank, questions, theta.grounding) & ~grounding,
        has_rating=rated > 0,
        has_reasoning=known,
        has_grounding=questions > 0,
    )


def cells(passed: Passes) -> Floats:
    """[8] number of videos by 4 r1 + 2 r2 + r3, among those where all three are known."""
    known = passed.has_rating & passed.has_reasoning & passed.has_grounding
    code = 4 * passed.rating.astype(int) + 2 * passed.reasoning + passed.grounding
    return np.bincount(code[known], minlength=8).astype(float)


# -- ratios -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """A figure Σ part / Σ whole over videos, which any weighting of the videos re-makes.

    Attributes:
        name: name of the figure.
        part, whole: [n] numerator and denominator of each video.
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
    figures = [
        Ratio("T1", right.sum(axis=1).astype(float), traits),
        Ratio("MAE", error.sum(axis=1).astype(float), traits, "lower", share=False),
        Ratio("T2", np.where(known, score, 0.0), known.astype(float), share=False),
        Ratio("T3", per_video(hit), per_video(np.ones(len(hit)))),
    ]
    for number, category in enumerate(CATEGORIES):
        mine = truth.category == number
        figures.append(Ratio(f"T3 {SHORT[category]}", per_video(hit & mine), per_video(mine)))
    grounded = truth.category >= 4
    figures.append(Ratio("T3 grounding", per_video(hit & grounded), per_video(grounded)))
    for number, trait in enumerate(TRAITS):
        figures.append(Ratio(f"T1 {trait}", right[:, number].astype(float), rated[:, number].astype(float)))
    return figures
