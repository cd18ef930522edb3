"""A random sample of judged answers that a person labels, and how far the judges agree with that person.

A trace is drawn by its id, so that the chance of each is known and nothing that was said of it matters. Labels of other
traces, which somebody picked, are no sample, and count for nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from noria.core.experiments.assignment import position
from noria.core.statistics.intervals import Interval, paired_difference, proportion_interval
from noria.core.traces.index.index import TraceIndex

HUMAN_SAMPLE = "human sample"
"""Name of the feedback that labels an answer of the sample: a comment with a value, which no learner and no test
counts as a rating."""
_JUDGED = """
SELECT j.trace, avg(j.score), (SELECT f.value FROM feedback AS f WHERE f.trace = j.trace AND f.name = ?1
    AND f.source = 'operator' AND NOT f.withdrawn AND f.value IS NOT NULL ORDER BY f.at DESC, f.id DESC LIMIT 1)
FROM judgements AS j JOIN traces AS t ON t.id = j.trace
WHERE j.path = 'judge' AND j.score IS NOT NULL AND json_extract(t.labels, '$.shadow') IS NULL
GROUP BY j.trace ORDER BY j.trace DESC LIMIT ?2
"""


@dataclass(frozen=True)
class PeopleAndJudges:
    """What people say of the sample, beside the judges.

    Attributes:
        waiting: ids of the newest traces of the sample that nobody has labelled.
        agreement: share of the labelled ones on whose side of one half judge and person are the same.
        difference: mean score of the judges less the people's value.
    """

    waiting: list[str]
    agreement: Interval
    difference: Interval


def is_drawn(trace: str, share: float) -> bool:
    """Whether a trace is in the sample for people: a pure function of its id."""
    return position(HUMAN_SAMPLE, trace) < share


def people_and_judges(index: TraceIndex, share: float, *, most: int = 20_000) -> PeopleAndJudges:
    """The sample among the newest judged traces, and the agreement on it.

    Args:
        index: the index.
        share: chance with which a judged trace is drawn.
        most: most judged traces that are read.
    """
    rows = index.rows(_JUDGED, (HUMAN_SAMPLE, most))
    drawn = [row for row in rows if is_drawn(row[0], share)]
    pairs = [(score, value) for _, score, value in drawn if value is not None]
    same = sum((score >= 0.5) == (value >= 0.5) for score, value in pairs)
    return PeopleAndJudges(
        [trace for trace, _, value in drawn if value is None],
        proportion_interval(same, len(pairs)),
        paired_difference([score for score, _ in pairs], [value for _, value in pairs]),
    )
