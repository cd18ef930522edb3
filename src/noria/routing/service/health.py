"""Which backends are left out for a while because they failed again and again."""

from __future__ import annotations

import time
from typing import Any

LONGEST_REST = 600.0
"""Most seconds that a backend is left out at a time."""


class Health:
    """The backends that are left out for now.

    Args:
        failures: number of failures in a row until a backend is left out.
        rest: seconds that it is left out, doubled each time.
        clock: rising seconds.
    """

    def __init__(self, *, failures: int, rest: float, clock: Any = time.monotonic) -> None:
        self.failures, self.rest, self.clock = failures, rest, clock
        self._row: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def good(self, model: str) -> None:
        """Note that a model answered."""
        self._row.pop(model, None)
        self._until.pop(model, None)

    def bad(self, model: str, *, wait: float = 0.0) -> None:
        """Note that a model did not answer, and for how many seconds it asked not to be asked again."""
        row = self._row[model] = self._row.get(model, 0) + 1
        if row >= self.failures:
            wait = max(wait, self.rest * 2 ** min(row - self.failures, 10))
        if wait:
            self._until[model] = self.clock() + min(LONGEST_REST, wait)

    def resting(self, model: str) -> bool:
        """Whether a model is left out now."""
        return bool(self._until.get(model, 0.0) > self.clock())
