"""Whose word counts in a data set: one vote a person, nobody who floods, callers by their weight, and a robust mean.

A rater who is bought, or a script that rates a thousand answers, moves a plain mean as far as it likes. Here a person
has one vote on an answer, the last; who rates far more often than the others is left out whole; and where several
people rate one answer, their median stands beside the judges, so that no single one of them decides it. Where a caller
names no user, a conversation, else a request, counts as a person (:func:`noria.core.traces.index.raters.rater_of`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noria.core.traces.chats import people_and_judges
from noria.core.traces.index.raters import frequent_raters, rater_of
from noria.core.traces.records import Feedback
from noria.core.traces.store import TraceView

if TYPE_CHECKING:
    from noria.core.learning.dataset import FreezeConfig


@dataclass(frozen=True)
class Trusted:
    """Traces with the feedback that counts.

    Attributes:
        views: the traces, in their order.
        left_out: number of feedbacks that do not count.
        raters: number of people all of whose feedback is left out.
    """

    views: list[TraceView]
    left_out: int
    raters: int


def trusted(views: Iterable[TraceView], config: FreezeConfig) -> Trusted:
    """Leave out the feedback that is not trusted.

    Args:
        views: traces with what was said about them.
        config: settings that say whose feedback is left out.
    """
    held = list(views)
    often = Counter(rater_of(one, view.trace) for view in held for one in view.feedback if one.by)
    refused = {by for by, number in often.items() if number > config.most_by_one} | set(config.distrusted)
    refused |= frequent_raters(often, config.most_deviations)
    kept, left_out = [], 0
    for view in held:
        mute = config.callers.get(view.trace.caller, 1.0) == 0
        heard = [one for one in view.feedback if rater_of(one, view.trace) not in refused]
        feedback = () if mute else _last_votes(heard)
        left_out += len(view.feedback) - len(feedback)
        kept.append(TraceView(view.trace, tuple(feedback), view.judgements, view.withdrawn))
    return Trusted(kept, left_out, len(refused & often.keys()))


def _last_votes(feedback: Sequence[Feedback]) -> list[Feedback]:
    """Feedback in its order, of which each person's last of a kind and name on an item counts."""
    last: dict[tuple[str, ...], str] = {}
    ordered = sorted(feedback, key=lambda one: (one.at, one.id))
    for one in ordered:
        last[one.by or one.id, one.kind, one.name, one.item or "", one.span or ""] = one.id
    kept = set(last.values())
    return [one for one in feedback if one.id in kept]


def robust_score(view: TraceView, weight: float = 1.0) -> float | None:
    """Score of an answer: the median of the people beside each judge, who count 1; None where nobody said anything.

    Args:
        view: trace with what was said about it.
        weight: weight of the people, from 0 to 1.
    """
    people, judges = people_and_judges(view)
    weight = weight if people else 0.0
    total = weight + len(judges)
    if not total:
        return None
    return (weight * (statistics.median(people) if people else 0.0) + math.fsum(judges)) / total
