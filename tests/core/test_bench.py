import json
import time

import pytest
from hypothesis import given, strategies as st

from noria.core.proofs.bench import Benchmark, Row, alternate

TIMES = st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=9)


class Machine:
    """A clock on which work takes longer and longer."""

    def __init__(self, slowing: float):
        self.now, self.speed, self.slowing, self.calls = 0.0, 1.0, slowing, []

    def work(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds * self.speed
            self.speed *= self.slowing

        return run


def test_both_sides_take_turns_and_the_first_of_a_turn_changes(monkeypatch):
    machine = Machine(1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    timing = alternate(machine.work("o", 1), machine.work("t", 3), rounds=3, warmup=2)
    assert "".join(machine.calls) == "otot" + "ot" + "to" + "ot"
    assert timing.ours == [1, 1, 1]
    assert timing.theirs == [3, 3, 3]


def test_a_machine_that_slows_down_fivefold_does_not_change_the_ratio(monkeypatch):
    machine = Machine(1.08)
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    timing = alternate(machine.work("o", 1), machine.work("t", 2), rounds=10)
    assert timing.ours[-1] > 4 * timing.ours[0]
    row = Row.of("x", "peer", "s", timing.ours, timing.theirs, better="lower", goal=1.5)
    assert row.ratio == pytest.approx(2, rel=0.09)
    assert row.spread[0] > 1.8


def test_real_time_is_what_is_measured():
    timing = alternate(lambda: time.sleep(0.02), lambda: time.sleep(0.06), rounds=3, warmup=0)
    assert all(seconds >= 0.02 for seconds in timing.ours)
    assert all(seconds >= 0.06 for seconds in timing.theirs)


@given(TIMES)
def test_seconds_and_rates_of_the_same_turns_tell_the_same_ratio(times):
    ours, theirs = zip(*times, strict=True)
    seconds = Row.of("x", "peer", "s", ours, theirs, better="lower", goal=1)
    rates = Row.of(
        "x", "peer", "1/s", [1 / x for x in ours], [1 / x for x in theirs], better="higher", goal=1
    )
    assert rates.ratio == pytest.approx(seconds.ratio)
    assert rates.spread == pytest.approx(seconds.spread)
    assert seconds.spread[0] <= seconds.ratio <= seconds.spread[1]


def test_a_goal_is_met_from_its_very_value():
    rows = [Row.of("x", "p", "s", [1.0], [theirs], better="lower", goal=2) for theirs in (1.9, 2.0, 2.1)]
    assert [row.met for row in rows] == [False, True, True]


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_measurements_that_do_not_pair_are_refused(ours, theirs):
    with pytest.raises(ValueError, match="do not pair"):
        Row.of("x", "p", "s", ours, theirs, better="lower", goal=1)


def test_the_json_has_the_promised_fields_and_no_other():
    row = Row.of("samples", "loop", "samples/s", [4.0, 6.0, 5.0], [2.0, 2.0, 2.0], better="higher", goal=1.4)
    assert json.loads(json.dumps(Benchmark("toy", [row]).to_json())) == {
        "system": "toy",
        "rows": [
            {
                "name": "samples",
                "peer": "loop",
                "unit": "samples/s",
                "ours": 5.0,
                "theirs": 2.0,
                "ratio": 2.5,
                "spread": [2.0, 3.0],
                "goal": 1.4,
            }
        ],
    }
