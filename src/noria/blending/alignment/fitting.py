"""From tallies to aligners: shrinkage, decay, the control population, what to fall back on, and which kind fits.

Shrinkage is the same for every kind. A key's mean scale is α = (S_a + κ ā₀) / (S_x + κ x̄), with ā₀ the rate of its
scene; the other kinds see, beside the outcomes, κ pseudo-exposures spread like the scores and with outcomes α x.
Which window, population and grain the authors of Uniboost use is not known; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from noria.blending.alignment.aligners import Aligner, Kind, kind_of
from noria.blending.alignment.alignment import ANY, Alignment, Entry, Origin
from noria.blending.alignment.config import CheckedFit, FitConfig, population
from noria.blending.alignment.curves import fit_aligner
from noria.blending.alignment.diagnosis import diagnose
from noria.blending.alignment.tallies import Bins, Cell, Key, Tallies
from noria.core.errors import ConfigError, DataError

_OLD = 3.0  # half-lives after which outcomes no longer say what a score is worth now
_ENOUGH = 200.0  # exposures from which a rate near 1 is no luck


@dataclass(frozen=True)
class FitNote:
    """A note on the fit of one key.

    Attributes:
        key: scene, source and version; "*" for all.
        kind: kind of its aligner; None if it has none.
        origin: origin of its aligner; None if it has none.
        population: population whose outcomes it was fitted on.
        exposures: decayed number of its exposures.
        rate: effective completions an exposure; None without exposures.
        above_one: share of its exposures whose value is above 1; None without exposures.
        why: reason why it has no aligner of its own of the configured kind; empty if it has.
    """

    key: Key
    kind: Kind | None
    origin: Origin | None
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
        tallies: outcomes against scores.
        config: settings of the fit.
        now: seconds since 1970 UTC.
        previous: the last good alignment.
        jump: most that the logarithm of a key's mean value may move.

    Returns:
        The alignment, and a note on every key.

    Raises:
        DataError: there is no usable outcome at all, and no previous alignment; or all of them have decayed.
    """
    _check_age(tallies, config, now)
    decay = _decay(tallies.cells, config, now)
    groups: dict[Key, list[Cell]] = {}
    for cell in tallies.cells:
        for key in {cell.key, Key(cell.scene, cell.source, ANY), Key(ANY, cell.source, ANY)}:
            groups.setdefault(key, []).append(cell)
    scenes: dict[str, list[Cell]] = {ANY: list(tallies.cells)}
    for cell in tallies.cells:
        scenes.setdefault(cell.scene, []).append(cell)
    rates = {scene: _rate(population(tallies, cells, config, decay)[0]) for scene, cells in scenes.items()}

    entries: dict[Key, Entry] = {}
    notes: list[FitNote] = []
    for key in sorted(groups, key=lambda key: (key.scene != ANY, key.version != ANY, key)):  # parents first
        seen, whose = population(tallies, groups[key], config, decay)
        scene_rate = rates[key.scene]
        rate = scene_rate if scene_rate is not None else rates[ANY]
        aligner, why = _fit(tallies, groups[key], seen, config, decay, rate)
        origin: Origin = "own"
        exposures = float(seen.n.sum())
        if aligner is None:
            aligner, origin = _stand_in(key, entries, previous)
            if aligner is None:
                notes.append(FitNote(key, None, None, whose, exposures, _rate(seen), None, why))
                continue
        elif previous is not None and key in previous.entries and jump < math.inf:
            before, after = (_mean_value(one, seen) for one in (previous.entries[key].aligner, aligner))
            if not (before > 0 and abs(math.log(after / before)) <= jump):
                why = f"its mean value would have jumped from {before:.3g} to {after:.3g}"
                aligner, origin = previous.entries[key].aligner, "held"
        entries[key] = Entry(aligner, origin, exposures)
        above = float(seen.n[aligner.transform(seen.x) > 1].sum()) / exposures if exposures else None
        notes.append(FitNote(key, kind_of(aligner), origin, whose, exposures, _rate(seen), above, why))
    for key, entry in (previous.entries if previous is not None else {}).items():
        entries.setdefault(key, Entry(entry.aligner, "last", entry.exposures))
    mean = rates[ANY]
    if mean is None or mean <= 0:
        if previous is None:
            raise DataError(
                "no effective completion among the outcomes", mend="fit on a longer window of exposures"
            )
        mean = previous.mean_value
    if not entries:
        raise DataError(
            f"no source has an aligner ({_reasons(notes)})",
            mend="choose another kind, such as fit.aligner=auto",
        )
    return Alignment(entries, mean, now), notes


