"""Impressions and outcomes as clients send them, turned into events of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noria.blending.service.journal.events import Impression, Outcome
from noria.blending.service.wire.requests import decoded, seconds, text_id
from noria.core.errors import DataError, needing

with needing("serve"):
    import msgspec

MOST_EVENTS = 10_000
"""Impressions or outcomes in one body."""


class ImpressionBody(msgspec.Struct):
    """Items of a list that somebody saw."""

    request: str | int
    items: list[str | int]
    timestamp: str | float | None = None


class OutcomeBody(msgspec.Struct):
    """Outcome of an exposure: seconds watched, of how many seconds; what is null is not known."""

    request: str | int
    item: str | int
    watch: float | None = None
    duration: float | None = None
    gain: float | None = None
    timestamp: str | float | None = None


class Switch(msgspec.Struct, forbid_unknown_fields=True):
    """A plan to switch on or off; null for all of them."""

    on: bool
    plan: str | None = None


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """A version to go back to."""

    version: int


read_switch = msgspec.json.Decoder(Switch).decode
read_rollback = msgspec.json.Decoder(Rollback).decode
Impressions = list[ImpressionBody] | ImpressionBody
Outcomes = list[OutcomeBody] | OutcomeBody
_impressions = msgspec.json.Decoder(Impressions).decode
_outcomes = msgspec.json.Decoder(Outcomes).decode


def impressions(body: bytes, at: float) -> list[Impression]:
    """Events of a body {request, items, timestamp}, one or a list.

    Raises:
        DataError: it is malformed, or holds too many.
    """
    events = []
    for row in _rows(_impressions, body):
        if len(row.items) > MOST_EVENTS:
            raise DataError(f"{len(row.items):,} items of one list", where="items")
        items = [text_id(item, "items") for item in row.items]
        events.append(Impression(at, text_id(row.request, "request"), items, seconds(row.timestamp)))
    return events


def outcomes(body: bytes, at: float) -> list[Outcome]:
    """Events of a body {request, item, watch, duration, gain, timestamp}, one or a list.

    Raises:
        DataError: it is malformed, or holds too many.
    """
    events = []
    for row in _rows(_outcomes, body):
        client = seconds(row.timestamp)
        request, item = text_id(row.request, "request"), text_id(row.item, "item")
        events.append(Outcome(at, request, item, row.watch, row.duration, row.gain, client))
    return events


def _rows(decode: Callable[[bytes], Any], body: bytes) -> list[Any]:
    rows = decoded(decode, body, "not what is taken in here")
    rows = rows if isinstance(rows, list) else [rows]
    if len(rows) > MOST_EVENTS:
        raise DataError(f"{len(rows):,} in one body", mend=f"send at most {MOST_EVENTS:,} at once")
    return rows
