"""Scores and labels of the traces in an index: of a time, by label, and whether answers rest on their pictures."""

from __future__ import annotations

import json

from noria.core.traces.ids import id_at
from noria.core.traces.index.index import TraceIndex

SCORE = "(SELECT avg(score) FROM judgements WHERE trace = {}.id AND path != 'grounding')"
"""Mean score of a trace in a query, by the name of its table there; what was said of its grounding is left out."""
GROUNDED = "(SELECT avg(score) FROM judgements WHERE trace = {}.id AND path = 'grounding')"
"""Mean score of a trace's grounding in a query, as `SCORE`: whether its answer rests on its picture."""


def trace_scores(index: TraceIndex, since: int, *, before: int | None = None, most: int) -> list[float]:
    """Mean scores of the judged traces of a time, in its order; those of the shadow are left out.

    Args:
        index: the index.
        since: nanoseconds since 1970 from which traces count.
        before: nanoseconds since 1970 before which they count; any by default.
        most: most traces that are read; the newest are kept.
    """
    where, values = _between(since, before)
    rows = index.rows(
        "SELECT t.id, avg(j.score) FROM traces AS t JOIN judgements AS j ON j.trace = t.id"
        f" WHERE {where} AND j.score IS NOT NULL AND j.path != 'grounding'"
        " GROUP BY t.id ORDER BY t.id DESC LIMIT ?",
        (*values, most),
    )
    return [score for _, score in reversed(rows)]


def scores_by_label(
    index: TraceIndex, name: str, bundle: str, since: int, *, most: int
) -> dict[str, list[float | None]]:
    """Mean score of each trace of a bundle by the value of a label, None where nobody judged it.

    Traces without the label and those of the shadow are left out.

    Args:
        index: the index.
        name: name of the label.
        bundle: bundle that answered.
        since: nanoseconds since 1970 from which traces count.
        most: most traces that are read; the newest are kept.
    """
    where, values = _between(since, None)
    where, values = f"{where} AND t.bundle = ?", [*values, bundle]
    scores: dict[str, list[float | None]] = {}
    for value, score in index.rows(
        f"SELECT l.value, {SCORE.format('t')} FROM (SELECT t.id, t.labels FROM traces AS t WHERE {where}"
        " ORDER BY t.id DESC LIMIT ?) AS t, json_each(t.labels) AS l WHERE l.key = ?",
        (*values, most, name),
    ):
        scores.setdefault(value, []).append(score)
    return scores


def label_counts(
    index: TraceIndex, since: int, *, before: int | None = None, most: int
) -> dict[str, dict[str, int]]:
    """Number of traces of a time by each label and its value; those of the shadow are left out.

    Args:
        index: the index.
        since: nanoseconds since 1970 from which traces count.
        before: nanoseconds since 1970 before which they count; any by default.
        most: most traces that are read; the newest are kept.
    """
    where, values = _between(since, before)
    counts: dict[str, dict[str, int]] = {}
    for name, value, count in index.rows(
        f"SELECT l.key, l.value, count(*) FROM (SELECT t.labels FROM traces AS t WHERE {where}"
        " ORDER BY t.id DESC LIMIT ?) AS t, json_each(t.labels) AS l GROUP BY 1, 2",
        (*values, most),
    ):
        counts.setdefault(name, {})[value] = count
    return counts


def grounding_verdicts(
    index: TraceIndex, since: int, *, most: int = 10_000
) -> list[tuple[str, dict[str, str]]]:
    """Skill and verdicts by item of the newest judgements of the grounding, those of the shadow left out.

    Args:
        index: the index.
        since: nanoseconds since 1970 of the oldest trace.
        most: most judgements that are read.
    """
    rows = index.rows(
        "SELECT coalesce(json_extract(t.labels, '$.skill'), ''), j.said FROM judgements AS j CROSS JOIN traces AS t"
        " ON t.id = j.trace WHERE j.said IS NOT NULL AND j.trace >= ? AND json_extract(t.labels, '$.shadow') IS NULL"
        " ORDER BY j.trace DESC LIMIT ?",
        (id_at(since), most),
    )
    return [(skill, json.loads(said)) for skill, said in rows]


def _between(since: int, before: int | None) -> tuple[str, list[str]]:
    """Condition on traces of a time, by their ids, which sort by time; those of the shadow are left out."""
    where, values = "t.id >= ? AND json_extract(t.labels, '$.shadow') IS NULL", [id_at(since)]
    return (where, values) if before is None else (f"{where} AND t.id < ?", [*values, id_at(before)])
