"""Whose word counts: the last vote of a person, nobody who floods, a caller by its weight, and the median of people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import given, strategies as st

from noria.core.learning.dataset import FreezeConfig, freeze
from noria.core.learning.trust import frequent_raters, robust_score, trusted
from noria.core.traces.records import Feedback
from noria.core.traces.store import TraceView
from tests.core.learning_world import log, logged_trace


def said(view: TraceView, by: str, value: float, at: int = 1, name: str = "helpful") -> TraceView:
    one = Feedback(f"{by}{at}{name}{view.trace.id}", view.trace.id, "rating", name, at, value, by=by)
    return TraceView(view.trace, (*view.feedback, one), view.judgements)


def test_a_person_has_one_vote_the_last_one() -> None:
    view = logged_trace(1, score=None)
    for at in range(1, 9):
        view = said(view, "ann", float(at % 2), at)
    (kept,) = trusted([view], FreezeConfig()).views
    assert [one.value for one in kept.feedback] == [0.0]
    assert trusted([view], FreezeConfig()).left_out == 7


def test_who_names_no_users_is_not_one_person_who_floods() -> None:
    """Three hundred conversations of an application without users, each rated twice by the application's own name."""
    views = []
    for n in range(600):
        view = logged_trace(n, score=None)
        trace = msgspec.structs.replace(view.trace, caller="shop", user=None, conversation=f"c{n // 2}")
        views.append(said(TraceView(trace, (), ()), "shop", 1.0))
    held = trusted(views, FreezeConfig())
    assert (held.left_out, held.raters) == (0, 0)


def test_a_conversation_that_is_rated_far_more_often_than_the_others_is_left_out() -> None:
    views = []
    for n in range(600):
        view = logged_trace(n, score=None)
        conversation = "flood" if n < 300 else f"c{n}"
        trace = msgspec.structs.replace(view.trace, caller="shop", user=None, conversation=conversation)
        views.append(said(TraceView(trace, (), ()), "shop", 1.0))
    held = trusted(views, FreezeConfig())
    assert (held.left_out, held.raters) == (300, 1)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9))
def test_fewer_than_half_of_the_raters_cannot_move_the_score_beyond_the_others(honest: list[float]) -> None:
    view = logged_trace(1, score=None)
    for n, value in enumerate(honest):
        view = said(view, f"honest {n}", value)
    for n in range((len(honest) - 1) // 2):
        view = said(view, f"hostile {n}", 1e6)
    score = robust_score(view)
    assert score is not None
    assert min(honest) <= score <= max(honest)


def test_people_are_one_voice_beside_each_judge_by_the_weight_of_their_caller() -> None:
    view = said(said(logged_trace(1, score=1.0), "ann", 0.0), "bob", 0.0)
    assert robust_score(view) == 0.5
    assert robust_score(view, 0.25) == 0.8
    assert robust_score(view, 0.0) == 1.0
    assert robust_score(logged_trace(1, score=None)) is None
    assert robust_score(said(logged_trace(1, score=None), "ann", 0.0), 0.0) is None, (
        "nobody counts: not known"
    )


def test_who_says_far_more_than_others_is_an_anomaly_and_an_eager_one_among_few_is_not() -> None:
    crowd = Counter({f"user {n}": 1 + n % 3 for n in range(50)})
    assert frequent_raters(crowd + Counter(bot=200), 6.0) == {"bot"}
    once = Counter({f"user {n}": 1 for n in range(50)})
    assert frequent_raters(once + Counter(eager=30), 6.0) == set()
    assert frequent_raters(once + Counter(bot=31), 6.0) == {"bot"}
    assert frequent_raters(Counter(bot=200, ann=1), 6.0) == set(), "of two nobody knows who is usual"


def test_a_caller_of_no_weight_is_mute_and_the_frozen_score_is_the_weighted_one(tmp_path: Path) -> None:
    views = [said(view, f"user {n}", 0.0) for n, view in enumerate(log(40))]
    views = [
        TraceView(
            msgspec.structs.replace(v.trace, caller="web" if n % 2 else "partner"), v.feedback, v.judgements
        )
        for n, v in enumerate(views)
    ]
    data = freeze(tmp_path, views, FreezeConfig(callers={"partner": 0.0, "web": 0.5}))
    assert data.counts["feedback left out"] == 20
    for row in (*data.rows("train"), *data.rows("gates")):
        assert row.example is not None
        (judged,) = [one.score for one in row.view.judgements]
        assert judged is not None
        expected = judged if row.view.trace.caller == "partner" else judged / 1.5
        assert row.example.score == expected
