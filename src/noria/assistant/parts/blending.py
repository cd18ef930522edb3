"""The order of results by a blending snapshot: each item's value, what every plan adds to it, and the account of both.

An artefact of the kind `plans` is a snapshot as `noria blending fit` writes it. An item takes part with the `score` and
`source` of its search; its `features`, price and availability are what plans may be targeted on. An item that cannot be
valued keeps its place behind those that can, and has no account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.assistant.parts.protocol import RankContext, Ranking
from noria.core.errors import DataError, needing

with needing("blending"):
    from noria.blending.blender import Blender, RankedList
    from noria.blending.columns import Column, NameColumn, as_column
    from noria.blending.snapshot import Snapshot

FILE = "snapshot.json"
_OWN = ("price", "currency", "available")
"""Fields of a card that plans may be targeted on, beside its features."""


class BlendingRanker:
    """Ranks the items of a result with one snapshot.

    Args:
        snapshot: what a ranking depends on.
        artefact: digest of its artefact.
    """

    name = "blending"

    def __init__(self, snapshot: Snapshot, artefact: str = "") -> None:
        self.artefact = artefact
        self.blender = Blender(snapshot)

    def rank(self, items: Sequence[Mapping[str, Any]], context: RankContext) -> Ranking | None:
        """Do what :meth:`Ranker.rank` says; None where no item has a score and a source."""
        known = [row for row, item in enumerate(items) if "score" in item and "source" in item]
        if not known:
            return None
        ignored: list[str] = []
        columns: dict[str, Any] = {
            "item": known,
            "score": [items[row]["score"] for row in known],
            "source": [items[row]["source"] for row in known],
        }
        versions = {"version"} if any("version" in (one.get("features") or {}) for one in items) else set()
        for name in {*self.blender.asked, *versions} - columns.keys():
            column = self._column(name, [items[row] for row in known], context.at)
            if column is None:
                ignored.append(name)
            else:
                columns[name] = column
        ranked = self.blender.rank(columns, len(known), scene=context.tool, at=context.at)
        order = [known[int(row)] for row in ranked.order]
        rest = [row for row in range(len(items)) if row not in set(order)]
        return Ranking(
            (*order, *rest),
            tuple(float(score) for score in ranked.score),
            tuple(_account(ranked, place) for place in range(len(ranked))),
            {
                "snapshot": ranked.snapshot, "version": ranked.version, "slot_cost": ranked.slot_cost,
                "dropped": dict(ranked.dropped), "without_score": len(items) - len(known),
                "ignored": sorted(ignored), "absent": list(ranked.absent),
            },
        )  # fmt: skip

    def _column(self, name: str, items: Sequence[Mapping[str, Any]], at: float) -> Column | None:
        """A column of what plans are targeted on; None where it is of another kind than they take it for."""
        fields = [one.get("features") or {} for one in items]
        values = [
            given.get(name, one.get(name) if name in _OWN else None)
            for given, one in zip(fields, items, strict=True)
        ]
        try:
            column = as_column(name, values)
            self.blender.masks({name: column}, len(items), at=at)
        except DataError:
            return None
        return column if name != "version" or isinstance(column, NameColumn) else None


def _account(ranked: RankedList, place: int) -> tuple[tuple[str, float], ...]:
    """The account of an item: its value, what each plan that hit it added, and what the guards took."""
    told = ranked.explain(place)
    terms = [("value", told["value"]), *told["plans"].items()]
    if told["guard"]:
        terms.append(("guard", told["guard"]))
    return tuple((str(name), float(amount)) for name, amount in terms)


def open_ranker(folder: Path, digest: str) -> BlendingRanker:
    """The ranker of an artefact.

    Raises:
        DataError: the snapshot is damaged, or of another version.
    """
    return BlendingRanker(Snapshot.load(folder / FILE), digest)


def write_ranker(source: Path, folder: Path) -> None:
    """Write the artefact of a snapshot into a folder that is there and empty.

    Args:
        source: file of the snapshot, or the folder that `noria blending fit` wrote.
        folder: folder of the artefact.

    Raises:
        DataError: there is no snapshot, or it is damaged.
    """
    Snapshot.load(source / FILE if source.is_dir() else source).save(folder / FILE)
