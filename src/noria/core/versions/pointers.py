"""Pointers to what serves: which bundle is the champion, who moved it, on what receipt, and the way back.

A pointer moves in one step, only from where its mover saw it (`based_on`), and every move stays on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noria.core.errors import DataError
from noria.core.storage.control import Control, Document
from noria.core.versions.artefacts import ArtefactStore, Bundle

KIND = "pointer"


@dataclass(frozen=True)
class Move:
    """One move of a pointer.

    Attributes:
        channel: name of the pointer, such as `champion` or `challenger`.
        version: number of the move, from 1.
        bundle: content hash of the bundle that it points to.
        action: why it moved: `promote`, `roll back`, or `begin`.
        by: who moved it.
        at: second since 1970.
        reason: words of the mover.
        receipt: the gate's receipt, as JSON values; None for a move by hand.
    """

    channel: str
    version: int
    bundle: str
    action: str
    by: str
    at: float
    reason: str = ""
    receipt: Mapping[str, Any] | None = None


class Pointers:
    """The pointers of a service.

    Args:
        control: where they are kept.
        store: bundles that they may point to.
    """

    def __init__(self, control: Control, store: ArtefactStore) -> None:
        self._control = control
        self._store = store

    def present(self, channel: str) -> Move | None:
        """Where a pointer stands; None where it was never set."""
        document = self._control.read(KIND, channel)
        return None if document is None else _move(document)

    def history(self, channel: str) -> list[Move]:
        """Every move of a pointer, oldest first."""
        return [_move(document) for document in self._control.history(KIND, channel)]

    def serving(self, channel: str) -> Bundle:
        """The bundle that a pointer points to.

        Raises:
            DataError: the pointer was never set, or the bundle is damaged.
        """
        move = self.present(channel)
        if move is None:
            raise DataError("it points to nothing yet", where=channel, mend="promote a bundle")
        return self._store.load_bundle(move.bundle)

    def promote(
        self,
        channel: str,
        bundle: str,
        *,
        based_on: int,
        by: str,
        reason: str = "",
        receipt: Mapping[str, Any] | None = None,
    ) -> Move:
        """Point a channel to a bundle, whose files are all verified first.

        Args:
            channel: name of the pointer.
            bundle: content hash of the bundle.
            based_on: version of the move that the mover has seen; 0 where there was none.
            by: who moves it.
            reason: why, in words.
            receipt: the gate's receipt, as JSON values.

        Raises:
            StaleVersion: somebody moved it meanwhile.
            DataError: the bundle is not there, or one of its artefacts is damaged.
        """
        self._check(bundle)
        return self._move(channel, bundle, "promote", based_on, by, reason, receipt)

    def roll_back(self, channel: str, *, based_on: int, by: str, reason: str = "") -> Move:
        """Point a channel to the bundle before the one it points to; a second roll-back goes one further.

        Raises:
            StaleVersion: somebody moved it meanwhile.
            DataError: there is nothing before it, or that bundle is damaged.
        """
        stack: list[str] = []
        for move in self.history(channel):
            if move.action == "roll back":
                stack = stack[:-1]
            elif not stack or stack[-1] != move.bundle:
                stack.append(move.bundle)
        if len(stack) < 2:
            raise DataError("there is nothing to go back to", where=channel)
        self._check(stack[-2])
        return self._move(channel, stack[-2], "roll back", based_on, by, reason, None)

    def _check(self, bundle: str) -> None:
        """Keep a bundle from being removed now, and verify its files."""
        loaded = self._store.load_bundle(bundle)
        self._store.touch(loaded)
        for digest in loaded.artefacts.values():
            self._store.verify(self._store.artefact(digest))

    def _move(
        self,
        channel: str,
        bundle: str,
        action: str,
        based_on: int,
        by: str,
        reason: str,
        receipt: Mapping[str, Any] | None,
    ) -> Move:
        value = {"bundle": bundle, "action": action, "reason": reason, "receipt": receipt}
        return _move(self._control.write(KIND, channel, value, based_on=based_on, by=by))


def _move(document: Document) -> Move:
    value = document.value or {}
    return Move(
        document.key,
        document.version,
        value["bundle"],
        value["action"],
        document.by,
        document.at,
        value["reason"],
        value["receipt"],
    )
