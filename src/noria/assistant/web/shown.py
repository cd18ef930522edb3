"""What tools show beside the words: edits, pictures, videos, reports, products; each is checked first.

All of it is data of a tool's: a text is escaped by the template, a file is named by its address, and what does not have
the expected shape is `unknown`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from noria.core.traces.blobs import blob_names

CURRENCIES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "¥", "INR": "₹", "KRW": "₩"}
_NUMBER = re.compile(r"\s*(?:\d{1,2}[.)]|[-*•])\s+")


@dataclass(frozen=True)
class Shown:
    """Something that a tool showed.

    Attributes:
        kind: `cards`, `edit`, `picture`, `video`, `report` or `unknown`.
        key: name under which the item is rated.
        fields: what the template reads, checked.
    """

    kind: str
    key: str
    fields: Mapping[str, Any]


def read_shown(values: Any, address: Callable[[str], str]) -> Iterator[Shown]:
    """What tools showed, each checked; what has another shape is `unknown`."""
    makers = {"cards": _cards, "edit": _edit, "picture": _picture, "video": _video, "report": _report}
    for number, one in enumerate(values if isinstance(values, list) else []):
        key = f"shown {number}"
        maker = makers.get(str(one.get("kind"))) if isinstance(one, Mapping) else None
        fields = None if maker is None else maker(one, address)
        if fields is None:
            yield Shown("unknown", key, {"digests": ()})
        else:
            yield Shown(str(one["kind"]), key, fields)


def _file(one: Mapping[str, Any], name: str, address: Callable[[str], str]) -> tuple[str, str] | None:
    """Digest and address of a file that a field names."""
    digest = next(blob_names(one.get(name)), None)
    return None if digest is None else (digest, address(digest))


def _edit(one: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any] | None:
    before, after = _file(one, "before", address), _file(one, "after", address)
    if before is None or after is None:
        return None
    return {"before": before[1], "after": after[1], "digests": (before[0], after[0]), **_made(one)}


def _picture(one: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any] | None:
    picture = _file(one, "picture", address)
    return None if picture is None else {"picture": picture[1], "digests": (picture[0],), **_made(one)}


def _made(one: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt": _text(one.get("prompt")), "plan": list(_lines(one.get("plan")))}


def _video(one: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any] | None:
    video, poster = _file(one, "video", address), _file(one, "poster", address)
    if video is None:
        return None
    return {
        "video": video[1],
        "poster": poster[1] if poster else "",
        "title": _text(one.get("title")),
        "note": _text(one.get("note")),
        "digests": (),
    }


def _report(one: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any] | None:
    page = _file(one, "page", address)
    if page is None:
        return None
    return {
        "page": page[1], "title": _text(one.get("title")), "summary": _text(one.get("summary"), 4000), "digests": ()
    }  # fmt: skip


def _cards(one: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any] | None:
    items = one.get("items")
    if not isinstance(items, list):
        return None
    cards = [_card(item, address) for item in items[:60] if isinstance(item, Mapping)]
    return {"title": _text(one.get("title")), "items": cards, "digests": ()}


def _card(item: Mapping[str, Any], address: Callable[[str], str]) -> Mapping[str, Any]:
    image = item.get("image")
    file = _file(item, "image", address)
    link = item.get("link")
    why = [
        (_text(one.get("name")), _value(one.get("value")))
        for one in _listed(item.get("why"))
        if isinstance(one, Mapping)
    ]
    return {
        "id": _text(item.get("id"), 120),
        "title": _text(item.get("title")),
        "price": _price(item.get("price"), item.get("currency")),
        "image": file[1] if file else (image if isinstance(image, str) and _is_address(image) else ""),
        "link": link if isinstance(link, str) and _is_address(link) else "",
        "available": item.get("available") if isinstance(item.get("available"), bool) else None,
        "why": why[:20],
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://")) and len(text) <= 2000 and text.isprintable()


def _price(value: Any, currency: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    name = _text(currency, 8)
    amount = f"{value:,.2f}".removesuffix(".00")
    sign = CURRENCIES.get(name.upper())
    return f"{sign}{amount}" if sign else f"{amount} {name}".strip()


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "—"}[value]
    return f"{value:+.3g}" if isinstance(value, float) else _text(value, 200)


def _text(value: Any, most: int = 600) -> str:
    return "" if value is None else str(value)[:most]


def _lines(plan: Any, depth: int = 0) -> Iterator[str]:
    """A plan as lines: a text, a list of steps, or an object of named parts."""
    if isinstance(plan, Mapping) and depth < 3:
        for name, value in list(plan.items())[:20]:
            inner = list(_lines(value, depth + 1))
            yield f"{_text(name, 60)}: {'; '.join(inner)}"
    elif isinstance(plan, list) and depth < 3:
        for one in plan[:20]:
            yield from _lines(one, depth + 1)
    elif plan is not None:
        yield from (_NUMBER.sub("", line) for line in _text(plan, 4000).splitlines() if line.strip())


def words_of(given: Any) -> str:
    """The prompt or query of a tool call, where the call has one."""
    arguments = given.get("arguments") if isinstance(given, Mapping) else None
    return asked_of(arguments) if isinstance(arguments, str) else ""


def asked_of(arguments: str) -> str:
    """The words among the arguments of a call, as the model wrote them."""
    try:
        values = json.loads(arguments[:20_000] or "{}")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(values, dict):
        return ""
    named = [values.get(name) for name in ("prompt", "query", "question", "request", "text", "description")]
    return next((_text(one, 300) for one in named if isinstance(one, str)), "")


def strings(value: Any) -> Iterator[str]:
    """All texts in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one)
