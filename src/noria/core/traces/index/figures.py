"""Figures of experiments from an index: what each unit saw, and what the shadow would have changed.

What people say moves a figure within bounds only: a rating counts as one from 0 to 1, who says far more than the others
says nothing, and of a caller's users as large a share is heard as its weight.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from noria.core.experiments.assignment import position
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.raters import MOST_DEVIATIONS, RATER, frequent_raters
from noria.core.traces.index.scores import GROUNDED, SCORE

# Whom experiments deal: a user, else a conversation, else each request by itself.
_UNIT = "coalesce(t.user, t.conversation, t.id)"
# A correction that names what was served, such as the skill, is none.
_UNCORRECTED = f"""NOT EXISTS (SELECT 1 FROM feedback AS c WHERE c.trace = t.id AND c.kind = 'correction'
    AND c.source = 'user' AND NOT c.withdrawn AND {RATER.format("c")} NOT IN (SELECT value FROM json_each(?3))
    AND c.said IS NOT (SELECT value FROM json_each(t.labels) WHERE key = c.name))"""
_UNITS = f"""
SELECT unit, arm, caller, unnamed, count(*), sum(success), -sum(seconds), -sum(cost), count(cost), sum(score),
    count(score), sum(grounded), count(grounded), sum(uncorrected)
FROM (SELECT {_UNIT} AS unit, json_extract(t.assignments, ?1) AS arm, t.caller AS caller,
        t.user IS NULL AS unnamed, t.status IN ('ok', 'refused') AS success, t.seconds, t.cost,
        {SCORE.format("t")} AS score, {GROUNDED.format("t")} AS grounded, {_UNCORRECTED} AS uncorrected
    FROM traces AS t WHERE t.began >= ?2 AND json_extract(t.labels, '$.shadow') IS NULL AND t.status != 'cancelled')
WHERE arm IS NOT NULL GROUP BY 1, 2, 3, 4
"""
_OFTEN = f"""
SELECT {RATER.format("f")}, count(*) FROM feedback AS f JOIN traces AS t ON t.id = f.trace
WHERE t.began >= ?2 AND json_extract(t.assignments, ?1) IS NOT NULL AND f.source = 'user' AND NOT f.withdrawn
GROUP BY 1
"""
_RATINGS = f"""
SELECT {_UNIT}, json_extract(t.assignments, ?1) AS arm, f.name, t.caller, t.user IS NULL,
    sum(min(max(f.value, 0.0), 1.0)), count(*)
FROM feedback AS f JOIN traces AS t ON t.id = f.trace
WHERE t.began >= ?2 AND arm IS NOT NULL AND f.value IS NOT NULL AND NOT f.withdrawn AND f.source = 'user'
    AND {RATER.format("f")} NOT IN (SELECT value FROM json_each(?3)) AND f.name IN (SELECT value FROM json_each(?4))
    AND json_extract(t.labels, '$.shadow') IS NULL AND t.status != 'cancelled'
    AND NOT EXISTS (SELECT 1 FROM feedback AS later WHERE later.trace = f.trace AND later.author = f.author
        AND later.name = f.name AND later.source = 'user' AND NOT later.withdrawn
        AND (later.at, later.id) > (f.at, f.id))
GROUP BY 1, 2, 3, 4, 5
"""
_SHADOWS = f"""
SELECT h.id, (h.status IN ('ok', 'refused')) - (t.status IN ('ok', 'refused')), t.seconds - h.seconds,
    t.cost - h.cost, {SCORE.format("h")} - {SCORE.format("t")}, {GROUNDED.format("h")} - {GROUNDED.format("t")}
FROM traces AS h JOIN traces AS t ON t.id = json_extract(h.labels, '$.of')
WHERE json_extract(h.labels, '$.shadow') = ? AND h.began >= ?
"""
SHADOWED = ("success", "speed", "thrift", "score", "grounded")
"""Figures that an answer has in the shadow, where nobody sees it."""
FIGURES = (*SHADOWED, "uncorrected")
"""Figures of every trace; any other name is that of a rating."""


class UnitFigure(NamedTuple):
    """What one unit of an experiment saw of one figure.

    Attributes:
        unit: user, conversation or request.
        arm: arm of the unit.
        name: `success` (answered or refused), `speed` (seconds, negative), `thrift` (cost, negative), `score`,
            `grounded` (whether the answer rests on its picture), `uncorrected` (nobody said that it should have been
            something else), or the name of a rating; higher is better. Those of the shadow are differences to the
            answer that was given.
        total: sum of its values.
        number: number of its values; 0 where none is known.
        crowd: caller for whose word this is where it names no user; empty for users, and for what nobody says.
    """

    unit: str
    arm: str
    name: str
    total: float
    number: int
    crowd: str = ""


def unit_figures(
    index: TraceIndex,
    experiment: str,
    since: int,
    measures: Sequence[str],
    *,
    callers: Mapping[str, float] | None = None,
) -> list[UnitFigure]:
    """What each unit of an experiment saw since a moment; its answers in the shadow count for nothing.

    A unit is a user, else a conversation, else a single request. Of ratings by one person of one trace the last one
    counts, as one from 0 to 1; nothing counts of who says far more than the others. `uncorrected` is known of the same
    units as ratings. What people say whom a caller does not name is of that caller's crowd.

    Args:
        index: the index.
        experiment: name of the experiment.
        since: nanoseconds since 1970.
        measures: names of the ratings to read.
        callers: share of a caller's units whose word counts, dealt by the unit; 1 by default.
    """
    weights = callers or {}

    def is_heard(unit: str, caller: str) -> bool:
        weight = weights.get(caller, 1.0)
        return weight >= 1 or position("heard", unit) < weight

    where = (f'$."{experiment}"', since)
    often = Counter(dict(index.rows(_OFTEN, where)))
    refused = json.dumps(sorted(frequent_raters(often, MOST_DEVIATIONS)))
    figures = []
    for unit, arm, caller, unnamed, requests, success, speed, thrift, *pairs in index.rows(
        _UNITS, (*where, refused)
    ):
        costed, score, scored, grounded, looked, uncorrected = pairs
        columns = (
            (success, requests), (speed, requests), (thrift, costed), (score, scored), (grounded, looked),
            (uncorrected, requests) if is_heard(unit, caller) else (0.0, 0),
        )  # fmt: skip
        figures += [
            UnitFigure(
                unit, arm, name, total or 0.0, count, caller if unnamed and name == "uncorrected" else ""
            )
            for name, (total, count) in zip(FIGURES, columns, strict=True)
        ]
    ratings = index.rows(_RATINGS, (*where, refused, json.dumps(list(measures))))
    figures += [
        UnitFigure(unit, arm, name, total, number, caller if unnamed else "")
        for unit, arm, name, caller, unnamed, total, number in ratings
        if is_heard(unit, caller)
    ]
    return figures


def shadow_figures(index: TraceIndex, experiment: str, since: int) -> list[UnitFigure]:
    """Answers in the shadow less those that were given to the same requests, since a moment; higher is better."""
    return [
        UnitFigure(hidden, "shadow", name, gain or 0.0, int(gain is not None))
        for hidden, *gains in index.rows(_SHADOWS, (experiment, since))
        for name, gain in zip(SHADOWED, gains, strict=True)
    ]
