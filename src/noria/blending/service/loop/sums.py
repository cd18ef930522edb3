"""Exposures of some time summed by version and set of plans, and each plan's part of them at any price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

__all__ = ["PlanSums", "Prices", "ShownSums", "Sums", "Totals", "totals"]


class ShownSums(NamedTuple):
    """Exposures of one snapshot that the same plans hit: their number and Σ value."""

    exposures: int
    value: float


Sums: TypeAlias = "dict[tuple[int, bool, int], ShownSums]"
"""Sums by version, whether it is the control bucket, and mask of the plans that hit."""
Prices: TypeAlias = "Mapping[str, tuple[int, float, float]]"
"""(bit, weight, bias) of each plan of a version."""


class PlanSums(NamedTuple):
    """A plan's exposures, their Σ value, and its spend on them."""

    exposures: int = 0
    value: float = 0.0
    spend: float = 0.0


@dataclass
class Totals:
    """Sums of some time.

    Attributes:
        plans: sums of each plan that had exposures.
        exposures, value: sums over all exposures.
        lost: exposures of versions that are gone.
    """

    plans: dict[str, PlanSums] = field(default_factory=dict)
    exposures: int = 0
    value: float = 0.0
    lost: int = 0

    def of(self, plan: str) -> PlanSums:
        """A plan's sums; zeros if it had no exposures."""
        return self.plans.get(plan, PlanSums())


def totals(shown: Sums, prices: Callable[[int], Prices | None], *, control: bool = False) -> Totals:
    """Exposures, Σ value and spend of each plan, read from sums alone.

    Args:
        shown: exposures by version, control and mask.
        prices: function from a version to its plans; None if the version is gone.
        control: count the control bucket, too.
    """
    result = Totals()
    for (version, is_control, mask), sums in shown.items():
        if is_control and not control:
            continue
        result.exposures += sums.exposures
        result.value += sums.value
        known = prices(version)
        if known is None:
            result.lost += sums.exposures
            continue
        for plan, (bit, weight, bias) in known.items():
            if mask >> bit & 1:
                exposures, value, spend = result.of(plan)
                added = weight * sums.value + bias * sums.exposures
                result.plans[plan] = PlanSums(exposures + sums.exposures, value + sums.value, spend + added)
    return result
