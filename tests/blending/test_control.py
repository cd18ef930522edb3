from __future__ import annotations

import json

import numpy as np
import pytest

from noria.blending.pricing.control import Gains, PidState, pid_step
from noria.core.errors import DataError


def plant(output: np.ndarray) -> np.ndarray:
    """Exposure shares that two plans reach at an output: a saturating curve."""
    return 0.02 + 0.2 * output / (output + np.array([1.0, 2.0]))


def test_targets_are_reached_and_kept() -> None:
    gains, target = Gains(), np.array([0.06, 0.1])
    state = PidState.resting([0.0, 0.0], gains)
    for _ in range(400):
        state = pid_step(state, target, plant(state.output), gains)
    np.testing.assert_allclose(plant(state.output), target, rtol=1e-3)


def test_a_target_that_is_met_by_itself_has_no_boost() -> None:
    gains = Gains()
    state = PidState.resting([0.0, 0.0], gains)
    for _ in range(50):
        state = pid_step(state, [0.01, 0.01], plant(state.output), gains)
    assert state.output.tolist() == [0.0, 0.0]


def test_an_unreachable_target_does_not_wind_up() -> None:
    gains = Gains(high=1.0)
    state = PidState.resting([0.0], gains)
    for _ in range(1000):
        state = pid_step(state, [1.0], [0.1], gains)
    assert state.output.tolist() == [1.0]
    for _ in range(20):
        state = pid_step(state, [1.0], [2.0], gains)
    assert state.output[0] < 0.2  # it comes down at once: nothing had piled up


def test_the_output_never_moves_faster_than_its_rate_or_out_of_its_bounds() -> None:
    rng = np.random.default_rng(0)
    gains = Gains(derivative=0.5, high=2.0)
    state = PidState.resting(np.zeros(5), gains)
    for _ in range(200):
        after = pid_step(state, rng.random(5), rng.random(5), gains)
        assert (np.abs(after.output - state.output) <= gains.rate + 1e-12).all()
        assert ((after.output >= 0) & (after.output <= 2.0)).all()
        state = after


def test_nothing_moves_while_nothing_is_measured() -> None:
    gains = Gains()
    state = pid_step(PidState.resting([0.3, 0.3], gains), [1.0, 1.0], [0.5, 0.5], gains)
    after = pid_step(state, [1.0, 1.0], [np.nan, 0.5], gains)
    for name in ("integral", "error", "output"):
        assert getattr(after, name)[0] == getattr(state, name)[0]
    assert after.integral[1] > state.integral[1]


def test_plans_are_controlled_alone() -> None:
    gains = Gains()
    both = pid_step(PidState.resting([0.1, 0.7], gains), [0.1, 0.2], [0.05, 0.3], gains)
    alone = pid_step(PidState.resting([0.7], gains), [0.2], [0.3], gains)
    assert both.output[1] == alone.output[0]


def test_a_restart_goes_on_without_a_bump() -> None:
    gains = Gains()
    state = PidState.resting([0.1, 0.2], gains)
    assert pid_step(state, [1.0, 1.0], [1.0, 1.0], gains).output.tolist() == pytest.approx([0.1, 0.2])
    state = pid_step(state, [1.0, 1.0], [0.9, np.nan], gains)
    stored = PidState.from_json(json.loads(json.dumps(state.to_json())))
    a, b = (pid_step(one, [1.0, 1.0], [0.8, 0.9], gains) for one in (state, stored))
    assert a.output.tobytes() == b.output.tobytes()


@pytest.mark.parametrize("values", [{}, {"integral": [1], "error": [1], "output": []}, {"integral": ["x"]}])
def test_what_is_no_state_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(DataError):
        PidState.from_json(values)
