"""The ten metrics of TVIR-Bench as pure functions, each in 0 … 1 (arXiv 2606.02320; exact bands read in the
released code).

A metric that could not be measured is None with its reason, never 0. What the release counts as 0 all the same is in
`noria.reports.evaluation.official`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from noria.reports.evidence.support import Verdict

TEXTUAL = ("CS", "IA", "WQ", "ADB", "FLC")
VISUAL = ("FQ", "MC", "FCQ", "FCI", "CSC")
METRICS = (*TEXTUAL, *VISUAL)
NAMES = {
    "CS": "citation support",
    "IA": "instruction alignment",
    "WQ": "writing quality",
    "ADB": "analytical depth and breadth",
    "FLC": "factual and logical consistency",
    "FQ": "figure quality",
    "MC": "multimodal composition",
    "FCQ": "figure caption quality",
    "FCI": "figure-context integration",
    "CSC": "chart-source consistency",
}
Topic = Literal["data_heavy", "technical_architectural", "balanced"]


def citation_support(
    labels: Sequence[Verdict], *, unknown: Literal["zero", "excluded"] = "excluded"
) -> float | None:
    """CS = (supported + ½ partial) / facts; None where nothing is known.

    Args:
        labels: verdict of each cited fact.
        unknown: whether a fact whose source could not be read counts as 0, as in the release, or not at all, as in
            DeepResearch Bench.
    """
    counted = [label for label in labels if unknown == "zero" or label != "unknown"]
    if not counted:
        return 0.0 if unknown == "zero" else None
    return sum({"supported": 1.0, "partial": 0.5}.get(label, 0.0) for label in counted) / len(counted)


def effective_citations(labels: Sequence[Verdict]) -> int:
    """AEC of one report: number of supported facts."""
    return sum(label == "supported" for label in labels)


def instruction_alignment(scores: Sequence[float | None]) -> float | None:
    """IA: mean of the checklist's items, each 0, ½ or 1; unanswered ones are left out."""
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else None


def rubric_score(scores: Mapping[str, int | None], rubrics: Sequence[str]) -> float | None:
    """Sum of rubrics of 1 … 10 over ten times their number (WQ of four, ADB of five); None where one is missing."""
    values = [scores.get(name) for name in rubrics]
    known = [value for value in values if value is not None and 1 <= value <= 10]
    return sum(known) / (10 * len(rubrics)) if len(known) == len(rubrics) else None


def consistency(contradictions: int | None) -> float | None:
    """FLC: 0 contradictions 1, 1–2 .9, 3–4 .8, …, 13–14 .3, 15–17 .2, 18 and more .1."""
    if contradictions is None:
        return None
    if contradictions <= 14:
        return (10 - math.ceil(contradictions / 2)) / 10
    return 0.2 if contradictions <= 17 else 0.1


def chart_source_consistency(contradictions: Sequence[int | None]) -> float | None:
    """CSC: mean over charts of (10 − n) / 10, at least .1 where n ≥ 9; charts that could not be judged are left out."""
    known = [max(1, 10 - count) / 10 for count in contradictions if count is not None]
    return math.fsum(known) / len(known) if known else None


def figure_quality(
    images: float | None, image_count: int, charts: float | None, chart_count: int
) -> float | None:
    """FQ: mean of the quality of images and of charts, weighted by their numbers; None without figures."""
    parts = [
        (value, count)
        for value, count in ((images, image_count), (charts, chart_count))
        if value is not None and count
    ]
    total = sum(count for _, count in parts)
    return math.fsum(value * count for value, count in parts) / total if total else None


def variety_band(topic: Topic, images: int, charts: int, *, valid: bool) -> tuple[int, int]:
    """Locked band of the rubric "variety and richness" by the numbers of sub-types of images and of charts."""
    if not valid:
        return (1, 2)
    both, total = min(images, charts), images + charts
    if topic == "balanced":
        if both:
            return (9, 10) if both >= 3 else (7, 8) if both >= 2 else (5, 6)
        return (5, 6) if total >= 3 else (3, 4)
    dominant = charts if topic == "data_heavy" else images
    if dominant >= 3:
        return (9, 10) if dominant >= 4 else (7, 8)
    return (5, 6) if total >= 2 else (3, 4)


def composition(layout: int | None, variety: int | None, band: tuple[int, int]) -> float | None:
    """MC = (layout + variety) / 20, with variety held inside of its band by code."""
    if layout is None or variety is None:
        return None
    return (layout + min(max(variety, band[0]), band[1])) / 20


def per_figure(scores: Sequence[Mapping[str, int | None] | None], rubrics: Sequence[str]) -> float | None:
    """FCQ or FCI: mean over figures of three rubrics over 30; a figure with a missing caption or context
    (None) is 0.
    """
    values = [0.0 if entry is None else rubric_score(entry, rubrics) for entry in scores]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def totals(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """TA, VA and Overall: means of five, of five, and of both; None where a metric of them is missing."""

    def mean(names: Sequence[str]) -> float | None:
        values = [scores.get(name) for name in names]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(names) else None

    textual, visual = mean(TEXTUAL), mean(VISUAL)
    overall = None if textual is None or visual is None else (textual + visual) / 2
    return {"TA": textual, "VA": visual, "Overall": overall}
