"""The controllers that move plans towards their targets, and what they remember from tick to tick."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.blending.accounting.cells import DAY
from noria.blending.alignment.alignment import Alignment
from noria.blending.plans.plans import Plan, Target
from noria.blending.pricing.control import PidState, pid_step
from noria.blending.service.config import NearlineConfig
from noria.blending.service.loop.sums import Totals
from noria.blending.snapshot import Setting, Snapshot
from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.records import read_json

STATE = ("integral", "error", "output")


@dataclass(frozen=True)
class Progress:
    """Progress of plans towards their targets.

    Attributes:
        recent: sums since the last tick, without the control bucket.
        spent: sums of today, without the control bucket.
        today: sums of today, with the control bucket.
        share: share of the day's exposures that is over.
        now: seconds since 1970.
        ticks: time since the last tick, in ticks.
    """

    recent: Totals
    spent: Totals
    today: Totals
    share: float
    now: float
    ticks: float


class Controllers:
    """The controllers of all plans that have a target.

    Args:
        path: file of what they remember.
        config: settings of the loop.
        count: counts an event by its name.
    """

    def __init__(self, path: Path, config: NearlineConfig, count: Callable[[str], None]) -> None:
        self.path = path
        self.config = config
        self.gains = config.gains
        self._count = count

    def settings(self, snapshot: Snapshot, alignment: Alignment, progress: Progress) -> dict[str, Setting]:
        """Settings that controllers and budgets make of the plans.

        Raises:
            RunError: the disk refuses; nothing is to be acted on then.
        """
        state = self._step(snapshot, alignment, progress)
        settings = {}
        for plan in snapshot.plans.plans:
            weight, bias = plan.weight, plan.bias
            budget = plan.budget
            resting = budget is not None and progress.spent.of(plan.id).spend >= budget.spend_per_day
            if plan.target is not None:
                output = state[plan.id]["output"]
                if plan.target.moves == "bias":
                    bias = output * alignment.mean_value
                else:
                    weight = output
            if resting or plan.target is not None:
                settings[plan.id] = Setting(weight, bias, resting)
        return settings

    def remembered(self) -> dict[str, dict[str, Any]]:
        """State by plan; of a file that is damaged, nothing: controllers start again from what serves."""
        try:
            kept = read_json(self.path) if self.path.exists() else {}
            for state in kept.values():
                PidState.from_json({name: [state[name]] for name in STATE})
                if not (state["moves"] in ("bias", "weight") and state["unit"] > 0):
                    raise ValueError("no controller's state")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
            self._count("controller states lost")
            return {}
        return dict(kept)

    def _step(
        self, snapshot: Snapshot, alignment: Alignment, progress: Progress
    ) -> dict[str, dict[str, Any]]:
        """One step of every controller; what it remembers is on the disk before it is acted on."""
        kept = self.remembered()
        active = dict(zip(snapshot.plans.ids, snapshot.plans.active(progress.now), strict=True))
        few = progress.recent.exposures < self.config.least
        state = {}
        for plan in snapshot.plans.plans:
            if plan.target is None:
                continue
            before = self._before(kept.get(plan.id), plan, plan.target, snapshot, alignment)
            goal, reached = _distance(plan.id, plan.target, progress)
            if few or not active[plan.id] or snapshot.resting(plan.id):
                reached = math.nan  # it stays as it is
            stands = PidState.from_json({name: [before[name]] for name in STATE})
            after = pid_step(stands, [goal], [reached], self.gains, ticks=progress.ticks).to_json()
            state[plan.id] = {name: after[name][0] for name in STATE} | {
                "moves": plan.target.moves,
                "unit": before["unit"],
                "target": goal,
                "reached": None if math.isnan(reached) else reached,
            }
        write_atomic(self.path, json.dumps(state))
        return state

    def _before(
        self,
        kept: dict[str, Any] | None,
        plan: Plan,
        target: Target,
        snapshot: Snapshot,
        alignment: Alignment,
    ) -> dict[str, Any]:
        """State of a controller in today's unit; a new one begins where its plan stands."""
        unit = alignment.mean_value if target.moves == "bias" else 1.0
        if kept is None or kept["moves"] != target.moves:
            weight, bias = snapshot.weight_and_bias(plan.id)
            output = bias / unit if target.moves == "bias" else weight
            resting = PidState.resting([output], self.gains).to_json()
            kept = {name: values[0] for name, values in resting.items()} | {"unit": unit}
        # The mean value is the unit of a bias: when it moves, the bias stays.
        factor = kept["unit"] / unit
        return kept | {name: factor * kept[name] for name in ("integral", "output")} | {"unit": unit}


def _distance(plan: str, target: Target, progress: Progress) -> tuple[float, float]:
    """A plan's target and how far it is, in one unit; NaN where nothing can be said."""
    by_exposures = target.moves == "bias"
    if target.is_share:
        sums, whole = progress.recent.of(plan), progress.recent
        total = whole.exposures if by_exposures else whole.value
        part = sums.exposures if by_exposures else sums.value
        return target.amount, part / total if total > 0 else math.nan
    sums = progress.today.of(plan)
    reached = float(sums.exposures if by_exposures else sums.value)
    return target.amount * progress.share, reached if progress.share >= 0.01 else math.nan


def day_share(hours: Mapping[int, int], now: float) -> float:
    """The share of a day's exposures that is over by now (UTC), along the traffic of earlier whole days; along the
    clock where there is none.

    Args:
        hours: exposures by hour since 1970.
        now: seconds since 1970.
    """
    day, rest = divmod(now, DAY)
    hour, part = divmod(rest, 3600)
    by_hour = np.zeros(24)
    for number, count in hours.items():
        if number // 24 != int(day):
            by_hour[number % 24] += count
    if not by_hour.sum():
        return rest / DAY
    before = by_hour[: int(hour)].sum() + by_hour[int(hour)] * part / 3600
    return float(before / by_hour.sum())
