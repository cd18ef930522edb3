"""Several models on the same videos: every pair, all pairs together, intervals of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noria.grounding.scoring.comparing import compare, max_t, mcnemar_of, rank_intervals
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.evaluation import ScoreArrays
from noria.grounding.scoring.intervals import bootstrap, cluster_weights
from noria.grounding.scoring.rates import Ratio, averaged, measures, passes, rates
from noria.grounding.scoring.views import rank_gap


def compare_models(
    names: Sequence[str], models: Sequence[ScoreArrays], settings: ScoreSettings
) -> dict[str, Any]:
    """Compare every pair of models, and all of them together.

    Args:
        names: names of the models.
        models: arrays of the models, about the same questions.
        settings: thresholds, bootstrap and confidence.

    Returns:
        {models, pairs: [{first, second, rows, mcnemar}], family: {figure: {pair: adjusted p}}, ranks, rgm}. Figures are
        means over orders of options; McNemar's tests, which count, are of the first order.
    """
    truth, theta = models[0].truth, settings.thresholds
    weights = cluster_weights(truth.sources, settings.draws, np.random.default_rng(settings.seed))
    passed = [passes(truth, one.marks[0], theta) for one in models]
    pairs = []
    for a, b in itertools.combinations(range(len(models)), 2):
        rows = compare(truth, models[a].marks, models[b].marks, weights, theta=theta, level=settings.level)
        tests = {
            part: dict(
                zip(("only_first", "only_second", "p"), mcnemar_of(passed[a], passed[b], part), strict=True)
            )
            for part in ("rating", "reasoning", "grounding")
        }
        pairs.append(
            {"first": names[a], "second": names[b], "rows": [vars(row) for row in rows], "mcnemar": tests}
        )
    figures = [_figures(one, settings) for one in models]
    shown = [n for n in ("T1", "T3", "HR") if all(f[n].value is not None for f in figures)]
    generator = np.random.default_rng(settings.seed)
    family = {}
    for name in shown:
        adjusted = max_t([f[name] for f in figures], truth.sources, draws=settings.draws, generator=generator)
        family[name] = {f"{names[i]} / {names[j]}": p for (i, j), p in adjusted.items()}
    ranks = {}
    for name in (*shown, "PR"):
        ratios = [f[name] for f in figures]
        drawn = bootstrap(ratios, truth.sources, weights)
        whole = drawn[~np.isnan(drawn).any(axis=1)]
        if len(whole):
            ends = rank_intervals(whole, level=settings.level, better=ratios[0].better)
            ranks[name] = dict(zip(names, ends, strict=True))
    return {
        "models": list(names),
        "pairs": pairs,
        "family": family,
        "ranks": ranks,
        "rgm": _misalignment(names, figures),
    }


def _figures(model: ScoreArrays, settings: ScoreSettings) -> dict[str, Ratio]:
    rows = [
        [*measures(model.truth, marks), *rates(passes(model.truth, marks, settings.thresholds))]
        for marks in model.marks
    ]
    return {ratio.name: ratio for ratio in averaged(rows)}


def _misalignment(names: Sequence[str], figures: Sequence[Mapping[str, Ratio]]) -> dict[str, float] | None:
    """RGM by model; None where a task is undefined for one of them."""
    columns = []
    for task in ("T1", "T2", "T3"):
        values = [value for f in figures if (value := f[task].value) is not None]
        if len(values) < len(figures):
            return None
        columns.append(values)
    return dict(zip(names, rank_gap(*columns), strict=True))
