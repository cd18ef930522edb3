"""What the log teaches: every exposure once, whatever comes twice, late, out of order, or after a restart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from noria.blending import Blender, Candidates
from noria.blending.accounting.cells import accounts
from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.service.config import NearlineConfig, NearlineFit
from noria.blending.service.journal.events import (
    Decision,
    Event,
    Impression,
    Outcome,
    Sample,
    decision_of,
    pack,
    unpack,
)
from noria.blending.service.journal.journal import Position
from noria.blending.service.loop.learning import Learner
from noria.blending.service.loop.sums import totals
from tests.blending.feeds import columns, snapshot

MATURITY, UNSEEN = 100.0, 1000.0


def learner(**options: Any) -> Learner:
    given: dict[str, Any] = {"show_within": UNSEEN, "most_open": 1000} | options
    anchor = EffectiveCompletion(rule="seconds", seconds=5.0)
    fit = NearlineFit(maturity=MATURITY, tick=60.0)
    return Learner(NearlineConfig(anchor=anchor, fit=fit, **given))


def decision(request: str, at: float, *, size: int = 5, seed: int = 0, **options: Any) -> Decision:
    candidates = Candidates.of(columns(20, seed), scene="home")
    ranked = Blender(snapshot()).rank(candidates, size, at=at)
    given = {"user": "u", "control": False, "shown": 0} | options
    return decision_of(candidates, ranked, at=at, request=request, **given)


def feed(found: Learner, *events: Event) -> None:
    for number, event in enumerate(events):
        found.feed([event], Position(1, number))


def closed(found: Learner) -> int:
    return sum(sums[0] for sums in found.books.cells.values())


def test_events_go_through_the_log_unchanged() -> None:
    events = [
        decision("r", 1.0),
        Impression(2.0, "r", ["a"], None),
        Outcome(3.0, "r", "a", 1.5, None, 2.0, 4.0),
        Sample(1.0, "r", "home", b"x"),
    ]
    assert unpack(pack(events)) == events
    with pytest.raises(Exception, match="no events"):
        unpack(b"\x81")


def test_what_was_shown_is_booked_once_its_time_is_up() -> None:
    found = learner()
    made = decision("r", 10.0)
    a, b, c = made.items[:3]
    feed(
        found,
        made,
        Impression(20.0, "r", [a, b, c]),
        Outcome(30.0, "r", a, 6.0),
        Outcome(31.0, "r", b, 4.0, None, 3.0),
    )
    found.close(20.0 + MATURITY - 1)
    assert closed(found) == 0
    found.close(20.0 + MATURITY)
    assert closed(found) == 3
    (account, *_), _ = accounts(found.books, {made.snapshot: everything(found)})
    assert (account.exposures, account.known, account.outcomes, account.gain) == (3, 2, 1.0, 3.0)
    assert account.value == pytest.approx(made.column("value")[:3].sum())
    tallied = found.tallies.binned(None, found.tallies.cells)
    assert (tallied.n.sum(), tallied.a.sum()) == (2, 1)
    assert found.tallies.dropped == {"no outcome": 1}
    assert found.counts["exposures without outcome"] == 1
    assert found.open == 0


def everything(found: Learner) -> list[tuple[str, float, float]]:
    """A plan on every bit that a cell has, so that one account is of all of them."""
    for key in list(found.books.cells):
        sums = found.books.cells.pop(key)
        whole = key._replace(mask=1)
        old = found.books.cells.get(whole, [0] * len(sums))
        found.books.cells[whole] = [x + y for x, y in zip(old, sums, strict=True)]
    return [("all", 0.0, 0.0)]


def test_an_exposure_without_outcome_is_no_completion_only_if_that_is_said() -> None:
    for zero, known in ((False, 0), (True, 4)):
        found = learner(absent="zero" if zero else "missing")
        feed(found, decision("r", 0.0, shown=4))
        found.close(MATURITY)
        assert found.tallies.binned(None, found.tallies.cells).n.sum() == known


def test_twice_late_unknown_and_out_of_order_are_counted_and_change_nothing() -> None:
    found = learner()
    made = decision("r", 0.0)
    a, b = made.items[:2]
    feed(
        found,
        made,
        Outcome(1.0, "r", a, 9.0),  # before its impression
        Impression(2.0, "r", [a, a, b, "stranger"]),
        Impression(3.0, "r", [b]),
        Outcome(4.0, "r", a, 1.0),
        Outcome(5.0, "r", "stranger", 1.0),
        Impression(6.0, "q", [a, b]),
        Outcome(7.0, "q", a, 1.0),
        decision("r", 8.0, seed=1),
        Outcome(2.0 + MATURITY, "r", b, 9.0),
        Impression(3.0 + MATURITY, "r", [made.items[2]]),
    )
    assert dict(found.counts) == {
        "decisions": 2,
        "exposures": 2,
        "outcomes": 1,
        "impressions twice": 2,
        "impressions of items not in the list": 1,
        "outcomes twice": 1,
        "outcomes of items not in the list": 1,
        "impressions of unknown requests": 2,
        "outcomes of unknown requests": 1,
        "requests decided again after they were shown": 1,
        "outcomes too late": 1,
        "impressions too late": 1,
        "exposures without outcome": 1,
        "exposures closed": 2,
    }
    assert closed(found) == 2
    tallied = found.tallies.binned(None, found.tallies.cells)
    assert (tallied.n.sum(), tallied.a.sum()) == (1, 1), "the first outcome counts"


def test_a_list_decided_again_before_anybody_saw_it_is_the_later_one() -> None:
    found = learner()
    first, second = decision("r", 0.0, seed=1), decision("r", 1.0, seed=2)
    feed(found, first, second, Impression(2.0, "r", [second.items[0], first.items[0]]))
    found.close(2.0 + MATURITY)
    assert closed(found) == 1
    assert found.counts["impressions of items not in the list"] == 1


def test_what_nobody_saw_is_forgotten_and_so_is_what_is_too_much() -> None:
    found = learner(most_open=3)
    feed(found, *(decision(f"r{n}", float(n)) for n in range(5)))
    assert (found.open, found.counts["lists forgotten: too many are open"]) == (3, 2)
    found.close(4.0 + UNSEEN)
    assert (found.open, found.counts["lists forgotten: nobody saw them"]) == (0, 3)
    assert found.oldest is None


def test_an_id_used_again_after_its_list_closed_is_another_list() -> None:
    found = learner()
    feed(found, decision("r", 0.0, shown=2), decision("r", MATURITY + 1, shown=3))
    found.close(3 * MATURITY)
    assert closed(found) == 5


def test_a_forgotten_lists_clock_does_not_close_the_next_of_its_id() -> None:
    found = learner(most_open=1)
    feed(found, decision("r", 0.0, shown=1), decision("s", 1.0, shown=1), decision("r", 50.0, shown=1))
    found.close(MATURITY + 1)
    assert closed(found) == 0
    found.close(MATURITY + 50)
    assert closed(found) == 1


def test_spend_is_read_from_sums() -> None:
    found = learner()
    events = [decision(f"r{n}", float(n), seed=n, shown=5) for n in range(6)]
    events.append(decision("c", 6.0, control=True, shown=5))
    feed(found, *events)
    snap = snapshot()
    plans = {plan: (bit, *snap.weight_and_bias(plan)) for bit, plan in enumerate(snap.plans.ids)}
    got = totals(found.take_window(), lambda version: plans if version == 1 else None)
    assert (got.exposures, got.lost) == (30, 0)
    assert got.value == pytest.approx(sum(e.column("value").sum() for e in events[:6]))
    for bit, plan in enumerate(snap.plans.ids):
        weight, bias = snap.weight_and_bias(plan)
        hit = [(e.masks >> np.uint64(bit) & np.uint64(1)).astype(bool) for e in events[:6]]
        spend = sum((weight * e.column("value")[h] + bias).sum() for e, h in zip(events, hit, strict=False))
        n, _, spent = got.of(plan)
        assert n == sum(h.sum() for h in hit)
        assert spent == pytest.approx(spend)
    assert found.take_window() == {}
    assert totals(found.today, lambda version: None).lost == 30


def test_a_new_day_begins_at_midnight() -> None:
    found = learner()
    feed(found, decision("r", 86_399.0, shown=2), decision("s", 86_400.0, shown=3))
    assert sum(shown.exposures for shown in found.today.values()) == 3
    assert found.hours == {23: 2, 24: 3}


def test_a_sampled_request_is_kept_with_its_outcomes() -> None:
    found = learner()
    made = decision("r", 0.0, shown=2)
    feed(
        found,
        made,
        Sample(0.0, "r", "home", b"arrow"),
        Outcome(1.0, "r", made.items[0], 9.0, None, 4.0),
        decision("r", 2.0, seed=3),
        Sample(2.0, "r", "home", b"of a decision that did not count"),
        decision("c", 3.0, control=True, shown=1),
        Sample(3.0, "c", "home", b"control"),
    )
    found.close(500.0)
    (kept,) = found.closed
    assert (kept.decision.request, kept.candidates, len(kept.decision.items)) == ("r", b"arrow", 5)
    assert kept.outcomes[made.items[0]] == (1.0, 4.0)
    assert np.isnan(kept.outcomes[made.items[1]]).all()


def test_old_tallies_and_books_go() -> None:
    found = learner()
    feed(found, decision("r", 0.0, shown=3))
    found.close(200.0)
    found.drop_old(keep=1000.0, days=3)
    assert found.tallies.cells.keys() | found.books.cells.keys()
    found.close(10 * 86_400.0)
    found.drop_old(keep=1000.0, days=3)
    assert not found.tallies.cells
    assert not found.books.cells


MADE = {(r, s): decision(r, 0.0, seed=s) for r in "abc" for s in range(2)}


@st.composite
def histories(draw: st.DrawFn) -> list[list[Event]]:
    """Frames of events of three requests, in any order, with repeats, at rising times."""
    at, frames = 0.0, []
    for _ in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from([0.0, 1.0, 40.0, MATURITY, UNSEEN]))
        request, seed = draw(st.sampled_from("abc")), draw(st.integers(0, 1))
        made = MADE[request, seed]
        item = draw(st.sampled_from(made.items))
        kind = draw(st.sampled_from(["decide", "show", "come"]))
        event: Event
        if kind == "decide":
            fields = {name: getattr(made, name) for name in made.__struct_fields__}
            event = Decision(**fields | {"at": at, "shown": draw(st.sampled_from([0, 0, 2]))})
        elif kind == "show":
            event = Impression(at, request, [item])
        else:
            event = Outcome(at, request, item, draw(st.sampled_from([1.0, 9.0])))
        frames.append([event])
    return frames


@settings(max_examples=150, deadline=None)
@given(frames=histories(), data=st.data())
def test_reading_again_after_a_stop_gives_the_same(frames: list[list[Event]], data: st.DataObject) -> None:
    """A loop that stops anywhere and starts from its checkpoint ends where an uninterrupted one does."""
    places = [Position(1, n) for n in range(len(frames))]
    whole = learner()
    for events, place in zip(frames, places, strict=True):
        whole.feed(events, place)
    cut = data.draw(st.integers(0, len(frames)))
    first = learner()
    for events, place in zip(frames[:cut], places[:cut], strict=True):
        first.feed(events, place)
    second = learner()
    second.tallies, second.books, second.counts = first.tallies, first.books, first.counts
    second.day, second.today, second.hours = first.day, first.today, first.hours
    oldest = first.oldest
    start = cut if oldest is None else oldest.offset
    again = list(zip(frames, places, strict=True))[start:cut]
    second.again(again, first.now)
    assert second.open == first.open
    for events, place in zip(frames[cut:], places[cut:], strict=True):
        second.feed(events, place)
    for found in (whole, second):
        found.close(1e9)
    assert second.books.cells == whole.books.cells
    assert second.tallies.cells.keys() == whole.tallies.cells.keys()
    assert second.today == whole.today
    assert second.counts["exposures"] == whole.counts["exposures"]
    assert second.counts["exposures closed"] == whole.counts["exposures closed"]
    assert whole.counts["exposures closed"] == whole.counts["exposures"]
