"""What an open experiment shows so far, and the step that it calls for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from noria.core.experiments.figures import SharedFigures, difference, mean_of, moments
from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    ExperimentConfig,
    Reading,
    Stage,
    Step,
    next_step,
)
from noria.core.statistics.intervals import Interval
from noria.core.traces.index.figures import shadow_figures, unit_figures
from noria.core.traces.index.index import TraceIndex


def read_experiment(
    index: TraceIndex,
    config: ExperimentConfig,
    stage: Stage,
    since: int,
    *,
    shared: SharedFigures | None = None,
    callers: Mapping[str, float] | None = None,
    most_unnamed: float = math.inf,
) -> Reading:
    """Read the state of an experiment.

    Args:
        index: index of the traces.
        config: settings of the experiment.
        stage: where it stands.
        since: nanoseconds since 1970 at which the stage began; users are read from there on.
        shared: figures of all gateways, to which those of this index are published; this one's alone by default.
        callers: share of the units of a caller whose word counts; 1 by default.
        most_unnamed: people as many as whom those whom a caller does not name count together in an arm at most.
    """
    measures = list(dict.fromkeys([config.primary, *(one.name for one in config.guardrails), *config.agrees]))
    if stage == "shadow":
        figures = shadow_figures(index, config.name, since)
    else:
        figures = unit_figures(index, config.name, since, measures, callers=callers)
    if shared is None:
        by_arm = moments(figures, most_unnamed=most_unnamed)
    else:
        shared.publish(config.name, since, figures)
        by_arm = shared.moments(config.name, since, most_unnamed=most_unnamed)

    def count(arm: str, name: str) -> int:
        return by_arm[arm, name].number if (arm, name) in by_arm else 0

    if stage == "shadow":  # nobody rates what nobody sees: a rating is not known here
        pairs = count("shadow", "success")
        return Reading(
            {CONTROL: pairs, TREATMENT: pairs},
            {},
            guardrails={one.name: mean_of(by_arm, one.name, "shadow") for one in config.guardrails},
            shadowed=pairs,
        )
    arms = (CONTROL, TREATMENT)
    return Reading(
        {arm: count(arm, config.primary) for arm in arms},
        {arm: number for arm in arms if (number := count(arm, "success"))},
        difference(by_arm, config.primary, CONTROL, TREATMENT),
        {one.name: difference(by_arm, one.name, CONTROL, TREATMENT) for one in config.guardrails},
        agrees={name: difference(by_arm, name, CONTROL, TREATMENT) for name in config.agrees},
    )


def decide(
    index: TraceIndex,
    config: ExperimentConfig,
    stage: Stage,
    since: int,
    *,
    shared: SharedFigures | None = None,
    callers: Mapping[str, float] | None = None,
    most_unnamed: float = math.inf,
) -> tuple[Reading, Step]:
    """The reading of an experiment, and the step that it calls for; arguments as of :func:`read_experiment`."""
    reading = read_experiment(
        index, config, stage, since, shared=shared, callers=callers, most_unnamed=most_unnamed
    )
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
    said = {
        "interval": _ends(step.interval),
        "guarded": {name: _ends(one) for name, one in step.guarded.items()},
        "split": step.split,
        "reason": step.reason,
        "comparable": step.comparable,
    }
    return clean(values | said)  # type: ignore[no-any-return]


def _ends(interval: Interval) -> dict[str, float]:
    return {"effect": interval.effect, "low": interval.low, "high": interval.high}