def check_fit(
    notes: Sequence[FitNote], alignment: Alignment, sources: Iterable[str], config: CheckedFit
) -> None:
    """Refuse a fit that would serve wrong values, or leave candidates out, without a word.

    Args:
        notes: notes on every key.
        alignment: the fitted alignment.
        sources: sources of the exposures.
        config: settings of the fit.

    Raises:
        ConfigError: a kind of aligner for a source that is not there.
        DataError: a rate so near to 0 or 1 that it tells nothing, or a source without an aligner.
    """
    sources = set(sources)
    strange = sorted(set(config.by_source) - sources)
    if strange:
        raise ConfigError("no exposure is of this source", where=f"fit.by_source.{strange[0]}")
    least, greatest = config.rates
    mend = "correct the unit of watch and duration or gather.anchor, or widen fit.rates"
    if alignment.mean_value < least:
        raise DataError(
            f"{alignment.mean_value:.2g} effective completions an exposure are too near to none", mend=mend
        )
    for note in notes:
        rate = note.rate or 0.0
        if rate > greatest and note.exposures >= _ENOUGH:
            raise DataError(
                f"{100 * rate:.4g} % of its exposures are effective completions, which tells nothing",
                where=f"source {note.key.source!r}",
                mend=mend,
            )
    aligned = {key.source for key in alignment.entries} | set(config.without)
    for source in sorted(sources - aligned):
        reasons = _reasons([note for note in notes if note.key.source == source])
        raise DataError(
            f"it gets no aligner ({reasons or 'none of its exposures has an outcome that counts'}), so that its "
            "candidates would be left out",
            where=f"source {source!r}",
            mend="choose another kind, such as fit.aligner=auto, or let it be with fit.without=[NAME]",
        )


def _reasons(notes: Iterable[FitNote]) -> str:
    return "; ".join(dict.fromkeys(f"{note.key.source}: {note.why}" for note in notes if note.why))


# -- keys -------------------------------------------------------------------------------------------------------------


def _check_age(tallies: Tallies, config: FitConfig, now: float) -> None:
    """Refuse outcomes of which decay has left too little to speak of.

    Raises:
        DataError: the newest is more than `_OLD` half-lives old.
    """
    newest = max((cell.tick for cell in tallies.cells), default=None)
    if config.half_life is None or newest is None:
        return
    age = (now - (newest + 1) * config.tick) / 3600
    if age > _OLD * config.half_life:
        raise DataError(
            f"the newest outcome that counts is {age:,.0f} hours older than now, {age / config.half_life:,.0f} "
            "half-lives, and decay has left nothing of the others either",
            mend="correct the time of the last exposures or --now, or set fit.half_life=null",
        )


def _decay(cells: Iterable[Cell], config: FitConfig, now: float) -> dict[int, float] | None:
    if config.half_life is None:
        return None
    ticks = {cell.tick for cell in cells}
    life = config.half_life * 3600 / config.tick
    return {tick: 0.5 ** (max(0.0, now / config.tick - (tick + 1)) / life) for tick in ticks}


def _rate(data: Bins) -> float | None:
    n = float(data.n.sum())
    return float(data.a.sum()) / n if n > 0 else None


def _mean_value(aligner: Aligner, data: Bins) -> float:
    return float((data.n * aligner.transform(data.x)).sum() / data.n.sum())


def _fit(
    tallies: Tallies,
    cells: list[Cell],
    data: Bins,
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
    result = fit_aligner(kind, data, rate=rate, shrink=config.shrink)
    if result is not None:
        return result, ""
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
