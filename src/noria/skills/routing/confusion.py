"""Quality of the routing of queries: N-way over the whole bank, with `none` and with errors as what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.skills.routing.calibration import calibration_error
from noria.skills.routing.routers import Router, Routing
from noria.skills.traffic.samples import NO_SKILL, Sample

ERROR = "error"


@dataclass(frozen=True)
class RouteScores:
    """Scores of a router on labelled samples, over all repeats.

    Attributes:
        labels: names of the rows: every skill that is known, and `none`.
        matrix: [labels, labels + 1] decisions by truth; the last column counts errors.
        f1: F1 of each label; None where it is neither wanted nor chosen.
        macro_f1: mean F1 of the labels that are wanted at least once; an error is a miss of what was wanted.
        accuracy: share of decisions that are acceptable; errors are not.
        errors: share of errors.
        unstable: share of samples whose repeats differ.
        trigger: by skill, the share of its samples on which it was triggered, was not, and had an error.
        calibration: expected calibration error; NaN where the router gives no confidences.
        rows: a row a sample: id, truth, decisions, whether each is right.
    """

    labels: tuple[str, ...]
    matrix: NDArray[np.int64]
    f1: Mapping[str, float | None]
    macro_f1: float
    accuracy: float
    errors: float
    unstable: float
    trigger: Mapping[str, tuple[float, float, float]]
    calibration: float
    rows: tuple[tuple[Sample, tuple[Routing, ...], tuple[bool, ...]], ...]

    def right(self) -> NDArray[np.float64]:
        """[samples] share of a sample's repeats that are right."""
        return np.array([sum(hits) / len(hits) for _, _, hits in self.rows], float)


def truth_of(sample: Sample, decision: str) -> str:
    """The label that a decision is compared with: the decision itself where it is acceptable, else the first."""
    return decision if decision in sample.expected else sample.expected[0]


def score_routes(
    samples: Sequence[Sample], repeats: Sequence[Sequence[Routing]], names: Sequence[str]
) -> RouteScores:
    """Score decisions; samples without a label are left out.

    Args:
        samples: samples.
        repeats: decisions [repeats][samples].
        names: skills of the bank.
    """
    known = [n for n, sample in enumerate(samples) if sample.expected]
    extra = {label for n in known for label in samples[n].expected} - {*names, NO_SKILL}
    labels = (*names, *sorted(extra), NO_SKILL)
    place = {label: k for k, label in enumerate(labels)} | {ERROR: len(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    rows, sure, hit, differing = [], [], [], 0
    for n in known:
        decisions = tuple(repeat[n] for repeat in repeats)
        hits = []
        given = [one.label for one in decisions]
        differing += len(set(given)) > 1
        for one, label in zip(decisions, given, strict=True):
            label = label if label in place else ERROR
            right = label in samples[n].expected
            counts[place[truth_of(samples[n], label)]][place[label]] += 1
            hits.append(right)
            if not math.isnan(one.confidence) and one.outcome != ERROR:
                sure.append(one.confidence)
                hit.append(right)
        rows.append((samples[n], decisions, tuple(hits)))
    matrix = np.array(counts, np.int64)
    total = max(1, int(matrix.sum()))
    f1 = {label: _f1(matrix, k) for k, label in enumerate(labels)}
    wanted = [f1[label] for k, label in enumerate(labels) if matrix[k].sum() and f1[label] is not None]
    sums = matrix.sum(axis=1)
    trigger = {
        label: (
            float(matrix[k, k] / sums[k]),
            float((sums[k] - matrix[k, k] - matrix[k, -1]) / sums[k]),
            float(matrix[k, -1] / sums[k]),
        )
        for k, label in enumerate(labels)
        if sums[k]
    }
    return RouteScores(
        labels,
        matrix,
        f1,
        float(np.mean([v for v in wanted if v is not None])) if wanted else math.nan,
        float(np.trace(matrix[:, :-1]) / total) if rows else math.nan,
        float(matrix[:, -1].sum() / total) if rows else math.nan,
        differing / len(rows) if rows else math.nan,
        trigger,
        calibration_error(sure, hit) if sure else math.nan,
        tuple(rows),
    )


def evaluate_routes(
    router: Router, samples: Sequence[Sample], names: Sequence[str], *, repeats: int = 1
) -> RouteScores:
    """Route labelled samples, `repeats` times each, and score the decisions."""
    known = [sample for sample in samples if sample.expected]
    draws = [router.route(known, draw=draw) for draw in range(repeats)]
    return score_routes(known, draws, names)


def _f1(matrix: NDArray[np.int64], k: int) -> float | None:
    right, wanted, chosen = matrix[k, k], matrix[k].sum(), matrix[:, k].sum()
    return float(2 * right / (wanted + chosen)) if wanted + chosen else None


def symmetric_confusion(scores: RouteScores, one: str, other: str) -> float:
    """C = (M_ij + M_ji) / (M_i· + M_j·), the share of both skills' samples that went to the other."""
    place = {label: k for k, label in enumerate(scores.labels)}
    i, j = place[one], place[other]
    total = scores.matrix[i].sum() + scores.matrix[j].sum()
    return float((scores.matrix[i, j] + scores.matrix[j, i]) / total) if total else 0.0


def set_scores(samples: Sequence[Sample], routings: Sequence[Routing]) -> tuple[float, float]:
    """For samples that need several skills: the share with all of them chosen, and the mean share of them."""
    shares = []
    for sample, routing in zip(samples, routings, strict=True):
        if len(sample.needs) > 1:
            chosen = {routing.skill, *routing.also}
            shares.append(len(chosen & set(sample.needs)) / len(sample.needs))
    if not shares:
        return math.nan, math.nan
    return float(np.mean([share == 1 for share in shares])), float(np.mean(shares))
