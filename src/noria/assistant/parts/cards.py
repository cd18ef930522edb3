"""Cards of products as tools show them: read from what a server says, item by item, and nothing else of it.

A card is `{"id", "title", "price", "currency", "image", "link", "available", "why"}`. Beside it a tool may give what a
ranker needs and nobody is shown: `score` and `source` of its search, and `features` of the item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from noria.core.chat.messages import Image
from noria.core.chat.wire import data_url
from noria.core.errors import DataError

KIND = "cards"
MOST_CARDS = 50
"""Most cards of a result; the rest is left out."""
HIDDEN = ("score", "source", "features")
"""Fields of an item that are for a ranker alone."""
_LONGEST = {"id": 200, "title": 300, "currency": 8, "link": 2000, "source": 100}
_SCHEMES = ("https://", "http://")


def cards_of(value: Any) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Cards in a server's values, and the pictures that they bring as `data:` URLs, as files by name.

    The values are an object of the kind `cards`, or one with a list `items` or `products`; without it there are no
    cards. An item without an id or a title is left out. A link or a picture of another scheme is left out of its card.
    """
    files: dict[str, bytes] = {}
    if not isinstance(value, Mapping) or value.get("kind", KIND) != KIND:
        return None, files
    items: list[Any] = next(
        (value[name] for name in ("items", "products") if isinstance(value.get(name), list)), []
    )
    cards = [card for item in items[:MOST_CARDS] if (card := _card(item, files)) is not None]
    title = value.get("title")
    title = title[:300] if isinstance(title, str) else ""
    return {"kind": KIND, "title": title, "items": cards} if cards else None, files


def without_hidden(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items without the fields that are for a ranker alone."""
    return [{name: value for name, value in item.items() if name not in HIDDEN} for item in items]


def _card(item: Any, files: dict[str, bytes]) -> dict[str, Any] | None:
    if not isinstance(item, Mapping):
        return None
    number = item.get("id")
    texts = {
        name: value[:most]
        for name, most in _LONGEST.items()
        if isinstance(value := item.get(name), str) and value
    }
    if isinstance(number, int) and not isinstance(number, bool):
        texts["id"] = str(number)
    if "id" not in texts or "title" not in texts:
        return None
    link, available = texts.get("link", ""), item.get("available")
    card: dict[str, Any] = {
        "id": texts["id"], "title": texts["title"], "price": _number(item.get("price")),
        "currency": texts.get("currency"), "image": _picture(item.get("image"), files),
        "link": link if link.startswith(_SCHEMES) else None,
        "available": available if isinstance(available, bool) else None, "why": [],
    }  # fmt: skip
    features = item.get("features")
    given = {"score": _number(item.get("score")), "source": texts.get("source"),
             "features": dict(features) if isinstance(features, Mapping) else None}  # fmt: skip
    return card | {name: value for name, value in given.items() if value is not None}


def _picture(given: Any, files: dict[str, bytes]) -> str | None:
    """Address of a card's picture: that of a web page, or of a file that is put beside the cards."""
    if not isinstance(given, str):
        return None
    if given.startswith(_SCHEMES):
        return given if len(given) <= _LONGEST["link"] else None
    try:
        content = data_url(given)[1]
        Image(content)
    except DataError:
        return None
    name = f"card {len(files)}"
    files[name] = content
    return f"file:{name}"


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
