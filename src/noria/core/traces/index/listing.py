"""What a console lists of an index: the newest traces, what they say together, and the feedback on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from noria.core.traces.ids import id_at
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.scores import SCORE

_LATELY = f"""
SELECT t.status, t.seconds, t.tokens, t.cost, t.redactions,
    {SCORE.format("t")},
    (SELECT sum(verdicts) FROM judgements WHERE trace = t.id),
    (SELECT sum(invalid) FROM judgements WHERE trace = t.id), t.began
FROM traces AS t WHERE t.id >= ? AND json_extract(t.labels, '$.shadow') IS NULL ORDER BY t.id DESC LIMIT ?
"""


@dataclass(frozen=True)
class TraceRow:
    """A trace in a list: its line, without its spans."""

    id: str
    began: int
    seconds: float
    status: str
    bundle: str
    caller: str
    user: str | None
    conversation: str | None
    tokens: int
    cost: float | None
    labels: dict[str, str]
    assignments: dict[str, str]
    redactions: int
    feedback: int
    score: float | None


class Lately(NamedTuple):
    """What the newest traces say together.

    Attributes:
        traces: number of traces.
        capped: whether there are more in the time than were read.
        since: nanoseconds since 1970 of the oldest of them; 0 without one.
        statuses: number of traces by how they ended.
        median: median seconds of an answer; None without one.
        p95: seconds that one answer of twenty exceeds; None without one.
        tokens: number of tokens.
        cost: cost of those whose cost is known; None where none is.
        costed: number of traces whose cost is known.
        redactions: number of places that were redacted.
        scores: mean score of each trace that was judged.
        invalid: share of the verdicts that are invalid; None without one.
    """

    traces: int
    capped: bool
    since: int
    statuses: dict[str, int]
    median: float | None
    p95: float | None
    tokens: int
    cost: float | None
    costed: int
    redactions: int
    scores: list[float]
    invalid: float | None


def newest_traces(
    index: TraceIndex,
    *,
    before: str | None = None,
    limit: int = 50,
    status: str | None = None,
    bundle: str | None = None,
    user: str | None = None,
    label: tuple[str, str] | None = None,
) -> list[TraceRow]:
    """The newest traces first, those that agree with all that is given.

    Args:
        index: the index.
        before: id of the trace after which the list continues.
        limit: largest number of traces.
        status: status of the traces.
        bundle: content hash of the bundle that answered.
        user: key of the user.
        label: name and value of a label.
    """
    # Every index ends in the id, so a page is read in order. Users have few traces: "+" keeps to that index.
    plain = "+" if user is not None else ""
    conditions, values = ["1"], []
    for column, value in ((f"{plain}status", status), (f"{plain}bundle", bundle), ("user", user)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if label is not None:
        conditions.append("json_extract(labels, ?) = ?")
        values += [f'$."{label[0]}"', label[1]]
    if before is not None:
        conditions.append("id < ?")
        values.append(before)
    query = (
        "SELECT t.*, (SELECT count(*) FROM feedback WHERE trace = t.id AND NOT withdrawn),"
        f" {SCORE.format('t')}"
        f" FROM (SELECT * FROM traces WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?) AS t"
    )
    return [_row(row) for row in index.rows(query, (*values, limit))]


def seen_lately(index: TraceIndex, since: int, *, most: int = 10_000) -> Lately:
    """What the newest traces say together, those of the shadow left out.

    Args:
        index: the index.
        since: nanoseconds since 1970 of the oldest trace.
        most: most traces that are read.
    """
    rows = index.rows(_LATELY, (id_at(since), most))
    statuses = Counter(status for status, *_ in rows)
    seconds = sorted(row[1] for row in rows if row[0] in ("ok", "refused"))
    costs = [row[3] for row in rows if row[3] is not None]
    scores = [row[5] for row in rows if row[5] is not None]
    verdicts, invalid = sum(row[6] or 0 for row in rows), sum(row[7] or 0 for row in rows)
    return Lately(
        traces=len(rows),
        capped=len(rows) == most,
        since=min((row[8] for row in rows), default=0),
        statuses=dict(statuses),
        median=_quantile(seconds, 0.5),
        p95=_quantile(seconds, 0.95),
        tokens=sum(row[2] for row in rows),
        cost=sum(costs) if costs else None,
        costed=len(costs),
        redactions=sum(row[4] for row in rows),
        scores=scores,
        invalid=invalid / verdicts if verdicts else None,
    )


def feedback_counts(index: TraceIndex, *, most: int = 20_000) -> list[tuple[str, str, int, float | None]]:
    """Number and mean of the feedback that stands, by kind and name, on the newest traces that have any.

    Args:
        index: the index.
        most: most feedbacks that are read.
    """
    newest = "SELECT kind, name, value, withdrawn FROM feedback ORDER BY trace DESC LIMIT ?"
    return index.rows(
        f"SELECT kind, name, count(*), avg(value) FROM ({newest}) WHERE NOT withdrawn GROUP BY 1, 2"
        " ORDER BY 3 DESC LIMIT 50",
        (most,),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * (len(ordered) - 1))] if ordered else None


def _row(row: Sequence[Any]) -> TraceRow:
    values = (*row[:10], json.loads(row[10]), json.loads(row[11]), *row[12:])
    return TraceRow(*values)
