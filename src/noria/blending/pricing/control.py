"""Feedback control of plans that have a target: one PID controller a plan, all in one step of arrays.

    e = (T − T̂) / max(T, ε)      u = K_p e + K_i I + K_d Δe      b = clip(u ȳ, b_min, b_max)      I ← I + e Δ

The integral is projected dual ascent on the plan's shadow price. It goes no further than the output's bound or rate
limit (no wind-up), and everything stands still while nothing was measured. The source names the controller, not its
constants; they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from noria.core.config import Config
from noria.core.errors import DataError

__all__ = ["Gains", "PidState", "pid_step"]

_LEAST_TARGET = 1e-12


class Gains(Config):
    """Constants of the controllers; outputs and bounds in units of the mean value ȳ (of 1, where weights are moved)."""

    proportional: float = Field(0.2, ge=0, description="K_p, the proportional gain.")
    integral: float = Field(0.05, ge=0, description="K_i, the integral gain a tick.")
    derivative: float = Field(0.0, ge=0, description="K_d, the derivative gain in ticks.")
    low: float = Field(0.0, description="Lower bound of the output.")
    high: float = Field(10.0, description="Upper bound of the output.")
    rate: float = Field(0.1, gt=0, description="Most that the output may move in a tick.")

    @model_validator(mode="after")
    def _ordered(self) -> Gains:
        if self.low >= self.high:
            raise ValueError(f"the lower bound {self.low} is not below the upper one, {self.high}")
        return self


@dataclass(frozen=True, eq=False)
class PidState:
    """State of controllers: [plans] integrals (in ticks), last errors (NaN before the first), and outputs."""

    integral: NDArray[np.float64]
    error: NDArray[np.float64]
    output: NDArray[np.float64]

    @classmethod
    def resting(cls, output: ArrayLike, gains: Gains) -> PidState:
        """Controllers that would keep these outputs if the error were zero: a start without a bump.

        Args:
            output: [plans] in units of ȳ.
            gains: constants of the controllers.
        """
        now = np.array(output, np.float64)
        integral = now / gains.integral if gains.integral else np.zeros_like(now)
        return cls(integral, np.full_like(now, np.nan), now)

    def to_json(self) -> dict[str, Any]:
        """{integral, error, output}, with null for NaN."""
        return {
            name: [None if np.isnan(v) else float(v) for v in values] for name, values in vars(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PidState:
        """Read what `to_json` gave.

        Raises:
            DataError: something else.
        """
        try:
            arrays = [
                np.array([np.nan if v is None else float(v) for v in values[name]])
                for name in ("integral", "error", "output")
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no controller's state ({error})") from None
        if len({len(array) for array in arrays}) != 1 or not np.isfinite(arrays[0] + arrays[2]).all():
            raise DataError("a controller's state that does not fit together")
        return cls(*arrays)


def pid_step(
    state: PidState, target: ArrayLike, reached: ArrayLike, gains: Gains, *, ticks: float = 1.0
) -> PidState:
    """One tick of every controller.

    Args:
        state: state before the tick.
        target: [plans] T > 0, in any unit: what should have been reached by now along the traffic's own curve.
        reached: [plans] T̂ in the same unit; NaN where nothing was measured, and then the plan's state stands still.
        gains: constants of the controllers.
        ticks: time since the last step, in ticks.

    Returns:
        The state after it; `output` times ȳ is the plan's bias.
    """
    goal, got = np.asarray(target, np.float64), np.asarray(reached, np.float64)
    error = (goal - got) / np.maximum(goal, _LEAST_TARGET)
    known = np.isfinite(error)
    error = np.where(known, error, 0.0)
    change = np.where(np.isnan(state.error), 0.0, error - state.error) / ticks
    low = np.maximum(gains.low, state.output - gains.rate * ticks)
    high = np.maximum(low, np.minimum(gains.high, state.output + gains.rate * ticks))
    rest = gains.proportional * error + gains.derivative * change
    integral = state.integral + error * ticks
    if gains.integral:  # it goes as far as the bound, but no further in the error's direction
        most = np.maximum(state.integral, (high - rest) / gains.integral)
        least = np.minimum(state.integral, (low - rest) / gains.integral)
        integral = np.clip(integral, least, most)
    moved = np.clip(rest + gains.integral * integral, low, high)
    return PidState(integral, np.where(known, error, state.error), np.where(known, moved, state.output))
