"""P values corrected for several tests and several looks."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None], *, looks: int = 1) -> list[float | None]:
    """Correct P values so that they hold for all tests at once: the chance of any false finding stays below the level.

    Holm's step-down: the running maximum, from the smallest P value, of min(1, (m − rank) p); for several looks, times
    their number (Bonferroni). It holds however the tests depend on each other.

    Args:
        p_values: P value of each test; None stands for no test, stays None, and costs the others nothing.
        looks: number of times that the tests are made.
    """
    order = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank) * looks))
        corrected[n] = largest
    return corrected
