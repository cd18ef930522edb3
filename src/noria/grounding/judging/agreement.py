"""Scores out of the panel's samples, and how far its judges agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from noria.core.judging import Checklist, Value, Verdict, agreement, krippendorff_alpha, majority
from noria.grounding.asking.store import Sample
from noria.grounding.corpus.types import DIMENSIONS, Rubric
from noria.grounding.judging.cases import Case, dimensions, rubric


def judged_by(
    cases: Sequence[Case],
    samples: Iterable[Sample],
    kind: Rubric,
    *,
    panel: Sequence[str] | None = None,
    quorum: int = 1,
) -> dict[str, dict[str, dict[str, float]]]:
    """{video: {trait: {dimension: 1 … 10}}}: the panel's verdict on each item, or its mean grade.

    A trait whose judges all failed is left out; so is a dimension without a valid verdict.

    Args:
        cases: cases that were judged.
        samples: samples of the judges.
        kind: rubric of the judgement.
        panel: names of the judges that count; all by default.
        quorum: valid verdicts that an item needs.
    """
    rows = _rows(samples, panel)
    judged: dict[str, dict[str, dict[str, float]]] = {}
    for case in cases:
        judges = rows.get(case.id, {})
        if kind == "graded":
            scores = {}
            for dimension in DIMENSIONS:
                grades = [g for s in judges.values() if not math.isnan(g := _grade(s, dimension))]
                if len(grades) >= quorum:
                    scores[dimension] = float(np.mean(grades))
        else:
            checklist = rubric(case)
            table = [_verdicts(checklist, sample) for sample in judges.values()]
            scores = dimensions(case, checklist, majority(table, quorum=quorum)) if table else {}
        if scores:
            judged.setdefault(case.video, {})[case.trait] = scores
    return judged


def agreement_of(
    cases: Sequence[Case], samples: Iterable[Sample], kind: Rubric, *, panel: Sequence[str] | None = None
) -> dict[str, float | None]:
    """Krippendorff's alpha of the judges: over all yes/no items, or over the grades of each dimension."""
    rows = _rows(samples, panel)
    names = sorted({name for judges in rows.values() for name in judges})
    if len(names) < 2:
        return {}
    if kind == "graded":

        def grade(case: Case, name: str, dimension: str) -> float:
            sample = rows.get(case.id, {}).get(name)
            return math.nan if sample is None else _grade(sample, dimension)

        return {
            d: krippendorff_alpha(np.array([[grade(c, n, d) for c in cases] for n in names]), "interval")
            for d in DIMENSIONS
        }
    nothing = Sample("", "", "", "error")
    judged = (
        [_verdicts(rubric(case), rows.get(case.id, {}).get(name, nothing)) for name in names]
        for case in cases
    )
    return {"items": agreement(judged)}


def _grade(sample: Sample, dimension: str) -> float:
    """A judge's grade from 1 to 10; NaN where it gave none."""
    text = sample.answers.get(dimension, "")
    return float(text) if text.isdecimal() and 1 <= int(text) <= 10 else math.nan


def _rows(samples: Iterable[Sample], panel: Sequence[str] | None) -> dict[str, dict[str, Sample]]:
    """{case: {judge: sample}} of what was read, of those on the panel."""
    rows: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        trait, _, judge = sample.part.partition("/")
        if sample.status == "ok" and (panel is None or judge in panel):
            rows.setdefault(f"{sample.video}/{trait}", {})[judge] = sample
    return rows


def _verdicts(checklist: Checklist, sample: Sample) -> list[Verdict]:
    verdicts = []
    for item in checklist.items:
        answer = sample.answers.get(item.id)
        value: Value = "yes" if answer == "yes" else "no" if answer == "no" else "invalid"
        verdicts.append(Verdict(item.id, value, judge=sample.part))
    return verdicts
