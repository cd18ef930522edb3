"""What the index of traces says to the schedule of turns: volume, drift of the labels, fall of the score."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from noria.core.learning.plan import TURN, open_turn
from noria.core.learning.scheduling.drift import Stability, cusum, share_stability
from noria.core.learning.scheduling.schedule import Signals, switched_on
from noria.core.storage.control import Control
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.scores import label_counts, trace_scores

REFERENCE = 5000
"""Newest judged traces before the last turn that the present is compared with."""
LEAST_REFERENCE = 50
"""Judged traces below which a reference says nothing of a fall."""
MOST_VALUES = 100
"""Most values of a label that is compared; one of more values, such as an id, has no distribution to drift."""


def read_signals(index: TraceIndex, control: Control, now: float, *, asked: str = "") -> Signals:
    """The signals of a moment, from the index and the control documents.

    Everything is counted since the last turn was planned: what it froze is what the next one has seen.

    Args:
        index: index of the traces.
        control: turns and switches.
        now: second since 1970.
        asked: why a person asks for a turn; empty where nobody does.
    """
    turns = control.read_all(TURN)
    ended = max((one.at for one in turns), default=None)
    planned = max((float(one.value["plan"]["at"]) for one in turns if one.value), default=0.0)
    present = open_turn(control)
    since = int(planned * 1e9)
    scores = trace_scores(index, since, most=100_000)
    return Signals(
        now=now,
        ended=ended,
        judged=len(scores),
        stability=_label_drift(index, since) if planned else {},
        fall=_fall(trace_scores(index, 0, before=since, most=REFERENCE), scores) if planned else math.nan,
        asked=asked,
        open=None if present is None else present.number,
        learning=switched_on(control, "learning"),
    )


def _label_drift(index: TraceIndex, since: int) -> dict[str, Stability]:
    """Stability of each label, such as the skill, against the traces before the last turn."""
    before = label_counts(index, 0, before=since, most=REFERENCE)
    after = label_counts(index, since, most=REFERENCE)
    drift: dict[str, Stability] = {}
    for name in before.keys() & after.keys():
        if len(_values(before, after, name)) <= MOST_VALUES:
            drift[name] = share_stability(before[name], after[name])
    return drift


def _values(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]], name: str
) -> set[str]:
    return before[name].keys() | after[name].keys()


def _fall(reference: list[float], present: list[float]) -> float:
    """Largest cumulative sum of the score's fall; NaN where the reference is too small or never varies."""
    if len(reference) < LEAST_REFERENCE or not present:
        return math.nan
    mean, deviation = float(np.mean(reference)), float(np.std(reference, ddof=1))
    return float(cusum(present, mean, deviation).max()) if deviation > 0 else math.nan
