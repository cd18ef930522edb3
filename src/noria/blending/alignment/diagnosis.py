"""Which aligner the outcomes ask for: errors on folds that were left out, and outcomes by tenths of the scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from noria.blending.alignment.aligners import KINDS, Aligner, Kind
from noria.blending.alignment.config import FitConfig, population
from noria.blending.alignment.curves import fit_aligner
from noria.blending.alignment.tallies import FOLDS, Bins, Cell, Tallies

__all__ = ["Decile", "Diagnosis", "diagnose", "tenths"]
DECILES = 10


# -- which kind -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decile:
    """A tenth of a key's exposures by score: their number, mean score, rate, mean value, and rate over value."""

    exposures: float
    score: float
    rate: float
    value: float
    low: float
    high: float

    @property
    def ratio(self) -> float | None:
        """Outcomes over expected ones; 1 where the aligner is right. None where nothing was expected."""
        return self.rate / self.value if self.value > 0 else None


@dataclass(frozen=True)
class Diagnosis:
    """Which aligner the outcomes of a key ask for.

    Attributes:
        deciles: tenths of the exposures under mean scaling; `low` and `high` bound the rate (Wilson, 95 %).
        p_value: p value of the deciles' departures under mean scaling (χ²); small speaks against it.
        losses: mean squared error of each kind on folds it was not fitted on; kinds that do not fit are not in it.
        errors: standard error of each kind's loss above the best one's.
        advice: the simplest kind whose loss is within one standard error of the best.
    """

    deciles: list[Decile]
    p_value: float | None
    losses: Mapping[Kind, float]
    errors: Mapping[Kind, float]
    advice: Kind
    exposures: float = field(default=0.0)


def diagnose(
    tallies: Tallies,
    cells: Iterable[Cell],
    config: FitConfig,
    *,
    decay: Mapping[int, float] | None = None,
    rate: float | None = None,
) -> Diagnosis:
    """Judge every kind of aligner on what it has not seen.

    Args:
        tallies: outcomes against scores.
        cells: cells of one key.
        config: population and shrinkage.
        decay: weight of each tick; None weighs all alike.
        rate: ā₀, the rate that thin data are drawn to.
    """
    cells = list(cells)
    whole, whose = population(tallies, cells, config, decay)
    exposures = float(whole.n.sum())
    if whose == "control":
        cells = [cell for cell in cells if cell.control]
    held = [tallies.binned(decay, [c for c in cells if c.fold == f]) for f in range(FOLDS)]
    rest = [tallies.binned(decay, [c for c in cells if c.fold != f]) for f in range(FOLDS)]
    judged: dict[Kind, list[NDArray[np.float64]]] = {}
    for kind in KINDS:
        fits = [fit_aligner(kind, part, rate=rate, shrink=config.shrink) for part in rest]
        pairs = [(fit, part) for fit, part in zip(fits, held, strict=True) if len(part.n)]
        if pairs and all(fit is not None for fit, _ in pairs):
            judged[kind] = [fit.transform(part.x) for fit, part in pairs if fit is not None]
    parts = [part for part in held if len(part.n)]
    losses: dict[Kind, float] = {}
    for kind, values in judged.items():
        total = sum(
            float((p.a * (1 - y) ** 2 + (p.n - p.a) * y**2).sum()) for p, y in zip(parts, values, strict=True)
        )
        losses[kind] = total / exposures
    mean = fit_aligner("mean", whole, rate=rate, shrink=0.0)
    deciles = tenths(whole, mean) if mean is not None else []
    if not losses:
        return Diagnosis(deciles, None, {}, {}, "mean", exposures)
    best = min(losses, key=lambda kind: losses[kind])
    errors: dict[Kind, float] = {}
    for kind in losses:
        square = 0.0
        for p, y, z in zip(parts, judged[kind], judged[best], strict=True):
            one, none = (1 - y) ** 2 - (1 - z) ** 2, y**2 - z**2
            square += float((p.a * one**2 + (p.n - p.a) * none**2).sum())
        gap = losses[kind] - losses[best]
        errors[kind] = math.sqrt(max(0.0, square / exposures - gap**2) / exposures)
    advice = next(kind for kind in losses if losses[kind] - losses[best] <= errors[kind])
    return Diagnosis(deciles, _p_value(deciles), losses, errors, advice, exposures)


def tenths(data: Bins, aligner: Aligner) -> list[Decile]:
    """Outcomes against expected ones under an aligner, by tenths of the exposures from the lowest score up."""
    from noria.core.statistics.intervals import proportion_interval

    place = np.minimum(((np.cumsum(data.n) - data.n / 2) / data.n.sum() * DECILES).astype(int), DECILES - 1)
    y = aligner.transform(data.x)
    result = []
    for number in np.unique(place):
        chosen = place == number
        n, a = float(data.n[chosen].sum()), float(data.a[chosen].sum())
        trials = max(1, round(n))
        interval = proportion_interval(min(max(0, round(a)), trials), trials)
        result.append(
            Decile(
                n,
                float((data.n * data.x)[chosen].sum() / n),
                a / n,
                float((data.n * y)[chosen].sum() / n),
                interval.low,
                interval.high,
            )
        )
    return result


def _p_value(deciles: list[Decile]) -> float | None:
    """P value of Σ (O − E)² / Var over deciles, against χ² with one degree less: the mean is matched."""
    from scipy.special import chdtrc

    parts = [d for d in deciles if d.value > 0]
    if len(parts) < 2:
        return None
    total = 0.0
    for d in parts:
        p = min(d.value, 1.0)
        # Where a value is 1 or more the model leaves no variance: use that of the outcomes themselves.
        variance = d.exposures * max(p * (1 - p), d.rate * (1 - d.rate), 1e-12)
        total += (d.exposures * (d.rate - d.value)) ** 2 / variance
    return float(chdtrc(len(parts) - 1, total))
