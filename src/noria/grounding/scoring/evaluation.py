"""Everything that is said of one model's answers: figures with intervals, references beside them, settings on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.grounding.corpus.records import Keys, each_question
from noria.grounding.corpus.types import LEVELS
from noria.grounding.scoring.comparing import least_detectable
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.intervals import Weights, cluster_weights, estimates
from noria.grounding.scoring.predictions import Prediction, marks_of, truth_of
from noria.grounding.scoring.rates import (
    DEFAULT,
    Marks,
    Theta,
    Truth,
    averaged,
    cells,
    measures,
    passes,
    rates,
)
from noria.grounding.scoring.views import (
    association,
    chance_corrected,
    chance_of_passing,
    distinct_settings,
    linked_prejudice,
    positional_bias,
    rank_correlation,
    threshold_curves,
    total_variation,
)


@dataclass(frozen=True)
class ScoreArrays:
    """Arrays of a model on a corpus: what is right, and what it said in each order of options that it was asked in.

    Attributes:
        truth: what is right.
        marks, lenient: what it said, strictly and leniently read.
        stood: [q, options] at which place each option stood, in each order; none where options came as they stand.
    """

    truth: Truth
    marks: tuple[Marks, ...]
    lenient: tuple[Marks, ...]
    stood: tuple[NDArray[np.int64], ...] = ()


def scored(
    keys: Keys,
    predictions: Sequence[Mapping[str, Prediction]],
    settings: ScoreSettings,
    *,
    asked: Mapping[str, set[int]] | None = None,
    rated: bool = True,
    stood: Sequence[NDArray[np.int64]] = (),
) -> ScoreArrays:
    """The arrays of one model.

    Args:
        keys: what is right.
        predictions: predictions by video; several sets where options came in several orders.
        settings: settings of the scoring, of which bins and polarity count.
        asked: {video: numbers of the questions that were asked}; all by default. What was not asked is no question.
        rated: whether ratings were asked for.
        stood: places of the options of all questions, in each order.
    """
    every = truth_of(keys, settings.bins, settings.polarity)
    kept = np.array(
        [asked is None or n in asked.get(key.video_id, ()) for key, n, _ in each_question(keys.records)],
        dtype=bool,
    )
    truth = replace(
        every,
        levels=every.levels if rated else np.full_like(every.levels, -1),
        **{name: getattr(every, name)[kept] for name in ("video", "category", "answer", "options", "linked")},
    )

    def marks(lenient: bool) -> tuple[Marks, ...]:
        rows = [marks_of(keys, one, lenient=lenient) for one in predictions]
        return tuple(replace(m, answers=m.answers[kept]) for m in rows)

    return ScoreArrays(truth, marks(False), marks(True), tuple(places[kept] for places in stood))


def evaluate(one: ScoreArrays, settings: ScoreSettings, *, weights: Weights | None = None) -> dict[str, Any]:
    """All figures of a model, as JSON values; what is undefined is None.

    Args:
        one: arrays of the model.
        settings: settings of the scoring.
        weights: [draws, clusters] from `cluster_weights`, to share draws between models.
    """
    truth, theta = one.truth, settings.thresholds
    if weights is None:
        weights = cluster_weights(truth.sources, settings.draws, np.random.default_rng(settings.seed))
    passed = [passes(truth, marks, theta) for marks in one.marks]
    linked = [linked_prejudice(truth, marks, theta) for marks in one.marks]
    figures = averaged(
        [
            [*measures(truth, marks), *rates(p), total, *by_trait.values()]
            for marks, p, (total, by_trait) in zip(one.marks, passed, linked, strict=True)
        ]
    )
    with_intervals = estimates(figures, truth.sources, weights, level=settings.level, method=settings.method)
    lenient = {r.name: r.value for r in averaged([measures(truth, marks) for marks in one.lenient])}
    first = one.marks[0]  # levels are asked for once
    guess, avoided = chance_corrected(truth, passed, theta)
    distinct = distinct_settings(truth)
    sweep = [
        estimates(
            averaged([rates(passes(truth, marks, t)) for marks in one.marks]),
            truth.sources,
            weights,
            level=settings.level,
        )
        for t in distinct
    ]
    hr = next((e.value for e in with_intervals if e.name == "HR"), None)
    return {
        "settings": settings.model_dump(mode="json"),
        "counts": counts(one),
        "figures": [vars(e) | {"better": r.better} for e, r in zip(with_intervals, figures, strict=True)],
        "lenient": {name: lenient[name] for name in ("T1", "MAE", "T3")},
        "table": {
            f"r1={c >> 2} r2={c >> 1 & 1} r3={c & 1}": float(v)
            for c, v in enumerate(np.mean([cells(p) for p in passed], axis=0))
        },
        "references": references(truth, theta) | {"PR_guess_here": guess, "PR_avoided": avoided},
        "association": association(passed),
        "positional_bias": letters(one),
        "total_variation": total_variation(truth, first),
        "spearman": rank_correlation(truth, first),
        "consistency": consistency(one),
        "sweep": [
            {"theta": str(t), **{e.name: [e.value, e.low, e.high] for e in row}}
            for t, row in zip(distinct, sweep, strict=True)
        ],
        "curves": threshold_curves(truth, one.marks, theta),
        "least_detectable": None if hr is None else least_detectable(hr, len(set(truth.sources.tolist()))),
    }


def counts(one: ScoreArrays) -> dict[str, int]:
    """Counts of what was asked and of what was not answered, strictly and leniently read."""
    truth, marks, lenient = one.truth, one.marks[0], one.lenient[0]
    rated = truth.levels >= 0
    judged = marks.judged
    return {
        "videos": truth.n,
        "sources": len(set(truth.sources.tolist())),
        "levels": int(rated.sum()),
        "levels_missing": int((rated & (marks.levels < 0)).sum()),
        "levels_missing_lenient": int((rated & (lenient.levels < 0)).sum()),
        "questions": len(truth.answer),
        "answers_missing": int((marks.answers < 0).sum()),
        "answers_missing_lenient": int((lenient.answers < 0).sum()),
        "rationales_missing": int((rated & ~marks.reasoned).sum()),
        "judgements_missing": 0
        if judged is None
        else int((rated & marks.reasoned & np.isnan(judged).any(axis=2)).sum()),
    }


def letters(one: ScoreArrays) -> dict[str, float | None]:
    """Unevenness of the chosen letters, as they were shown, over all orders of options."""

    def shown(places: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        if not one.stood:
            return places
        stood = one.stood[number][np.arange(len(places)), np.maximum(places, 0)]
        return np.where(places >= 0, stood, -1)

    return positional_bias(
        np.concatenate([shown(marks.answers, n) for n, marks in enumerate(one.marks)]),
        np.concatenate([shown(one.truth.answer, n) for n in range(len(one.marks))]),
        np.tile(one.truth.options, len(one.marks)),
    )


def references(truth: Truth, theta: Theta = DEFAULT) -> dict[str, Any]:
    """What says nothing about a model: guessing, one level for all, one letter for all."""
    rated = truth.levels >= 0
    known = truth.levels[rated]
    constant = [float(np.mean(known == n)) if len(known) else None for n in range(5)]
    best = int(np.argmax([c or 0.0 for c in constant]))
    right_traits = (np.where(rated, truth.levels, -1) == best).sum(axis=1)
    letters = np.bincount(truth.answer[truth.answer >= 0], minlength=1) / max(1, len(truth.answer))
    guess = chance_of_passing(truth, theta)
    share = theta.rating
    return {
        "T1_guess": 0.2,
        "T1_constant": constant[best],
        "T1_constant_level": LEVELS[best],
        "r1_constant": float(np.mean(right_traits * share.denominator >= 5 * share.numerator))
        if truth.n
        else None,
        "T3_guess": float(np.mean(1 / truth.options)) if len(truth.options) else None,
        "T3_letter": float(letters.max()) if len(truth.answer) else None,
        "r3_guess": None if np.isnan(guess).all() else float(np.nanmean(guess)),
        "PR_guess": None if np.isnan(guess).all() else float(1 - np.nanmean(guess)),
    }


def consistency(one: ScoreArrays) -> dict[str, float | None] | None:
    """Where options came in several orders: how often a question got the same option in all, and in two of them."""
    if len(one.marks) < 2:
        return None
    answers = np.stack([marks.answers for marks in one.marks])  # [orders, q], in the letters of the corpus
    answered = (answers >= 0).all(axis=0)
    if not answered.any():
        return {"all": None, "pairs": None}
    kept = answers[:, answered]
    pairs = [np.mean(kept[i] == kept[j]) for i in range(len(kept)) for j in range(i)]
    return {"all": float(np.mean((kept == kept[0]).all(axis=0))), "pairs": float(np.mean(pairs))}
