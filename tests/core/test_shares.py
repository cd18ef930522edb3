"""Parts of a limit that several processes share: never more than the limit together, and nothing is lost for good."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

from hypothesis import given, settings, strategies as st

from noria.core.service.callers import Caller
from noria.core.storage.control import SQLiteControl
from noria.core.storage.shares import LEASE, Claim, Shares, claimed

LIMIT = 10.0
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.4, 3.0, 20.0]), st.integers(0, 10)),
    min_size=20,
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_money_is_held_and_spent_within_the_limit_where_no_lease_runs_out(
    steps: list[tuple[str, float, int]],
) -> None:
    value: dict[str, object] = {}
    held, spent, now = dict.fromkeys("abc", 0.0), dict.fromkeys("abc", 0.0), 0.0
    for who, pause, want in steps:
        now += min(pause, 0.4)  # 80 steps: everybody's lease may be as old as that
        use = held[who] / 2  # of what was given before, and reported with the claim
        spent[who] += use
        value, part = claimed(
            value, who, min(now, LEASE - 1), Claim(limit=LIMIT, want=want, spent=spent[who])
        )
        held[who] = part.held
        assert part.held <= want
        assert sum(held.values()) + sum(spent.values()) <= LIMIT + 1e-9


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_no_minute_has_more_requests_than_the_rate_whoever_holds_it(
    steps: list[tuple[str, float, int]],
) -> None:
    value: dict[str, object] = {}
    now, passed = 0.0, deque[float]()
    callers = {who: Caller(who, (), int(LIMIT), clock=lambda: now) for who in "abc"}
    until = dict.fromkeys("abc", -1.0)
    for who, pause, want in steps:
        now += pause
        caller = callers[who]
        caller.share = min(caller.share or 0, want) if until[who] >= 0 else 0
        value, part = claimed(value, who, now, Claim(limit=LIMIT, want=want, cooling=60.0))
        caller.share, until[who] = int(part.held), now + LEASE
        for one, other in callers.items():  # a process that does not report any more sends nothing either
            if now <= until[one]:
                passed.extend(now for _ in range(3) if not other.wait())
        while passed and passed[0] <= now - 60:
            passed.popleft()
        assert len(passed) <= LIMIT


def test_what_a_process_held_is_free_after_its_lease_and_what_it_spent_is_not(tmp_path: Path) -> None:
    now = 1000.0
    control = SQLiteControl(tmp_path / "control.sqlite", clock=lambda: now)
    one, other = Shares(control, "one"), Shares(control, "other")
    day = {"limit": LIMIT, "period": "2026-01-01"}
    assert one.claim("money", Claim(want=6, spent=1, **day)) == (6, 1)
    assert other.claim("money", Claim(want=6, **day)) == (3, 0)
    now += LEASE + 1
    assert other.claim("money", Claim(want=20, spent=2, **day)) == (7, 2)
    assert one.claim("money", Claim(want=5, spent=0.5, **day)) == (0, 1), "and it knows what it spent before"
    assert one.claim("money", Claim(want=5, limit=LIMIT, period="2026-01-02")) == (5, 0)
    assert other.claim("money", Claim(want=5, **day)) == (0, 0), (
        "whose clock is late waits for its day to end"
    )


def test_a_rate_that_is_given_back_waits_a_minute_for_others_and_not_for_its_own(tmp_path: Path) -> None:
    now = 1000.0
    control = SQLiteControl(tmp_path / "control.sqlite", clock=lambda: now)
    one, other = Shares(control, "one"), Shares(control, "other")

    def held(who: Shares, want: int) -> float:
        return who.claim("rate", Claim(limit=LIMIT, want=want, cooling=60.0)).held

    assert [held(one, 10), held(one, 4), held(other, 10)] == [10, 4, 0]
    assert [held(one, 9), held(one, 4)] == [9, 4]
    now += 5
    held(one, 4)
    now += 56
    assert held(other, 10) == 6 if held(one, 4) == 4 else 0


def test_processes_that_claim_at_once_hold_no_more_than_the_limit(tmp_path: Path) -> None:
    held = {}

    def run(name: str) -> None:
        shares = Shares(SQLiteControl(tmp_path / "control.sqlite"), name)
        for want in (1, 2, 3):
            held[name] = shares.claim("x", Claim(limit=LIMIT, want=want)).held

    threads = [threading.Thread(target=run, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 8
    assert sum(held.values()) == LIMIT
