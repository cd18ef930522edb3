"""Quality of a judge: agreement with people, test and retest, bias for length and order, and what corrects it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from noria.core.errors import DataError
from noria.core.statistics.intervals import Interval
from noria.skills.judging.judges import ChatBodyJudge, Judged, judge_answers
from noria.skills.judging.rubric import DIMENSIONS, Rubric
from noria.skills.traffic.samples import Response, Sample


@dataclass(frozen=True)
class JudgeQuality:
    """Measured quality of a judge.

    Attributes:
        spearman: rank correlation with people by dimension; None where too few or constant.
        kappa: quadratically weighted kappa with people by dimension, over tiers' points.
        retest: share of answers whose points are the same on a second draw; None without an answer judged twice.
        order: share of answers whose points are the same where the dimensions are named in reverse; None likewise.
        length_bias: mean points (J_all) that a padding without content adds; None below two answers.
        missing: share of answers without points.
        labelled: answers with a person's points.
    """

    spearman: Mapping[str, float | None]
    kappa: Mapping[str, float | None]
    retest: float | None
    order: float | None
    length_bias: Interval | None
    missing: float
    labelled: int


PADDING = "\n\nI hope that this is helpful. Please let me know if there is anything else. " * 3


def spearman(one: ArrayLike, other: ArrayLike) -> float | None:
    """Spearman's rank correlation with mean ranks of ties; None where it is undefined."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    if len(a) < 3:
        return None
    ra, rb = (_ranks(v) for v in (a, b))
    if ra.std() == 0 or rb.std() == 0:
        return None
    return float(np.corrcoef(ra, rb)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return means


def weighted_kappa(one: ArrayLike, other: ArrayLike, points: int) -> float | None:
    """Cohen's kappa with quadratic weights for integer points from 0 to `points`; None where it is undefined."""
    a, b = np.asarray(one, int), np.asarray(other, int)
    if not len(a):
        return None
    table = np.zeros((points + 1, points + 1))
    np.add.at(table, (a, b), 1)
    table /= table.sum()
    grid = np.arange(points + 1)
    cost = (grid[:, None] - grid[None, :]) ** 2
    expected = float((cost * np.outer(table.sum(1), table.sum(0))).sum())
    return 1 - float((cost * table).sum()) / expected if expected > 0 else None


def people_points(sample: Sample, rubric: Rubric) -> dict[str, float | None]:
    """A person's points of an answer by dimension; None where nobody gave any.

    Raises:
        DataError: the rubric has fewer points.
    """
    points: dict[str, float | None] = {name: sample.human.get(name) for name in DIMENSIONS}
    for name in DIMENSIONS:
        most, value = rubric.dimensions[name].points, points[name]
        if value is not None and not 0 <= value <= most:
            raise DataError(
                f"a person gave {name} {value:g} points",
                where=f"sample {sample.id!r}",
                mend=f"give 0 to {most}, as the rubric has",
            )
    return points


def judge_quality(
    cases: Sequence[tuple[Sample, Response]], rubric: Rubric, judge: ChatBodyJudge, *, probes: int = 50
) -> JudgeQuality:
    """Measure a judge on answers, some of which have a person's points (`Sample.human`).

    Every answer is judged as it is; the first ones are judged three times more: in a second draw, with the dimensions
    named in reverse, and with a padding that says nothing.

    Args:
        cases: samples and answers.
        rubric: the rubric.
        judge: the judge.
        probes: number of answers that are judged three times more.

    Raises:
        DataError: a person gave more points than the rubric has.
    """

    def judged(by: ChatBodyJudge, padding: str = "") -> list[Judged]:
        answers = [(s, replace(r, text=r.text + padding)) for s, r in cases[:probes]]
        return judge_answers(answers, rubric, by, use_rules=False)

    first = judge_answers(cases, rubric, judge, use_rules=False)
    again, turned = (
        judged(replace(judge, **change)) for change in ({"draw": judge.draw + 1}, {"reverse": True})
    )
    longer = _both_scored(first, judged(judge, PADDING))
    rho: dict[str, float | None] = {}
    kappa: dict[str, float | None] = {}
    for name in DIMENSIONS:
        people = [people_points(j.sample, rubric)[name] for j in first]
        both = [(j.points.get(name), given) for j, given in zip(first, people, strict=True)]
        labelled = [(one, other) for one, other in both if one is not None and other is not None]
        ours, theirs = [one for one, _ in labelled], [other for _, other in labelled]
        rho[name] = spearman(ours, theirs)
        kappa[name] = weighted_kappa(np.rint(ours), np.rint(theirs), rubric.dimensions[name].points)
    return JudgeQuality(
        spearman=rho,
        kappa=kappa,
        retest=_same_share(first, again),
        order=_same_share(first, turned),
        length_bias=_mean_interval([(b.score or 0.0) - (a.score or 0.0) for a, b in longer]),
        missing=float(np.mean([j.score is None for j in first])) if first else math.nan,
        labelled=sum(bool(sample.human) for sample, _ in cases),
    )


def _both_scored(one: Sequence[Judged], other: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    """Pairs of judgements of one answer of which neither lacks its score; `other` may be of the first ones only."""
    return [(a, b) for a, b in zip(one, other, strict=False) if a.score is not None and b.score is not None]


def _same_share(one: Sequence[Judged], other: Sequence[Judged]) -> float | None:
    """Share of the answers whose points are the same twice; None where none has both."""
    same = [a.points == b.points for a, b in _both_scored(one, other)]
    return float(np.mean(same)) if same else None


def prediction_powered(
    judge_all: ArrayLike, judge_labelled: ArrayLike, human: ArrayLike, *, level: float = 0.95
) -> Interval:
    """The mean that people would give, from many of a judge's scores and few of people's.

    θ̂ = λ mean(f_all) + mean(Y − λ f_labelled), with the λ of least variance (PPI++, arXiv 2311.01453), whose interval
    covers whatever the judge's bias is; with λ = 0 it is the mean of the people's alone.

    Args:
        judge_all: [N] the judge's scores of unlabelled answers.
        judge_labelled: [n] its scores of the labelled ones.
        human: [n] people's scores of these.
        level: confidence.
    """
    from scipy.special import ndtri

    many, few, truth = (np.asarray(v, float) for v in (judge_all, judge_labelled, human))
    n, total = len(truth), len(many)
    if n < 3 or total < 2:
        return Interval(math.nan, math.nan, math.nan, n, level)
    spread = float(np.var(np.concatenate([many, few]), ddof=1))
    weight = 0.0 if spread == 0 else float(np.cov(truth, few)[0, 1]) / ((1 + n / total) * spread)
    weight = min(1.0, max(0.0, weight))
    rest = truth - weight * few
    mean = weight * float(many.mean()) + float(rest.mean())
    error = math.sqrt(weight**2 * float(many.var(ddof=1)) / total + float(rest.var(ddof=1)) / n)
    half = float(ndtri((1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half, n, level)


def _mean_interval(values: Sequence[float]) -> Interval | None:
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return Interval(mean, mean - half, mean + half, n)
