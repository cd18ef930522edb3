"""The gate of candidates that are parts of the pipeline: the same requests through both bundles, judged blind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from noria.assistant.learners.around import Through, parts_of, through
from noria.core.errors import ConfigError
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent
from noria.core.learning.routes.backends import read_route
from noria.core.learning.routes.replay import Replay, Request, Scored
from noria.core.learning.routes.route import KIND, Route


@dataclass(frozen=True)
class Sides:
    """Requests with the judged answers of both bundles, in the same order.

    Attributes:
        requests: the requests.
        old: answers of the bundle that serves.
        new: answers of the bundle with the candidate.
        notes: JSON values for the receipt.
    """

    requests: Sequence[Request]
    old: Sequence[Scored]
    new: Sequence[Scored]
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class BundleReplay:
    """Compares the bundle that serves with the same one and a candidate in it.

    A request that the candidate leaves as it was is the same one to a model: it is asked once, and its gain is 0. So
    where a candidate has to be better the requests that it changes are replayed first, and others only where these are
    fewer than may be replayed: which they are follows from the requests alone, and a gain has the same sign on them as
    on all. Where it has to be not worse by a margin, which holds for all requests, they are drawn as they come.

    Attributes:
        replay: answers requests and judges the answers.
    """

    replay: Replay

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {**self.replay.settings(), "sides": "bundles"}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says."""
        sides = await self.sides(rows, parent, candidate, run)
        return self.replay.comparison(sides.requests, sides.old, sides.new, sides.notes)

    async def sides(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Sides:
        """Answer the requests of a split by both bundles, and judge the answers.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        route, backends = route_of(parent), list(self.replay.backends)
        every = self.replay.config.model_copy(update={"most_items": max(1, len(rows))})
        found, lost = replace(self.replay, config=every).requests(rows)
        passing = [through(parts_of(parent, backends, one)) for one in (None, candidate)]
        changed = await asyncio.to_thread(_changed, found, route, passing)
        better = candidate.gate in (None, "improvement")
        requests = self.replay.drawn(found, (lambda one: one.trace in changed) if better else None)
        old, new = [
            await replace(self.replay, through=one).scores(route, requests, run.spending) for one in passing
        ]
        notes = {
            "judge of the learner": candidate.notes.get("judge"),
            "requests that cannot be sent again": lost,
            "requests that can": len(found),
            "of them changed": len(changed),
            "requests that are changed and replayed": sum(one.trace in changed for one in requests),
            "requests with another score": sum(
                abs(a.score - b.score) > 0 for a, b in zip(old, new, strict=True)
            ),
        }
        return Sides(requests, old, new, notes)


def _changed(requests: Sequence[Request], route: Route, passing: Sequence[Through]) -> set[str]:
    """Traces of the requests of which the two sides make different ones."""
    sides = [[one(route, request.messages) for request in requests] for one in passing]
    return {one.trace for one, old, new in zip(requests, *sides, strict=True) if old != new}


def route_of(parent: Parent) -> Route:
    """The route of a bundle.

    Raises:
        ConfigError: it has none.
    """
    folder = parent.folder(KIND)
    if folder is None:
        raise ConfigError("the bundle has no route", where=f"bundle {parent.bundle.digest[:12]}")
    return read_route(folder)
