"""The order of a tool's results, between the tool and the model: products are put in order, and a span says why.

A ranker that fails leaves the products as the tool gave them: the failure is a span of the trace, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noria.assistant.parts.cards import HIDDEN, KIND, MOST_CARDS, without_hidden
from noria.assistant.parts.protocol import RankContext, Ranker, Ranking
from noria.assistant.products.catalogue import Hit
from noria.assistant.products.search import ByFit, RankedHit
from noria.core.errors import NoriaError
from noria.core.tools import ToolContext, ToolResult
from noria.core.traces.ids import Clock, new_id
from noria.core.traces.records import Candidate, Span, SpanError

log = logging.getLogger("noria.serving")
SEEN = (*HIDDEN, "price", "currency", "available")
"""Fields of an item that a ranker may see."""


@dataclass
class Placer:
    """Puts the results of one request's tools in order.

    Args:
        ranker: what decides; None leaves every result as it is.
        context: for whom, and for what.
        clock: clock of the service.

    Attributes:
        steps: each decision as a span of the trace; who calls takes them out.
    """

    ranker: Ranker | None = None
    context: RankContext = field(default_factory=lambda: RankContext(""))
    clock: Clock = field(default_factory=Clock)
    steps: list[Span] = field(default_factory=list, init=False)

    def place(self, items: Sequence[Mapping[str, Any]], tool: str) -> Ranking | None:
        """The order of a tool's items; None where there is no ranker, or it has nothing to do, or fails."""
        if self.ranker is None:
            return None
        began = self.clock()
        context = replace(self.context, tool=tool, at=began / 1e9)
        try:
            ranking = self.ranker.rank(items, context)
        except (NoriaError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            log.warning("the ranker %s failed, and the results stay as they are: %s", self.ranker.name, error)
            fault = SpanError("part_failed", "the ranker could not decide")
            self.steps.append(self._span(began, error=fault))
            return None
        if ranking is not None:
            self.steps.append(self._decided(items, ranking, began, tool))
        return ranking

    def cards(self, result: ToolResult, tool: str) -> ToolResult:
        """A result with its cards in order; what is for a ranker alone is taken off them in any case.

        The model reads the order, too, as a line behind the tool's text, so that it speaks of the first card as the
        first.
        """
        shown: list[Mapping[str, Any]] = []
        text = result.text
        for one in result.shown:
            items = one.get("items") if one.get("kind") == KIND else None
            if not isinstance(items, Sequence) or isinstance(items, str):
                shown.append(one)
                continue
            ranking = self.place(items, tool)
            if ranking is not None:
                items = [dict(items[row]) for row in ranking.order]
                for item, account in zip(items, ranking.accounts, strict=False):
                    item["why"] = [{"name": name, "value": value} for name, value in account]
                names = ", ".join(str(item.get("id", ""))[:80] for item in items)
                text = f"{text}\nThe user sees them in this order: {names}"
            shown.append({**one, "items": without_hidden(items)})
        return replace(result, text=text, shown=shown)

    def _decided(self, items: Sequence[Mapping[str, Any]], ranking: Ranking, began: int, tool: str) -> Span:
        """A decision as a span: each item with its score, and the certain propensity of what never draws.

        The first items stand in it with what the ranker saw of them, so that another one can rank them again.
        """
        names = [str(items[row].get("id", "")) for row in ranking.order]
        scores: Sequence[float | None] = [*ranking.scores, *[None] * (len(names) - len(ranking.scores))]
        accounts = {
            name: [list(term) for term in account]
            for name, account in zip(names, ranking.accounts, strict=False)
        }
        return self._span(
            began,
            candidates=tuple(
                Candidate(name, score, float(place == 0))
                for place, (name, score) in enumerate(zip(names, scores, strict=True))
            ),
            chosen=names[0],
            attributes={
                "accounts": accounts,
                "tool": tool,
                "items": [_asked(items[row]) for row in ranking.order[:MOST_CARDS]],
                **ranking.attributes,
            },
        )

    def _span(self, began: int, **more: Any) -> Span:
        assert self.ranker is not None
        artefact = self.ranker.artefact or None
        return Span(new_id(began), "blend", self.ranker.name, began, self.clock(), artefact=artefact, **more)


def _asked(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a ranker sees of an item."""
    return {name: item[name] for name in SEEN if item.get(name) is not None}


@dataclass(frozen=True)
class HitRanker:
    """Ranks the hits of the shop's own search, before the best of them are shown.

    A hit takes part with the score of its search, under the source `words`, `picture` or `both`; plans may be targeted
    on the feed's fields, such as `brand`, `category` and `color`.

    Args:
        placer: what decides.
        tool: name of the search.
    """

    placer: Placer
    tool: str

    def rank(self, hits: Sequence[Hit], context: ToolContext) -> Sequence[RankedHit]:
        """Do what the search's own ranker does, by the placer; the order of the search where that has none."""
        fits = ByFit().rank(hits, context)
        ranking = self.placer.place([_item(one) for one in hits], self.tool)
        if ranking is None:
            return fits
        placed = [fits[row] for row in ranking.order]
        for place, (score, account) in enumerate(zip(ranking.scores, ranking.accounts, strict=True)):
            placed[place] = replace(placed[place], score=score, why=(*account, *placed[place].why))
        return placed


def _item(hit: Hit) -> dict[str, Any]:
    product = hit.product
    source = "both" if hit.words and hit.picture is not None else "words" if hit.words else "picture"
    features = {**product.attributes, "brand": product.brand or None, "category": product.category or None}
    stocked = {"in_stock": True, "out_of_stock": False}.get(product.availability)
    return {
        "id": product.id, "score": hit.score, "source": source, "price": product.price,
        "currency": product.currency or None, "available": stocked, "features": features,
    }  # fmt: skip
