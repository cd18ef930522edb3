"""Events of the service's log: decisions, impressions, outcomes, and sampled requests whole.

A decision is what was answered, with the account of each candidate; an impression says what of it was shown; an outcome
what followed. Times are the service's own; a client's clock is kept beside them and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.blending.blender import RankedList
from noria.blending.columns import Candidates, NameColumn
from noria.core.errors import DataError, needing

with needing("serve"):
    import msgspec

__all__ = ["Decision", "Event", "Impression", "Outcome", "Sample", "decision_of", "pack", "unpack"]


class Decision(msgspec.Struct, tag="d", array_like=True, frozen=True):
    """A ranked list as it was answered. Columns are little-endian arrays, one entry a place.

    Attributes:
        at: seconds since 1970.
        request: id of the request.
        scene: place of the list.
        user: id of the user; empty if nobody said.
        version, snapshot: version and digest of what ranked.
        control: whether it was ranked by value alone.
        shown: number of its places that count as shown at once.
        items: ids of the items.
        sources, source: names, and a code each, uint16.
        models, model: versions of the scoring models, and a code each, uint16; 65535 is none.
        score, value, total, guard: x, y, r, g; float64.
        mask: plans that hit, uint64.
    """

    at: float
    request: str
    scene: str
    user: str
    version: int
    snapshot: str
    control: bool
    shown: int
    items: list[str]
    sources: list[str]
    source: bytes
    models: list[str]
    model: bytes
    score: bytes
    value: bytes
    total: bytes
    guard: bytes
    mask: bytes

    def column(self, name: str) -> NDArray[np.float64]:
        """`score`, `value`, `total` or `guard` as numbers."""
        return np.frombuffer(getattr(self, name), "<f8")

    @property
    def masks(self) -> NDArray[np.uint64]:
        """`mask` as numbers."""
        return np.frombuffer(self.mask, "<u8")

    def names(self, kind: str) -> list[str]:
        """`source` or `model` of every place; "" where there is none."""
        known = [*(self.sources if kind == "source" else self.models), ""]
        codes = np.frombuffer(self.source if kind == "source" else self.model, "<u2")
        return [known[min(code, len(known) - 1)] for code in codes.tolist()]


class Impression(msgspec.Struct, tag="i", array_like=True, frozen=True):
    """Items of a list that somebody saw."""

    at: float
    request: str
    items: list[str]
    client: float | None = None


class Outcome(msgspec.Struct, tag="o", array_like=True, frozen=True):
    """Outcome of an exposure: seconds watched, of how many; and the plan's own KPI. None is not known."""

    at: float
    request: str
    item: str
    watch: float | None = None
    duration: float | None = None
    gain: float | None = None
    client: float | None = None


class Sample(msgspec.Struct, tag="c", array_like=True, frozen=True):
    """A request with all of its candidates, as an Arrow stream."""

    at: float
    request: str
    scene: str
    candidates: bytes


Event: TypeAlias = Decision | Impression | Outcome | Sample

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Event]).decode


def pack(events: Sequence[Event]) -> bytes:
    """Events as one payload of the log."""
    return _encode(events)


def unpack(payload: bytes) -> list[Event]:
    """Read what `pack` gave.

    Raises:
        DataError: something else.
    """
    try:
        return _decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"no events ({error})") from None


def decision_of(
    candidates: Candidates,
    ranked: RankedList,
    *,
    at: float,
    request: str,
    user: str,
    control: bool,
    shown: int,
) -> Decision:
    """The record of a ranked list."""
    rows = ranked.order
    source, sources = _coded(candidates.source, rows)
    version = candidates.columns.get("version")
    model, models = (
        _coded(version, rows) if isinstance(version, NameColumn) else (np.full(len(rows), 0xFFFF, "<u2"), [])
    )
    item = candidates.item
    return Decision(
        at=at,
        request=request,
        scene=candidates.scene,
        user=user,
        version=ranked.version,
        snapshot=ranked.snapshot,
        control=control,
        shown=min(shown, len(rows)),
        items=[str(item[row]) for row in rows.tolist()],
        sources=sources,
        source=source.tobytes(),
        models=models,
        model=model.tobytes(),
        score=candidates.score[rows].astype("<f8").tobytes(),
        value=ranked.value.astype("<f8").tobytes(),
        total=ranked.score.astype("<f8").tobytes(),
        guard=ranked.guard.astype("<f8").tobytes(),
        mask=ranked.mask.astype("<u8").tobytes(),
    )


def _coded(column: NameColumn, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint16], list[str]]:
    """Codes of some rows, and only the names that they use."""
    used, codes = np.unique(column.codes[rows], return_inverse=True)
    names = [column.names[code] for code in used.tolist() if code >= 0]
    shift = 1 if len(used) and used[0] < 0 else 0  # the missing one comes first
    result = codes.astype(np.int64) - shift
    return np.where(result < 0, 0xFFFF, result).astype("<u2"), names
