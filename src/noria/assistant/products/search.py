"""The tool that searches the catalogue by words, by the picture of the conversation, or by both, and shows cards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from noria.assistant.products.catalogue import Catalogue, Filters, Hit
from noria.assistant.products.features import LayoutEncoder, PictureEncoder
from noria.core.picture_files import open_picture
from noria.core.tools import ToolContext, ToolResult, ToolSpec

MOST = 48
"""Most candidates of a search: what a ranker orders."""

_PARAMETERS = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "maxLength": 400, "description": "What to look for, in a few words."},
        "like_picture": {
            "type": "boolean",
            "description": "Whether to look for what is like the last picture.",
        },
        "most_price": {"type": "number", "exclusiveMinimum": 0, "description": "Highest price."},
        "category": {"type": "string", "maxLength": 200, "description": "Category, such as Shoes."},
    },
    "additionalProperties": False,
}


@dataclass(frozen=True)
class RankedHit:
    """A hit in its place.

    Attributes:
        hit: the hit.
        score: score that gave it the place.
        why: what the score is made of, each with its name and value.
    """

    hit: Hit
    score: float
    why: tuple[tuple[str, float | str], ...] = ()


class Ranker(Protocol):
    """Puts the hits of a search in the order in which they are shown."""

    def rank(self, hits: Sequence[Hit], context: ToolContext) -> Sequence[RankedHit]:
        """The hits in their order, each with its account."""
        ...


class ByFit:
    """Leaves the hits in the order of the search."""

    def rank(self, hits: Sequence[Hit], context: ToolContext) -> Sequence[RankedHit]:
        """Do what :meth:`Ranker.rank` says."""
        return [RankedHit(one, one.score, _fit(one)) for one in hits]


@dataclass
class ProductSearch:
    """Searches the catalogue for one request.

    Args:
        catalogue: products.
        name: name by which the model calls it.
        most: most products that are shown.
        picture: last picture of the conversation; None where there is none.
        encoder: encoder of the catalogue's pictures.
        ranker: puts the hits in order.
    """

    catalogue: Catalogue
    name: str = "search_products"
    most: int = 8
    picture: bytes | None = None
    encoder: PictureEncoder = field(default_factory=LayoutEncoder)
    ranker: Ranker = field(default_factory=ByFit)

    def __post_init__(self) -> None:
        # titles and descriptions are merchants' words: the results are text from outside, which is never trusted
        self.spec = ToolSpec(
            self.name,
            "Search the shop's products by words, by likeness to the last picture of the conversation, or by both. "
            "The user sees the products that it finds as cards.",
            _PARAMETERS,
            seconds=10.0,
        )

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        words, like = str(arguments.get("query", "")).strip(), bool(arguments.get("like_picture", False))
        if like and self.picture is None:
            return ToolResult("there is no picture in the conversation", error="failed")
        if not words and not like:
            return ToolResult("give words to look for, or like_picture", error="arguments")
        filters = Filters(arguments.get("most_price"), None, arguments.get("category"))
        hits = await asyncio.to_thread(self._search, words, like, filters)
        ranked = list(self.ranker.rank(hits, context))[: self.most]
        if not ranked:
            return ToolResult("no product fits")
        files: dict[str, bytes] = {}
        items = [self._card(one, files) for one in ranked]
        shown = {"kind": "cards", "title": words or "Like your picture", "items": items}
        return ToolResult("\n".join(_line(one) for one in ranked), files, shown=[shown])

    def _search(self, words: str, like: bool, filters: Filters) -> list[Hit]:
        features = None
        if like and self.picture is not None:
            picture = open_picture(self.picture, where="the last picture", animated=True)
            features = self.encoder.encode([picture])[0]
        return self.catalogue.search(words, features, encoder=self.encoder.name, filters=filters, most=MOST)

    def _card(self, ranked: RankedHit, files: dict[str, bytes]) -> dict[str, Any]:
        product = ranked.hit.product
        thumbnail = self.catalogue.thumbnail(product.id)
        image = product.image if product.image.startswith(("http://", "https://")) else None
        if thumbnail is not None:
            name = f"card-{len(files) + 1}.webp"
            files[name], image = thumbnail, f"file:{name}"
        stocked = {"in_stock": True, "out_of_stock": False}.get(product.availability)
        return {
            "id": product.id, "title": product.title, "price": product.price, "currency": product.currency or None,
            "image": image, "link": product.link or None, "available": stocked,
            "why": [{"name": name, "value": value} for name, value in ranked.why],
        }  # fmt: skip


def _fit(hit: Hit) -> tuple[tuple[str, float | str], ...]:
    why: list[tuple[str, float | str]] = []
    if hit.words is not None:
        why.append(("fits your words", f"number {hit.words}"))
    if hit.picture is not None:
        why.append(("like your picture", round(hit.picture, 3)))
    return tuple(why)


def _line(ranked: RankedHit) -> str:
    product = ranked.hit.product
    price = "" if product.price is None else f", {product.price:.2f} {product.currency}"
    brand = f", {product.brand}" if product.brand else ""
    return f"[{product.id}] {product.title}{brand}{price}"
