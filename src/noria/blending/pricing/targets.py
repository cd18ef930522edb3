"""From the targets of a plan file to goals over logged requests."""

from __future__ import annotations

from collections.abc import Sequence

from noria.blending.accounting.attribution import Requests
from noria.blending.boosting.scoring import PlanTables
from noria.blending.plans.plans import Plan
from noria.blending.pricing.solving import Goal, reached
from noria.core.errors import ConfigError

__all__ = ["free_value", "goal_of"]


def goal_of(bit: int, plan: Plan, places: int, free: float, daily: float | None) -> Goal:
    """The goal over some requests that a plan's target comes to.

    Args:
        bit: bit of the plan.
        plan: plan that has a target.
        places: exposures of all the requests.
        free: value of their lists without the plans that have targets.
        daily: exposures a day of all traffic, for targets a day.

    Raises:
        ConfigError: a target a day, and no `daily`.
    """
    target = plan.target
    assert target is not None
    if target.is_share:
        return Goal(bit, target.amount * (places if target.moves == "bias" else free), target.moves)
    if daily is None:
        raise ConfigError(
            f"plan {plan.id!r} has a target a day",
            where="--daily-exposures",
            mend="say how many exposures a day there are in all",
        )
    return Goal(bit, target.amount * places / daily, target.moves)


def free_value(requests: Requests, tables: PlanTables, size: int, bits: Sequence[int]) -> float:
    """Σ y of the lists with some plans at no boost."""
    weight, bias = tables.weight.copy(), tables.bias.copy()
    weight[list(bits)] = bias[list(bits)] = 0.0
    return reached(requests, tables.repriced(weight, bias), size, [])[1]
