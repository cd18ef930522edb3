"""Hard rules on places, kept after sorting: gaps, how many, not before which place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "place"]


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule about some candidates.

    Attributes:
        about: [candidates] which.
        gap: at least so many others between two of them.
        at_most: so many in a list.
        first: not before this place, from 1.
    """

    about: NDArray[np.bool_]
    gap: int = 0
    at_most: int | None = None
    first: int = 1


def place(order: NDArray[np.int64], rules: Sequence[Rule], size: int) -> NDArray[np.int64]:
    """Fill places from the top, each with the best candidate left that no rule forbids there.

    Args:
        order: [candidates] rows of all of them, the best first.
        rules: on places.
        size: K.

    Returns:
        [at most K] indices into `order`. A place that every candidate left is forbidden at ends the list: a hard rule
        is not bent.
    """
    left = list(range(len(order)))
    about = [rule.about[order].tolist() for rule in rules]
    last = [-(10**9)] * len(rules)
    count = [0] * len(rules)
    chosen: list[int] = []

    def allowed(candidate: int, at: int) -> bool:
        for number, rule in enumerate(rules):
            if about[number][candidate] and (
                at + 1 < rule.first
                or at - last[number] <= rule.gap
                or (rule.at_most is not None and count[number] >= rule.at_most)
            ):
                return False
        return True

    while len(chosen) < size:
        at = len(chosen)
        found = next((n for n, candidate in enumerate(left) if allowed(candidate, at)), None)
        if found is None:
            break
        candidate = left.pop(found)
        chosen.append(candidate)
        for number in range(len(rules)):
            if about[number][candidate]:
                last[number] = at
                count[number] += 1
    return np.array(chosen, np.int64)
