"""What was spent today, from an index: by a caller, and by the judges."""

from __future__ import annotations

import time

from noria.core.traces.ids import id_at
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.records import GROUNDING


def spent_today(index: TraceIndex, caller: str, *, shadow: bool = False) -> float:
    """Cost of a caller's traces of this day (UTC), where it is known: those of the shadow, or all others."""
    midnight = id_at(_midnight())  # ids sort by time: the key finds where to begin
    query = (
        "SELECT coalesce(sum(cost), 0) FROM traces WHERE id >= ? AND caller = ?"
        " AND (json_extract(labels, '$.shadow') IS NOT NULL) = ?"
    )
    return float(index.rows(query, (midnight, caller, shadow))[0][0])


def judged_today(index: TraceIndex, *, grounding: bool = False) -> float:
    """Cost of the judgements of this day (UTC), where it is known: those of the grounding, or all others."""
    query = "SELECT coalesce(sum(cost), 0) FROM judgements WHERE at >= ? AND (path = ?) = ?"
    return float(index.rows(query, (_midnight(), GROUNDING, grounding))[0][0])


def _midnight() -> int:
    """Nanoseconds since 1970 at which this day (UTC) began."""
    return int(time.time() // 86400 * 86400 * 1e9)
