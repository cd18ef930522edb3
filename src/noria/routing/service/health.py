"""Which backends are left out for a while because they failed again and again."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["Health"]


class Health:
    """Which backends are left out for now.

    Args:
        failures: in a row, until one is.
        rest: seconds, doubled each time.
        clock: seconds, rising.
    """

    def __init__(self, *, failures: int, rest: float, clock: Any = time.monotonic) -> None:
        self.failures, self.rest, self.clock = failures, rest, clock
        self._row: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def good(self, model: str) -> None:
        """It answered."""
        self._row.pop(model, None)
        self._until.pop(model, None)

    def bad(self, model: str) -> None:
        """It did not."""
        row = self._row[model] = self._row.get(model, 0) + 1
        if row >= self.failures:
            times = min(row - self.failures, 10)
            self._until[model] = self.clock() + min(600.0, self.rest * 2**times)

    def resting(self, model: str) -> bool:
        """Whether it is left out now."""
        return bool(self._until.get(model, 0.0) > self.clock())
