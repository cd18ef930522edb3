"""Requests served lately, kept whole to explain their lists and to rank them again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.blending.blender import Blender, RankedList
from noria.blending.columns import Candidates
from noria.blending.service.wire.answers import explanation

MOST_ROWS = 1_000_000
"""Candidates kept in memory."""


@dataclass(frozen=True, eq=False)
class ServedRequest:
    """A request as it was served."""

    request: str
    at: float
    size: int
    control: bool
    candidates: Candidates
    blender: Blender

    def to_json(self) -> dict[str, Any]:
        """A short record of the request."""
        return {
            "request": self.request,
            "at": self.at,
            "scene": self.candidates.scene,
            "candidates": len(self.candidates),
            "control": self.control,
            "version": self.blender.snapshot.version,
        }

    def ranked(self, blender: Blender | None = None) -> RankedList:
        """The list as it was, or as another blender would rank it."""
        mask = np.zeros(len(self.candidates), np.uint64) if self.control else None
        return (blender or self.blender).rank(self.candidates, self.size, at=self.at, mask=mask)

    def explained(self) -> dict[str, Any]:
        """The list with the account of every item, ranked again by the snapshot that ranked it."""
        ranked = self.ranked()
        item = self.candidates.item
        return self.to_json() | {
            "snapshot": ranked.snapshot,
            "dropped": dict(ranked.dropped),
            "slot_cost": ranked.slot_cost,
            "items": [
                {"item": item[ranked.order[place]]}
                | explanation(self.candidates, ranked, self.blender, place)
                for place in range(len(ranked))
            ],
        }


class Recent:
    """The newest served requests, within a number and a bound of memory."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._served: deque[ServedRequest] = deque()
        self._rows = 0

    def add(self, served: ServedRequest) -> None:
        """Keep one, and let the oldest go."""
        if not self.most:
            return
        self._served.append(served)
        self._rows += len(served.candidates)
        while len(self._served) > self.most or (self._rows > MOST_ROWS and len(self._served) > 1):
            self._rows -= len(self._served.popleft().candidates)

    def all(self) -> list[ServedRequest]:
        """The newest first."""
        return list(reversed(self._served))

    def find(self, request: str) -> ServedRequest | None:
        """The newest with that id."""
        return next((one for one in self.all() if one.request == request), None)
