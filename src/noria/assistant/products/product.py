"""One product of a feed, and how a feed writes prices and availability."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from noria.core.errors import DataError

Availability = Literal["in_stock", "out_of_stock", "preorder", "backorder", "unknown"]
_AVAILABILITIES = ("in_stock", "out_of_stock", "preorder", "backorder")
MOST_CHARACTERS = {"id": 200, "title": 500, "description": 10_000}
"""Most characters of a field; longer titles and descriptions are cut, a longer id is refused."""
_AMOUNT = re.compile(
    r"(?P<before>[A-Za-z]{3}|[€$£¥])?\s*(?P<number>\d[\d.,'\s]*)\s*(?P<after>[A-Za-z]{3}|[€$£¥])?"
)
_SYMBOLS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY"}


@dataclass(frozen=True)
class Product:
    """A product as a feed has it.

    Attributes:
        id: id in the shop.
        title: name for people.
        description: text for people.
        brand: brand; empty where the feed names none.
        category: category, as `Home > Kitchen`.
        price: what it costs now; None where the feed does not say.
        currency: ISO 4217 code of the price; empty without one.
        availability: whether it can be bought.
        link: address of its page.
        image: address or file of its picture.
        group: id that the variants of one product share.
        attributes: further fields of the feed, such as `color`.
    """

    id: str
    title: str
    description: str = ""
    brand: str = ""
    category: str = ""
    price: float | None = None
    currency: str = ""
    availability: Availability = "unknown"
    link: str = ""
    image: str = ""
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of all fields: the same product again has the same one."""
        content = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def product_of(row: Mapping[str, str], where: str, *, now: datetime.datetime) -> Product:
    """A product from the fields of a feed, by their names in Google's specification of product data.

    Args:
        row: values by name; a name is in lower case, with underscores.
        where: place of the row in errors.
        now: time that decides whether a sale has begun.

    Raises:
        DataError: there is no id or title, or a price or availability cannot be read.
    """
    fields = {name: value.strip() for name, value in row.items() if value and value.strip()}
    for name in ("id", "title"):
        if name not in fields:
            raise DataError(f"a product without {name}", where=where)
    if len(fields["id"]) > MOST_CHARACTERS["id"]:
        raise DataError(f"an id of more than {MOST_CHARACTERS['id']} characters", where=where)
    price, currency = _price(fields, where, now)
    link, image = fields.pop("link", ""), fields.pop("image_link", "")
    if link and not link.startswith(("http://", "https://")):
        raise DataError(f"the link is no web address: {link[:80]!r}", where=where)
    known = {
        "id": fields.pop("id"),
        "title": fields.pop("title")[: MOST_CHARACTERS["title"]],
        "description": fields.pop("description", "")[: MOST_CHARACTERS["description"]],
        "brand": fields.pop("brand", "")[:200],
        "category": (fields.pop("product_type", "") or fields.pop("google_product_category", ""))[:500],
        "group": fields.pop("item_group_id", "")[:200],
    }
    attributes = {name: fields[name][:1000] for name in sorted(fields) if name not in _PRICING}
    return Product(
        **known, price=price, currency=currency, availability=_availability(fields, where),
        link=link, image=image, attributes=attributes,
    )  # fmt: skip


_PRICING = ("price", "currency", "sale_price", "sale_price_effective_date", "availability")


def _availability(fields: Mapping[str, str], where: str) -> Availability:
    text = fields.get("availability", "").lower().replace(" ", "_").replace("-", "_")
    if not text:
        return "unknown"
    for known in _AVAILABILITIES:
        if text == known:
            return known  # type: ignore[return-value]
    raise DataError(
        f"the availability {text[:40]!r} is not known", where=where, mend=f"use {', '.join(_AVAILABILITIES)}"
    )


def _price(fields: Mapping[str, str], where: str, now: datetime.datetime) -> tuple[float | None, str]:
    """The price that holds now, and its currency."""
    text = fields.get("price", "")
    sale = fields.get("sale_price", "")
    if sale and _holds(fields.get("sale_price_effective_date", ""), where, now):
        text = sale
    if not text:
        return None, ""
    amount, currency = read_price(text, where)
    currency = currency or fields.get("currency", "").upper()
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise DataError(
            f"the price {text[:40]!r} has no currency",
            where=where,
            mend="write 12.90 EUR, or a column currency",
        )
    return amount, currency


def read_price(text: str, where: str) -> tuple[float, str]:
    """Amount and currency of a price such as `12.90 EUR`, `€ 1.299,00` or `1,299.00`; the currency may be empty.

    A single comma before three digits is taken for thousands, before one or two for decimals.

    Raises:
        DataError: it is no price.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise DataError(f"no price: {text[:40]!r}", where=where, mend="write it as 12.90 EUR")
    number = re.sub(r"[\s']", "", match["number"]).rstrip(".,")
    last = max(number.rfind("."), number.rfind(","))
    separators = number.count(".") + number.count(",")
    if last >= 0:
        decimals = len(number) - last - 1
        both = "." in number and "," in number
        if both or (separators == 1 and (number[last] == "." or decimals != 3)):
            number = re.sub(r"[.,]", "", number[:last]) + "." + number[last + 1 :]
        else:
            number = re.sub(r"[.,]", "", number)
    unit = match["before"] or match["after"] or ""
    return float(number), _SYMBOLS.get(unit, unit.upper())


def _holds(text: str, where: str, now: datetime.datetime) -> bool:
    """Whether a sale of this span, `2026-11-01T00:00+01:00/2026-12-01T00:00+01:00`, holds; without a span it does."""
    if not text:
        return True
    try:
        first, last = [datetime.datetime.fromisoformat(one.strip()) for one in text.split("/")]
    except ValueError:
        raise DataError(
            f"no span of dates: {text[:60]!r}", where=where, mend="write BEGIN/END in ISO 8601"
        ) from None
    first, last = [one if one.tzinfo else one.replace(tzinfo=datetime.UTC) for one in (first, last)]
    return first <= now < last
