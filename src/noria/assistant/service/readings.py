"""What an open experiment shows so far, from the index of traces, and the step that it calls for."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    Estimate,
    ExperimentConfig,
    Reading,
    Stage,
    Step,
    next_step,
)
from noria.core.traces.index import ShadowPair, TraceIndex, UnitFigures

FIGURES: Mapping[str, Callable[[UnitFigures], float | None]] = {
    "success": lambda one: one.success,
    "speed": lambda one: -one.seconds,
    "thrift": lambda one: None if one.cost is None else -one.cost,
    "score": lambda one: one.score,
}
"""Figures of a unit, each higher where better; any other name is that of a feedback."""


def read_experiment(index: TraceIndex, config: ExperimentConfig, stage: Stage, since: int) -> Reading:
    """What is known of an experiment.

    Args:
        index: index of the traces.
        config: settings of the experiment.
        stage: where it stands.
        since: nanoseconds since 1970 at which the stage began; users are read from there on.
    """
    if stage == "shadow":
        return _shadow(index.shadow_pairs(config.name, since), config)
    measures = [config.primary, *(one.name for one in config.guardrails)]
    units = index.unit_figures(config.name, since, measures)
    values = {name: _by_arm(units, name) for name in measures}
    return Reading(
        {arm: len(values[config.primary][arm]) for arm in (CONTROL, TREATMENT)},
        dict(Counter(one.arm for one in units)),
        _difference(values[config.primary]),
        {one.name: _difference(values[one.name]) for one in config.guardrails},
    )


def decide(index: TraceIndex, config: ExperimentConfig, stage: Stage, since: int) -> tuple[Reading, Step]:
    """The reading of an experiment, and the step that it calls for."""
    reading = read_experiment(index, config, stage, since)
    return reading, next_step(config, stage, reading)


def reading_record(reading: Reading, step: Step) -> dict[str, Any]:
    """A reading and its step as JSON values; what is not known is null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, Mapping):
            return {name: clean(one) for name, one in value.items()}
        return value

    values = dataclasses.asdict(reading)
    interval = {"effect": step.interval.effect, "low": step.interval.low, "high": step.interval.high}
    return clean(values | {"interval": interval, "reason": step.reason, "comparable": step.comparable})  # type: ignore[no-any-return]


def _by_arm(units: Sequence[UnitFigures], name: str) -> dict[str, list[float]]:
    def rating(one: UnitFigures) -> float | None:
        return one.ratings.get(name)

    read = FIGURES.get(name, rating)
    values: dict[str, list[float]] = {CONTROL: [], TREATMENT: []}
    for one in units:
        value = read(one)
        if value is not None and one.arm in values:
            values[one.arm].append(value)
    return values


def _difference(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Difference of the means with Welch's standard error; not known below two units an arm."""
    control, treatment = (np.asarray(values[arm], dtype=float) for arm in (CONTROL, TREATMENT))
    if min(len(control), len(treatment)) < 2:
        return Estimate(math.nan, math.nan)
    error = math.sqrt(control.var(ddof=1) / len(control) + treatment.var(ddof=1) / len(treatment))
    return Estimate(float(treatment.mean() - control.mean()), error)


def _shadow(pairs: Sequence[ShadowPair], config: ExperimentConfig) -> Reading:
    """Paired differences between answers in the shadow and those given."""

    def paired(name: str) -> Estimate:
        columns: dict[str, Callable[[ShadowPair], tuple[float | None, float | None]]] = {
            "success": lambda one: (one.shadow_success, one.success),
            "speed": lambda one: (-one.shadow_seconds, -one.seconds),
            "thrift": lambda one: (_negative(one.shadow_cost), _negative(one.cost)),
            "score": lambda one: (one.shadow_score, one.score),
        }
        if name not in columns:
            return Estimate(math.nan, math.nan)  # nobody rates what nobody sees
        both = [columns[name](pair) for pair in pairs]
        gains = np.asarray([new - old for new, old in both if new is not None and old is not None])
        if len(gains) < 2:
            return Estimate(math.nan, math.nan)
        return Estimate(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))))

    return Reading(
        {CONTROL: len(pairs), TREATMENT: len(pairs)},
        {},
        guardrails={one.name: paired(one.name) for one in config.guardrails},
        shadowed=len(pairs),
    )


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
