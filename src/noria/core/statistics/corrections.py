"""P values corrected for several tests and several looks."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None], *, looks: int = 1) -> list[float | None]:
    """P values that hold for all tests at once: the chance of any false finding stays below the level.

    Holm's step-down, max over the smaller ones of min(1, (m − rank) p); for several looks, times their number
    (Bonferroni). It holds whatever the tests have in common.

    Args:
        p_values: one a test; None is no test, stays None, and costs the others nothing.
        looks: how often the tests are made.
    """
    order = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    most = 0.0
    for place, (p, n) in enumerate(order):
        most = max(most, min(1.0, p * (len(order) - place) * looks))
        found[n] = most
    return found
