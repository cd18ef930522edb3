"""Who says something of an answer, and who says far more than the others, so that it counts nowhere.

An application that names no users speaks for many people by one name, its own. Its conversations, and where it names
none its requests, stand for them: the finest that is known of whom one hears.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter

from noria.core.traces.records import Feedback, Trace

MOST_DEVIATIONS = 6.0
"""Robust deviations of the logarithm of a number of feedbacks that a test allows."""
_NARROWEST = 0.5
"""Least spread of the logarithm of counts: where all rate alike, twice as often is no anomaly."""
_MANY = 30
"""Feedbacks up to which nobody is an anomaly: one eager person among few is none."""
_SCALE = 1.4826  # of the median absolute deviation, to that of a normal distribution


RATER = """(CASE WHEN t.user IS NULL AND {0}.author IN ('', t.caller) THEN coalesce(t.conversation, t.id)
    ELSE {0}.author END)"""
"""What :func:`rater_of` gives in a query over traces `t`, by the name of the feedback's table there."""


def rater_of(feedback: Feedback, trace: Trace) -> str:
    """Who gave a feedback: a person by the key, or the conversation or request for which a caller names nobody.

    Args:
        feedback: what was said.
        trace: what it was said of.
    """
    if trace.user is None and feedback.by in ("", trace.caller):
        return trace.conversation or trace.id
    return feedback.by


def frequent_raters(often: Counter[str], most: float) -> set[str]:
    """People who say far more than the others, and more than 30 things.

    With c their numbers of feedbacks and m the median of log c: log c > m + most · max(1.4826 · MAD, ½).

    Args:
        often: number of feedbacks by person.
        most: robust deviations that are still allowed.
    """
    if len(often) < 3:
        return set()
    logs = {by: math.log(number) for by, number in often.items()}
    middle = statistics.median(logs.values())
    spread = _SCALE * statistics.median(abs(value - middle) for value in logs.values())
    bar = middle + most * max(spread, _NARROWEST)
    return {by for by, value in logs.items() if value > bar and often[by] > _MANY}
