"""Hard rules on places, kept after sorting: gaps, runs, how many, not before which place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "place"]

_NEVER = -(1 << 62)  # further back than any gap


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule about some candidates.

    Attributes:
        about: [candidates] whether the rule is about each.
        gap: at least so many others between two of them.
        run: at most so many next to each other.
        at_most: so many in a list.
        first: not before this place, from 1.
    """

    about: NDArray[np.bool_]
    gap: int = 0
    at_most: int | None = None
    first: int = 1
    run: int | None = None


def place(order: NDArray[np.int64], rules: Sequence[Rule], size: int) -> NDArray[np.int64]:
    """Fill places from the top, each with the best candidate left that no rule forbids there.

    Args:
        order: [candidates] rows of all of them, the best first.
        rules: rules on places.
        size: number of places K of a list.

    Returns:
        [at most K] indices into `order`. A place that every candidate left is forbidden at ends the list: a hard rule
        is not bent.
    """
    about = np.zeros(len(order), np.int64)  # which rules each is under; those of one kind wait in one queue
    for number, rule in enumerate(rules):
        about |= rule.about[order].astype(np.int64) << number
    queues = {int(kind): np.flatnonzero(about == kind).tolist() for kind in np.unique(about)}
    heads = dict.fromkeys(queues, 0)
    last, count, run = [_NEVER] * len(rules), [0] * len(rules), [0] * len(rules)
    chosen: list[int] = []

    def allowed(number: int, at: int) -> bool:
        rule = rules[number]
        return not (
            at + 1 < rule.first
            or (rule.gap > 0 and at - last[number] <= rule.gap)
            or (rule.at_most is not None and count[number] >= rule.at_most)
            or (rule.run is not None and run[number] >= rule.run)
        )

    while len(chosen) < size:
        at = len(chosen)
        free = sum(1 << number for number in range(len(rules)) if allowed(number, at))
        waiting = [
            (queue[heads[kind]], kind)
            for kind, queue in queues.items()
            if kind & ~free == 0 and heads[kind] < len(queue)
        ]
        if not waiting:
            break
        candidate, kind = min(waiting)
        heads[kind] += 1
        chosen.append(candidate)
        for number in range(len(rules)):
            if kind >> number & 1:
                last[number], count[number], run[number] = at, count[number] + 1, run[number] + 1
            else:
                run[number] = 0
    return np.array(chosen, np.int64)
