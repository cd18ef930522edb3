"""The circuit breaker: a run whose judges or editor fail too often stops, before it learns from what is left."""

from __future__ import annotations

from collections import deque

from noria.core.errors import NoriaError


class CoverageError(NoriaError):
    """Too many verdicts are invalid, or too many renders have no picture: a failed check, hence exit code 1."""

    exit_code = 1


class Breaker:
    """Counts the newest events, and raises when too large a share of them is invalid.

    Args:
        limit: largest share of invalid events.
        window: newest events that count.
        least: events before which it does not judge.
        what: name of the events in the error.
    """

    def __init__(
        self, limit: float = 0.05, *, window: int = 1000, least: int = 200, what: str = "verdicts"
    ) -> None:
        self.limit, self.window, self.least, self.what = limit, window, least, what
        self._events: deque[tuple[int, int]] = deque()
        self.valid = self.invalid = 0
        self.all_valid = self.all_invalid = 0

    @property
    def share(self) -> float | None:
        """Share of invalid events among the newest; None where there is none."""
        total = self.valid + self.invalid
        return self.invalid / total if total else None

    @property
    def coverage(self) -> float | None:
        """Share of valid events among all that were ever counted; None where there is none."""
        total = self.all_valid + self.all_invalid
        return self.all_valid / total if total else None

    def add(self, valid: int, invalid: int) -> None:
        """Count valid and invalid events.

        Raises:
            CoverageError: too large a share of the newest is invalid.
        """
        self._events.append((valid, invalid))
        self.valid, self.invalid = self.valid + valid, self.invalid + invalid
        self.all_valid, self.all_invalid = self.all_valid + valid, self.all_invalid + invalid
        while len(self._events) > 1 and self.valid + self.invalid - sum(self._events[0]) >= self.window:
            old = self._events.popleft()
            self.valid, self.invalid = self.valid - old[0], self.invalid - old[1]
        total = self.valid + self.invalid
        if total >= self.least and self.invalid > self.limit * total:
            raise CoverageError(
                f"{self.invalid} of the last {total} {self.what} are invalid, more than {self.limit:.0%}",
                where="coverage",
                mend="look at the reasons in rollouts.jsonl, mend the server, and resume",
            )
