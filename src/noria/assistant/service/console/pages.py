"""Pages of the gateway itself: what serves now, every trace with why it was answered so, versions, and data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.assistant.folder import TURNS_FOLDER
from noria.assistant.service.bundles import CHAMPION, SWITCHES, Bundles
from noria.assistant.service.console.experiments import experiments_of, names_of
from noria.assistant.service.console.messages import message_of, messages_of
from noria.assistant.service.operations import Operations
from noria.core.errors import DataError, MissingExtra, NoriaError
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.scheduling.schedule import SWITCH
from noria.core.records import json_object
from noria.core.service.serving import Request
from noria.core.traces.datasets import SPLITS
from noria.core.traces.index.listing import feedback_counts, newest_traces, seen_lately
from noria.core.traces.index.scores import grounding_verdicts
from noria.core.traces.store import TraceStore
from noria.core.versions.artefacts import Artefact

LISTED = 50
TURNS = 10
"""Turns whose data are shown."""
DAY = 86_400


class GatewayPages:
    """Contents of the gateway's pages in the console.

    Args:
        store: traces.
        bundles: bundles, pointers, experiments and switches.
        operations: what is known of the tools.
    """

    def __init__(self, store: TraceStore, bundles: Bundles, operations: Operations) -> None:
        self.store, self.bundles, self.operations = store, bundles, operations

    def now(self, request: Request) -> Mapping[str, Any]:
        """What serves, how it goes, and what can be switched off."""
        lately = seen_lately(self.store.index, time.time_ns() - DAY * 10**9)
        move = self.bundles.pointers.present(CHAMPION)
        names = names_of(self.bundles)
        experiments = [one for one in experiments_of(self.bundles) if one["stage"] in OPEN]
        mean, spread = mean_and_spread(lately.scores)
        return {
            "lately": lately,
            "score": mean,
            "spread": spread,
            "move": move,
            "name": names.get(move.bundle) if move else None,
            "route": self.bundles.route_of(move.bundle) if move else None,
            "experiments": experiments,
            "switches": [self._switch(name) for name in SWITCHES],
            "unread": self.store.index.unread,
            "broken": self.store.journal.broken,
            "waiting": self.store.journal.waiting,
            "feedback": feedback_counts(self.store.index),
            "tools": self.operations.tools()["data"],
            "off": self.operations.off(),
            "grounding": self._grounding(),
        }

    def _grounding(self) -> Sequence[Any] | str:
        """Shares of the last week's answers that rest on their pictures, by skill; a text where they are not known."""
        said = grounding_verdicts(self.store.index, time.time_ns() - 7 * DAY * 10**9)
        if not said:
            return ()
        try:
            from noria.assistant.parts.grounding import by_skill
        except MissingExtra as error:
            return str(error)
        return by_skill(said)

    def traces(self, request: Request) -> Mapping[str, Any]:
        """The newest traces."""
        given = {
            name: request.query_params.get(name) or None for name in ("before", "status", "bundle", "user")
        }
        rows = newest_traces(
            self.store.index,
            limit=LISTED,
            before=given["before"],
            status=given["status"],
            bundle=given["bundle"],
            user=given["user"],
        )
        return {
            "rows": rows,
            "given": given,
            "names": names_of(self.bundles),
            "more": rows[-1].id if len(rows) == LISTED else None,
        }

    def trace(self, request: Request) -> Mapping[str, Any]:
        """One trace, and why it was answered so."""
        view = self.store.read(request.path_params["trace"])
        trace = view.trace
        length = max(1, trace.ended - trace.began)
        spans = [
            {
                "span": span,
                "left": 100 * (span.began - trace.began) / length,
                "width": max(0.5, 100 * (span.ended - span.began) / length),
                "seconds": (span.ended - span.began) / 1e9,
                "messages": messages_of(span.input),
                "answer": message_of(span.output),
                "pictures": span.blobs,
            }
            for span in trace.spans
        ]
        try:
            one = self.bundles.route_of(trace.bundle)
        except DataError:
            one = None
        return {
            "view": view,
            "trace": trace,
            "spans": spans,
            "route": one,
            "name": names_of(self.bundles).get(trace.bundle),
            "bundles": [
                (bundle, name) for bundle, name in names_of(self.bundles).items() if bundle != trace.bundle
            ],
        }

    def lineage(self, request: Request) -> Mapping[str, Any]:
        """Versions, where each is from, and every move of the champion."""
        moves = self.bundles.pointers.history(CHAMPION)[::-1]
        tree = descent(self.bundles.artefacts.artefacts())[:100]
        return {
            "moves": [
                {"move": one, "receipt": json.dumps(one.receipt, indent=1) if one.receipt else ""}
                for one in moves[:100]
            ],
            "artefacts": [one for one, _ in tree],
            "depths": {one.digest: depth for one, depth in tree},
            "names": names_of(self.bundles),
            "version": moves[0].version if moves else 0,
        }

    def data(self, request: Request) -> Mapping[str, Any]:
        """What can be learnt from, and erasing a user."""
        lately = seen_lately(self.store.index, 0, most=10_000)
        receipts = sorted((self.store.folder / TURNS_FOLDER).glob("*/receipt.json"), reverse=True)
        return {
            "count": self.store.index.count(),
            "lately": lately,
            "feedback": feedback_counts(self.store.index),
            "splits": [split for split in SPLITS if split != "final"],
            "turns": [_frozen(path) for path in receipts[:TURNS]],
            "turn_count": len(receipts),
        }

    def _switch(self, name: str) -> dict[str, Any]:
        document = self.bundles.control.read(SWITCH, name)
        return {"name": name, "on": self.bundles.is_on(name), "lets": SWITCHES[name],
                "by": document.by if document else "", "at": document.at if document else None}  # fmt: skip


def mean_and_spread(scores: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean of scores and half the width of its 95 % interval; None where there are too few of them."""
    if not scores:
        return None, None
    mean = sum(scores) / len(scores)
    if len(scores) < 2:
        return mean, None
    variance = sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return mean, 1.96 * math.sqrt(variance / len(scores))


def descent(artefacts: Sequence[Artefact]) -> list[tuple[Artefact, int]]:
    """Artefacts below what they were made from, the newest family first, each with its depth."""
    by_digest = {one.digest: one for one in artefacts}
    below: dict[str, list[Artefact]] = {}
    first: list[Artefact] = []
    for one in artefacts:
        parents = [parent for parent in one.lineage.parents if parent in by_digest and parent != one.digest]
        (below.setdefault(parents[0], []) if parents else first).append(one)
    placed: list[tuple[Artefact, int]] = []
    waiting = [(one, 0) for one in first]  # the newest last, which is taken first
    while waiting:
        one, depth = waiting.pop()
        placed.append((one, depth))
        waiting += [(child, depth + 1) for child in below.get(one.digest, [])]
    return placed


def _frozen(path: Path) -> dict[str, Any]:
    """What a turn froze to learn from, by its receipt; a receipt that cannot be read is said to be one."""
    try:
        receipt = json_object(path, "a receipt")
        return {"number": int(path.parent.name), "outcome": receipt["outcome"], "learner": receipt["turn"]["learner"],
                "counts": (receipt["data"] or {}).get("counts")}  # fmt: skip
    except (NoriaError, LookupError, TypeError, ValueError):
        return {"number": int(path.parent.name), "outcome": "its receipt cannot be read", "counts": None}
