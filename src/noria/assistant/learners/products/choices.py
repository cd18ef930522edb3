"""What people chose of the lists that they were shown: the log that the order of products learns from.

A list is the decision of a ranker in a trace, and its outcomes are feedback whose target is an item: a choice, a click
or a rating. A list of which nobody said anything is no evidence: that nothing was chosen is not known there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.assistant.parts.protocol import RankContext, Ranker
from noria.core.learning.dataset import Row
from noria.core.traces.chats import chat_span
from noria.core.traces.records import Feedback, Span

LIKED = 0.5
"""Value from which feedback on an item speaks for it."""
KINDS = ("choice", "implicit", "rating")


@dataclass(frozen=True)
class ShownList:
    """A list that somebody chose from.

    Attributes:
        trace: id of the trace.
        group: leakage group of the request.
        tool: name of the tool that gave the items.
        at: seconds since 1970 at which they were put in order.
        items: items as the ranker saw them, in the order in which they were shown.
        chosen: ids of the items that people liked.
        contents: what the request may share with requests of other groups.
    """

    trace: str
    group: str
    tool: str
    at: float
    items: tuple[Mapping[str, Any], ...]
    chosen: frozenset[str]
    contents: tuple[str, ...] = ()


def shown_lists(rows: Sequence[Row]) -> list[ShownList]:
    """The lists of which people said something, oldest first."""
    found = []
    for row in rows:
        said = [one for one in row.view.feedback if one.item is not None and one.kind in KINDS]
        span = next((s for s in row.view.trace.spans if s.kind == "blend" and s.error is None), None)
        if row.example is None or span is None or not said:
            continue
        items = _shown(row, span)
        known = {str(item["id"]) for item in items}
        judged = {one.item for one in said} & known
        if judged:
            chosen = frozenset(str(one.item) for one in said if one.item in known and _likes(one))
            tool = str(span.attributes.get("tool", ""))
            one = row.example
            at = span.began / 1e9
            found.append(ShownList(one.trace, one.group, tool, at, tuple(items), chosen, one.contents))
    return found


def _likes(one: Feedback) -> bool:
    return one.value is not None and one.value >= LIKED


def _shown(row: Row, span: Span) -> list[dict[str, Any]]:
    """The items of a decision that the user saw: those whose ids the answer shows, else as many as it shows."""
    seen = span.attributes.get("items")
    logged = seen if isinstance(seen, list) else []
    items = [
        {**values, "id": candidate.name}
        for candidate, values in zip(span.candidates, logged, strict=False)
        if isinstance(values, Mapping)
    ]
    chat = chat_span(row.view)
    output = chat.output if chat is not None and isinstance(chat.output, dict) else {}
    cards = [
        c for one in output.get("shown") or [] if isinstance(one, Mapping) for c in one.get("items") or []
    ]
    ids = {str(card.get("id")) for card in cards if isinstance(card, Mapping)}
    named = [item for item in items if item["id"] in ids]
    return named or items[: len(cards)]


def gains(ranker: Ranker | None, lists: Sequence[ShownList]) -> list[float]:
    """[lists] normalised discounted gain of what was chosen, in a ranker's order; in that of the search without one.

    Σ 1 / log₂(2 + place) over the chosen items by the same sum for the best order; NaN where nothing was chosen, where
    all was, or where the ranker has no order.

    Only what was shown is ordered again. People choose more of what stands first, whatever it is: that speaks for the
    order that they saw, so a new order has to overcome it.
    """
    return [_gain(ranker, one) for one in lists]


def _gain(ranker: Ranker | None, one: ShownList) -> float:
    number = len(one.chosen)
    if not 0 < number < len(one.items):
        return math.nan
    if ranker is None:
        scores = [item.get("score") for item in one.items]
        known = [math.inf if s is None else -float(s) for s in scores]
        order: Sequence[int] = sorted(range(len(one.items)), key=lambda row: (known[row], row))
    else:
        ranking = ranker.rank(one.items, RankContext(one.tool, at=one.at))
        if ranking is None:
            return math.nan
        order = ranking.order
    places = [place for place, row in enumerate(order) if one.items[row]["id"] in one.chosen]
    return sum(map(_discount, places)) / sum(map(_discount, range(number)))


def _discount(place: int) -> float:
    return 1 / math.log2(2 + place)
