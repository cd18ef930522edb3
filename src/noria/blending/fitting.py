"""From tallies to aligners: shrinkage, decay, the control population, what to fall back on, and which kind fits.

Shrinkage is the same for every kind. A key's mean scale is α = (S_a + κ ā₀) / (S_x + κ x̄), with ā₀ the rate of its
scene; the other kinds see, beside the outcomes, κ pseudo-exposures spread like the scores and with outcomes α x.
Which window, population and grain the authors of Uniboost use is not known; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from noria.blending.aligners import KINDS, Affine, Aligner, Beta, Isotonic, Kind, Mean, Platt, Sir, kind_of
from noria.blending.alignment import ANY, Alignment, Entry, Origin
from noria.blending.tallies import FOLDS, Binned, Cell, Key, Tallies
from noria.core.config import Config
from noria.core.errors import DataError

__all__ = [
    "Decile",
    "Diagnosis",
    "FitConfig",
    "FitNote",
    "diagnose",
    "fit_aligner",
    "fit_alignment",
    "tenths",
]

SIR_BINS = 100
TILT = 1e-6
"""Height of an isotonic aligner's tilt, in units of the key's rate."""
DECILES = 10


Choice = Literal["auto", Kind]


class FitConfig(Config):
    """How tallies become an alignment.

    Attributes:
        aligner: of every source, or `auto`: the simplest kind that the outcomes do not speak against.
        by_source: other kinds for some sources.
        tick: seconds of the clock that exposures are filed by.
        half_life: hours after which an exposure counts half; it spans a day's cycle by default.
        shrink: κ, pseudo-exposures.
        population: `control` aligns on requests that nobody was boosted in, where there are enough of them. On all
            exposures a boost would move the scale that it is priced in.
        least_control: exposures of the control bucket that are enough for a key.
        maturity: seconds an exposure has to be old, so that its outcome is in.
    """

    aligner: Choice = "mean"
    by_source: dict[str, Choice] = Field(default_factory=dict)
    tick: float = Field(900.0, gt=0)
    half_life: float | None = Field(24.0, gt=0)
    shrink: float = Field(200.0, ge=0)
    population: Literal["control", "all"] = "control"
    least_control: float = Field(1000.0, ge=0)
    maturity: float = Field(1800.0, ge=0)

    def kind(self, source: str) -> Choice:
        """Of a source."""
        return self.by_source.get(source, self.aligner)


@dataclass(frozen=True)
class FitNote:
    """What happened to one key.

    Attributes:
        key: scene, source and version; "*" for all.
        kind: of its aligner.
        origin: where that is from.
        population: whose outcomes it was fitted on.
        exposures: their decayed number.
        rate: their effective completions an exposure; None without exposures.
        above_one: share of exposures whose value is above 1; None without exposures.
        why: why it is not its own aligner of the kind that was asked for; empty if it is.
    """

    key: Key
    kind: Kind
    origin: Origin
    population: Literal["control", "all"]
    exposures: float
    rate: float | None
    above_one: float | None
    why: str = ""

    @property
    def error(self) -> float | None:
        """Standard error of the key's rate, relative to it: how exactly its unit is known. None without completions.

        √((1 − rate) / (rate · exposures)): a control bucket of a hundredth part as many exposures is ten times as far
        off.
        """
        if not self.rate or self.exposures <= 0:
            return None
        return math.sqrt(max(0.0, 1 - self.rate) / (self.rate * self.exposures))


def fit_alignment(
    tallies: Tallies,
    config: FitConfig,
    *,
    now: float,
    previous: Alignment | None = None,
    jump: float = math.inf,
) -> tuple[Alignment, list[FitNote]]:
    """Aligners of all keys.

    A key without usable outcomes takes its parent's aligner, else that of the previous alignment. An aligner whose mean
    value on the current scores differs from the previous one's by more than a factor e^jump is held back.

    Args:
        tallies: outcomes.
        config: how.
        now: seconds since 1970 UTC.
        previous: the last good alignment.
        jump: most that the logarithm of a key's mean value may move.

    Returns:
        The alignment, and a note on every key.

    Raises:
        DataError: there is no usable outcome at all, and no previous alignment.
    """
    decay = _decay(tallies.cells, config, now)
    groups: dict[Key, list[Cell]] = {}
    for cell in tallies.cells:
        for key in {cell.key, Key(cell.scene, cell.source, ANY), Key(ANY, cell.source, ANY)}:
            groups.setdefault(key, []).append(cell)
    scenes: dict[str, list[Cell]] = {ANY: list(tallies.cells)}
    for cell in tallies.cells:
        scenes.setdefault(cell.scene, []).append(cell)
    rates = {scene: _rate(_population(tallies, cells, config, decay)[0]) for scene, cells in scenes.items()}

    entries: dict[Key, Entry] = {}
    notes: list[FitNote] = []
    for key in sorted(groups, key=lambda key: (key.scene != ANY, key.version != ANY, key)):  # parents first
        seen, population = _population(tallies, groups[key], config, decay)
        scene_rate = rates[key.scene]
        rate = scene_rate if scene_rate is not None else rates[ANY]
        aligner, why = _fit(tallies, groups[key], seen, config, decay, rate)
        origin: Origin = "own"
        exposures = float(seen.n.sum())
        if aligner is None:
            aligner, origin = _stand_in(key, entries, previous)
            if aligner is None:
                continue
        elif previous is not None and key in previous.entries and jump < math.inf:
            before, after = (_mean_value(one, seen) for one in (previous.entries[key].aligner, aligner))
            if not (before > 0 and abs(math.log(after / before)) <= jump):
                why = f"its mean value would have jumped from {before:.3g} to {after:.3g}"
                aligner, origin = previous.entries[key].aligner, "held"
        entries[key] = Entry(aligner, origin, exposures)
        above = float(seen.n[aligner.transform(seen.x) > 1].sum()) / exposures if exposures else None
        notes.append(FitNote(key, kind_of(aligner), origin, population, exposures, _rate(seen), above, why))
    for key, entry in (previous.entries if previous is not None else {}).items():
        entries.setdefault(key, Entry(entry.aligner, "last", entry.exposures))
    mean = rates[ANY]
    if mean is None or mean <= 0:
        if previous is None:
            raise DataError(
                "no effective completion among the outcomes", mend="fit on a longer window of exposures"
            )
        mean = previous.mean_value
    return Alignment(entries, mean, now), notes


def fit_aligner(
    kind: Kind, data: Binned, *, rate: float | None = None, shrink: float = 0.0
) -> Aligner | None:
    """One aligner.

    Args:
        kind: of aligner.
        data: exposures by bin.
        rate: ā₀, towards which it is shrunk; the data's own by default.
        shrink: κ.

    Returns:
        None where the data have none of that kind that rises with the score.
    """
    n = float(data.n.sum())
    if n <= 0:
        return None
    own = float(data.a.sum()) / n
    prior = own if rate is None else rate
    middle = float((data.x * data.n).sum()) / n
    # Scores around zero, such as logits, have no scale.
    scale = (own * n + shrink * prior) / (middle * (n + shrink)) if middle > 0 else math.nan
    if kind == "mean":
        return Mean(scale) if scale > 0 and math.isfinite(scale) else None
    if shrink:
        expected = np.clip(scale * data.x, 0.0, 1.0) if scale > 0 else np.full(len(data.x), prior)
        data = Binned(data.x, data.n * (1 + shrink / n), data.a + data.n * (shrink / n) * expected)
    return _FITS[kind](data)


# -- kinds ------------------------------------------------------------------------------------------------------------


def _affine(data: Binned) -> Affine | None:
    n = data.n.sum()
    x, a = (data.x * data.n).sum() / n, data.a.sum() / n
    spread = (data.n * (data.x - x) ** 2).sum()
    if spread <= 0:
        return None
    slope = ((data.x - x) * (data.a - a * data.n)).sum() / spread
    return Affine(float(slope), float(a - slope * x)) if slope > 0 else None


def _platt(data: Binned) -> Platt | None:
    centre, spread = _centre(data)
    u = (data.x - centre) / spread
    found = _logistic(u[:, None], data)
    if found is None or found[1] <= 0:
        return None
    slope = float(found[1]) / spread
    return Platt(slope, float(found[0]) - slope * centre)


def _beta(data: Binned) -> Beta | None:
    if data.x[0] < 0 or data.x[-1] > 1:
        return None
    inner = np.clip(data.x, 1e-12, 1 - 1e-12)
    features = [np.log(inner), -np.log1p(-inner)]
    for used in ((0, 1), (0,), (1,)):  # a negative coefficient is left out, as the authors do
        found = _logistic(np.stack([features[number] for number in used], axis=1), data)
        if found is not None and (found[1:] >= 0).all() and found[1:].sum() > 0:
            slopes = dict(zip(used, found[1:].tolist(), strict=True))
            return Beta(slopes.get(0, 0.0), slopes.get(1, 0.0), float(found[0]))
    return None


def _isotonic(data: Binned) -> Isotonic | None:
    rates = _pava(data)
    if rates[0] == rates[-1]:
        return None
    # Of a flat stretch only the ends are knots.
    inner = np.zeros(len(rates), np.bool_)
    inner[1:-1] = (rates[1:-1] == rates[:-2]) & (rates[1:-1] == rates[2:])
    centre, spread = _centre(data)
    tilt = TILT * float(data.a.sum() / data.n.sum())
    return Isotonic(tuple(data.x[~inner].tolist()), tuple(rates[~inner].tolist()), tilt, centre, spread)


def _sir(data: Binned) -> Sir | None:
    before = np.cumsum(data.n) - data.n / 2
    quantile = np.minimum((before / data.n.sum() * SIR_BINS).astype(int), SIR_BINS - 1)
    _, place = np.unique(quantile, return_inverse=True)
    sums = (np.bincount(place, weights=one) for one in (data.n, data.a, data.n * data.x))
    n, a, x = (one.astype(np.float64) for one in sums)
    coarse = Binned(x / n, n, a)
    rates = _pava(coarse)
    if rates[0] == rates[-1]:
        return None
    centre, spread = _centre(data)
    return Sir(
        tuple(coarse.x.tolist()), tuple(rates.tolist()), TILT * float(a.sum() / n.sum()), centre, spread
    )


_FITS = {"affine": _affine, "platt": _platt, "beta": _beta, "isotonic": _isotonic, "sir": _sir}


def _pava(data: Binned) -> NDArray[np.float64]:
    from scipy.optimize import isotonic_regression

    found: NDArray[np.float64] = isotonic_regression(data.a / data.n, weights=data.n).x
    return found


def _centre(data: Binned) -> tuple[float, float]:
    """The median score and a spread that is not zero."""
    order = np.cumsum(data.n) / data.n.sum()
    low, middle, high = (float(data.x[np.searchsorted(order, q)]) for q in (0.25, 0.5, 0.75))
    return middle, (high - low) or abs(middle) or 1.0


def _logistic(features: NDArray[np.float64], data: Binned) -> NDArray[np.float64] | None:
    """Coefficients (the intercept first) that make the outcomes likeliest, by Newton's method.

    None where there is no maximum, as when one class is missing or the score parts them.
    """
    success, failure = data.a, data.n - data.a
    if (success < 0).any() or (failure < -1e-9 * data.n).any() or success.sum() <= 0 or failure.sum() <= 0:
        return None
    design = np.column_stack([np.ones(len(features)), features])
    theta = np.zeros(design.shape[1])
    theta[0] = math.log(success.sum() / failure.sum())

    def loss(theta: NDArray[np.float64]) -> float:
        z = design @ theta
        return float((np.logaddexp(0, -z) * success + np.logaddexp(0, z) * failure).sum())

    now = loss(theta)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -500, 500)))
        gradient = design.T @ (success - data.n * p)
        curvature = (design * (data.n * p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        size = 1.0
        while (after := loss(theta + size * step)) > now and size > 1e-8:
            size /= 2
        theta = theta + size * step
        if np.abs(theta).max() > 1e6 or not np.isfinite(theta).all():
            return None
        if now - after <= 1e-13 * abs(now):
            return theta
        now = after
    return None


# -- keys -------------------------------------------------------------------------------------------------------------


def _decay(cells: Iterable[Cell], config: FitConfig, now: float) -> dict[int, float] | None:
    if config.half_life is None:
        return None
    ticks = {cell.tick for cell in cells}
    life = config.half_life * 3600 / config.tick
    return {tick: 0.5 ** (max(0.0, now / config.tick - (tick + 1)) / life) for tick in ticks}


def _population(
    tallies: Tallies, cells: list[Cell], config: FitConfig, decay: Mapping[int, float] | None
) -> tuple[Binned, Literal["control", "all"]]:
    """Exposures of some cells: of the control bucket if it is asked for and large enough, else all."""
    if config.population == "control":
        data = tallies.binned(decay, [cell for cell in cells if cell.control])
        if len(data.n) and data.n.sum() >= config.least_control:
            return data, "control"
    return tallies.binned(decay, cells), "all"


def _rate(data: Binned) -> float | None:
    n = float(data.n.sum())
    return float(data.a.sum()) / n if n > 0 else None


def _mean_value(aligner: Aligner, data: Binned) -> float:
    return float((data.n * aligner.transform(data.x)).sum() / data.n.sum())


def _fit(
    tallies: Tallies,
    cells: list[Cell],
    data: Binned,
    config: FitConfig,
    decay: Mapping[int, float] | None,
    rate: float | None,
) -> tuple[Aligner | None, str]:
    """An aligner of the kind that the configuration asks for, else of the mean, else None; and why."""
    if not len(data.n) or data.n.sum() <= 0:
        return None, "no exposures"
    kind = config.kind(cells[0].source)
    if kind == "auto":
        kind = diagnose(tallies, cells, config, decay=decay, rate=rate).advice
    found = fit_aligner(kind, data, rate=rate, shrink=config.shrink)
    if found is not None:
        return found, ""
    if kind != "mean":
        fallback = fit_aligner("mean", data, rate=rate, shrink=config.shrink)
        if fallback is not None:
            return fallback, f"no rising {kind} aligner fits"
    return None, "its scores or its outcomes are not above zero in the mean"


def _stand_in(
    key: Key, entries: Mapping[Key, Entry], previous: Alignment | None
) -> tuple[Aligner | None, Origin]:
    for parent in (Key(key.scene, key.source, ANY), Key(ANY, key.source, ANY)):
        if parent != key and parent in entries and entries[parent].origin in ("own", "held"):
            return entries[parent].aligner, "parent"
    if previous is not None and key in previous.entries:
        return previous.entries[key].aligner, "last"
    return None, "last"


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
        deciles: under mean scaling; `low` and `high` bound the rate (Wilson, 95 %).
        p_value: of the deciles' departures under mean scaling (χ²); small speaks against it.
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
        tallies: outcomes.
        cells: of one key.
        config: population and shrinkage.
        decay: by tick; None weighs all ticks alike.
        rate: ā₀.
    """
    cells = list(cells)
    whole, population = _population(tallies, cells, config, decay)
    exposures = float(whole.n.sum())
    if population == "control":
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


def tenths(data: Binned, aligner: Aligner) -> list[Decile]:
    """Outcomes against expected ones under an aligner, by tenths of the exposures from the lowest score up."""
    from noria.core.statistics.intervals import proportion_interval

    place = np.minimum(((np.cumsum(data.n) - data.n / 2) / data.n.sum() * DECILES).astype(int), DECILES - 1)
    y = aligner.transform(data.x)
    found = []
    for number in np.unique(place):
        chosen = place == number
        n, a = float(data.n[chosen].sum()), float(data.a[chosen].sum())
        trials = max(1, round(n))
        interval = proportion_interval(min(max(0, round(a)), trials), trials)
        found.append(
            Decile(
                n,
                float((data.n * data.x)[chosen].sum() / n),
                a / n,
                float((data.n * y)[chosen].sum() / n),
                interval.low,
                interval.high,
            )
        )
    return found


def _p_value(deciles: list[Decile]) -> float | None:
    """Of Σ (O − E)² / Var over deciles, against χ² with one degree less: the mean is matched."""
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
