"""The logs: what a service writes, and what fitting, attribution and replay read. Names and kinds of their columns.

An exposure is one candidate that was shown. Its outcome is joined by request and item, and may come late or
twice. A candidate record is one of all candidates of a sampled request, with every column that plans are
targeted on, so that the request can be ranked again exactly.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Literal, TypeAlias

from noria.core.errors import DataError

Kind: TypeAlias = Literal["string", "float64", "time", "int64", "uint64", "bool"]

EXPOSURES: dict[str, Kind] = {
    "request": "string",
    "time": "time",  # seconds since 1970 UTC, of the service's clock
    "scene": "string",
    "item": "string",
    "rank": "int64",  # from 0
    "source": "string",
    "version": "string",  # of the model that scored it
    "score": "float64",  # x
    "value": "float64",  # y
    "mask": "uint64",  # bit p: plan p of the snapshot hit it
    "guard": "float64",
    "total": "float64",  # r
    "snapshot": "string",  # digest
    "control": "bool",  # whether its request was ranked by value alone, to align on
}
"""One row a candidate that was shown.

`fit` needs request, item, time, source and score alone; accounts of plans need value, mask, guard, total and snapshot,
too. A missing scene or version is the empty name, a missing control flag says no.
"""
ACCOUNTED = ("value", "mask", "guard", "total", "snapshot")
"""Columns of an exposure's account."""
NEEDED = {
    "exposures": ("request", "item", "time", "source", "score"),
    "outcomes": ("request", "item", "watch"),
    "candidates": ("request", "item", "source", "score"),
}
"""Columns that no log of the kind may lack."""

OUTCOMES: dict[str, Kind] = {
    "request": "string",
    "item": "string",
    "time": "time",
    "watch": "float64",  # seconds
    "duration": "float64",  # seconds of the content; missing where it has none
    "gain": "float64",  # the plan's own KPI, such as orders; missing where there is none
}
"""One row an outcome; one without a time counts as come at once."""

CANDIDATES: dict[str, Kind] = {
    "request": "string",
    "time": "time",
    "scene": "string",
    "item": "string",
    "source": "string",
    "version": "string",
    "score": "float64",
}
"""One row a candidate of a sampled request, in the request's order; further columns are what plans are targeted on."""


def need(names: Iterable[str], known: Container[str], where: str) -> None:
    """Refuse columns of which one is absent.

    Raises:
        DataError: it is.
    """
    for name in names:
        if name not in known:
            raise DataError(f"there is no column {name!r}", where=where)
