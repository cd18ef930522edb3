"""Logged requests, ranked again exactly.

Alignment, targeting and scores are the same functions of each candidate that the service computes, so that a replayed
list equals the served one to the bit, given the snapshot it was served with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests
from noria.blending.blender import Blender
from noria.blending.boosting.scoring import ALL, PlanTables, lists, score
from noria.blending.boosting.slots import Rule, place
from noria.blending.columns import Candidates, NameColumn
from noria.blending.logs.candidates import CandidateLog
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """A log under one snapshot.

    Attributes:
        requests: candidates that can be ranked; those without a value are left out.
        rows: [rows of requests] their rows in the log.
        tables: weights, biases and guards of the snapshot's plans.
        plans: ids of the plans in the order of the bits.
        size: number of places K of a list.
        lists: [requests, K] rows of `requests`, after slot rules; −1 where a list is shorter.
        score, guard: [rows] r and g.
        dropped: candidates left out, by reason.
    """

    requests: Requests
    rows: Ints
    tables: PlanTables
    plans: tuple[str, ...]
    size: int
    lists: Ints
    score: Floats
    guard: Floats
    dropped: Mapping[str, int]


def replay(log: CandidateLog, snapshot: Snapshot, size: int) -> ReplayResult:
    """Rank every request of a log.

    Args:
        log: logged candidates.
        snapshot: snapshot that ranks them.
        size: number of places K of a list.

    Raises:
        DataError: a plan is targeted on a column of another kind, or no candidate can be ranked.
    """
    if size < 1:
        raise DataError(f"a list of {size}", where="size", mend="ask for at least one place")
    blender = Blender(snapshot)
    value = _values(log, snapshot)
    good = np.isfinite(value)
    rows = np.flatnonzero(good)
    if len(log) and not len(rows):
        known = ", ".join(sorted({key.source for key in snapshot.alignment.entries})[:10])
        raise DataError(
            f"none of {len(value):,} candidates can be ranked: the snapshot gives no value to their scores and sources",
            where="candidates",
            mend=f"give a snapshot fitted on this feed; this one knows the sources {known}",
        )
    mask = _masks(log, blender)[rows]
    before = np.concatenate([[0], np.cumsum(good)])
    requests = Requests(value[rows], mask, before[log.start])
    r, taken = score(requests.value, requests.mask, blender.tables)
    result = lists(requests.value, requests.mask, requests.start, ALL, blender.tables, size)[:, 0]
    if snapshot.plans.slots:
        result = _placed(requests, blender.rules(log.columns, len(value), rows), blender.tables, size)
    lost = int((~good).sum())
    dropped = dict(log.dropped) | ({"no value": lost} if lost else {})
    return ReplayResult(requests, rows, blender.tables, blender.plans, size, result, r, taken, dropped)


def absent_columns(log: CandidateLog, snapshot: Snapshot) -> list[str]:
    """Columns that plans or slot rules are targeted on and the log does not have: they hit nobody in it."""
    return [name for name in Blender(snapshot).asked if name not in log.columns]


def _values(log: CandidateLog, snapshot: Snapshot) -> Floats:
    """[rows] y, scene by scene."""
    value = np.full(len(log.score), np.nan)
    row_scene = np.repeat(log.scene.codes, np.diff(log.start))
    for code in np.unique(row_scene).tolist():
        rows = np.flatnonzero(row_scene == code)
        version = log.columns.get("version")
        part = Candidates(
            range(len(rows)),
            log.score[rows],
            log.source.take(rows),
            {"version": version.take(rows)} if isinstance(version, NameColumn) else {},
            log.scene.names[code] if code >= 0 else "",
        )
        value[rows] = snapshot.alignment.align(part).value
    return value


def _masks(log: CandidateLog, blender: Blender) -> NDArray[np.uint64]:
    """[rows] plans that hit; schedules are kept by each request's time."""
    plans = blender.snapshot.plans
    if not any(plan.schedule for plan in plans.plans):
        return blender.masks(log.columns, len(log.score))
    on = np.array([plans.active(at) for at in log.time.tolist()], np.bool_)
    bits = np.where(on, np.uint64(1) << np.arange(len(plans.plans), dtype=np.uint64), np.uint64(0))
    mask = blender.masks(log.columns, len(log.score), active=np.logical_or.reduce(on, axis=0).tolist())
    result: NDArray[np.uint64] = mask & np.repeat(np.bitwise_or.reduce(bits, axis=1), np.diff(log.start))
    return result


def _placed(requests: Requests, rules: Sequence[Rule], tables: PlanTables, size: int) -> Ints:
    """[requests, K] lists with their slot rules kept."""
    result = np.full((len(requests), size), -1, np.int64)
    for number in range(len(requests)):
        first, end = requests.start[number : number + 2].tolist()
        if first == end:
            continue
        one = slice(first, end)
        order = lists(
            requests.value[one], requests.mask[one], np.array([0, end - first]), ALL, tables, end - first
        )[0, 0]
        kept = order[place(order, [replace(rule, about=rule.about[one]) for rule in rules], size)] + first
        result[number, : len(kept)] = kept
    return result
