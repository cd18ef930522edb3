"""The alignment that the loop proposes: fitted on what it has learnt, and held to what serves."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from noria.blending.alignment.alignment import ANY, Alignment, Entry
from noria.blending.alignment.diagnosis import tenths
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.alignment.tallies import Cell, Key, Tallies
from noria.blending.service.config import NearlineConfig
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError
from noria.core.records import json_values

__all__ = ["calibration", "proposed_alignment"]


def proposed_alignment(
    tallies: Tallies, snapshot: Snapshot, config: NearlineConfig, now: float
) -> tuple[Alignment, int]:
    """A new alignment; what rests on too few exposures stays as it was.

    Args:
        tallies: outcomes of closed lists.
        snapshot: snapshot that serves.
        config: settings of the loop.
        now: seconds since 1970.

    Returns:
        The alignment, which is the one that serves if nothing changes, and how many aligners were held back.
    """
    before, jump = snapshot.alignment, snapshot.plans.guards.jump
    try:
        fitted, _ = fit_alignment(
            tallies, config.fit, now=now, previous=_extended(before, tallies), jump=jump
        )
    except DataError:
        return before, 0
    new = {
        key: entry
        for key, entry in fitted.entries.items()
        if entry.exposures >= config.least_fit and entry.origin in ("own", "held")
    }
    entries: dict[Any, Entry] = dict(before.entries) | new
    if entries == dict(before.entries):
        return before, 0
    step = math.log(fitted.mean_value / before.mean_value)
    mean_value = before.mean_value * math.exp(max(-jump, min(jump, step)))
    return Alignment(entries, mean_value, now), sum(entry.origin == "held" for entry in new.values())


def _extended(before: Alignment, tallies: Tallies) -> Alignment:
    """The alignment that serves, with an entry for every key that has exposures: what serves it now.

    So a key that gets an aligner of its own is held to that, and does not jump either.
    """
    entries = dict(before.entries)
    for cell in tallies.cells:
        for key in (cell.key, Key(cell.scene, cell.source, ANY), Key(ANY, cell.source, ANY)):
            served = before.find(*(("" if part == ANY else part) for part in key))
            if key not in entries and served is not None:
                entries[key] = before.entries[served[0]]
    return Alignment(entries, before.mean_value, before.fitted_at)


def calibration(tallies: Tallies, alignment: Alignment) -> list[dict[str, Any]]:
    """Calibration of each source under what serves: outcomes against expected ones, by tenths of the value."""
    groups: dict[str, list[Cell]] = {}
    for cell in tallies.cells:
        groups.setdefault(cell.source, []).append(cell)
    sources = []
    for source, cells in sorted(groups.items()):
        key = alignment.find("", source, "")
        if key is None:
            continue
        data = tallies.binned(None, cells)
        if not len(data.n) or data.n.sum() <= 0:
            continue
        entry = alignment.entries[key[0]]
        sources.append(
            {
                "source": source,
                "aligner": type(entry.aligner).__name__.lower(),
                "scale": getattr(entry.aligner, "scale", None),
                "origin": entry.origin,
                "exposures": float(data.n.sum()),
                "rate": float(data.a.sum() / data.n.sum()),
                "tenths": [json_values(asdict(tenth)) for tenth in tenths(data, entry.aligner)],
            }
        )
    return sources
