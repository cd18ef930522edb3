"""The shop's goods: things that two studios drew, as the feed of products that a real shop would export.

Each thing is sold in two drawings, so that two products share a name and differ in picture and price. Prices follow
from the name: nobody needs a file of them.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from noria.core.files import disk_errors, write_atomic
from noria.core.pictures import Studio, draw, things

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruit": (
        "red apple", "green apple", "pear", "peach", "banana", "lemon", "grapes", "cherries", "strawberry", "pineapple",
        "mango", "coconut", "kiwifruit", "watermelon", "blueberries",
    ),
    "vegetables": (
        "tomato", "carrot", "potato", "onion", "garlic", "broccoli", "cucumber", "aubergine", "hot pepper",
        "bell pepper", "mushroom", "avocado", "leafy green", "olive",
    ),
    "bakery": (
        "bread", "croissant", "pretzel", "bagel", "pancakes", "waffle", "doughnut", "cookie", "pie", "cupcake",
        "birthday cake", "baguette bread",
    ),
    "toys": (
        "teddy bear", "kite", "yo-yo", "game die", "nesting dolls", "jigsaw puzzle piece", "balloon", "video game",
        "magic wand", "pinata", "crystal ball", "boomerang",
    ),
    "clothes": (
        "necktie", "t-shirt", "jeans", "dress", "kimono", "scarf", "gloves", "coat", "socks", "billed cap", "top hat",
        "womans hat", "shorts", "athletic shoe", "hiking boot", "flat shoe", "womans sandal", "lab coat", "safety vest",
    ),
    "music": (
        "guitar", "violin", "trumpet", "saxophone", "accordion", "banjo", "long drum", "musical keyboard", "microphone",
        "headphone",
    ),
    "sport": (
        "skateboard", "sled", "canoe", "boxing glove", "curling stone", "flying disc", "softball", "volleyball",
        "american football", "diving mask", "fishing pole and fish", "roller skate",
    ),
    "tools": (
        "hammer", "wrench", "screwdriver", "axe", "ladder", "toolbox", "magnet", "carpentry saw", "bucket", "broom",
        "sponge", "nut and bolt", "electric torch",
    ),
    "home": (
        "chair", "bed", "mirror", "teapot", "candle", "basket", "door", "bathtub", "couch and lamp", "potted plant",
        "spoon", "jar", "toothbrush", "frame with picture",
    ),
    "travel": ("bicycle", "scooter", "luggage", "compass", "world map", "camera", "closed umbrella", "parachute"),
}  # fmt: skip
"""Names of the things on sale, by category; a name that a studio did not draw is left out."""
STUDIOS: dict[Studio, str] = {"twemoji": "", "openmoji": ", outlined"}
"""Studios whose drawings are sold, and what a drawing adds to its title."""
SIDE = 96
"""Width and height of a product's picture in pixels."""
PRICES = (2.0, 80.0)
"""Lowest and highest price."""


@dataclass(frozen=True)
class Product:
    """A product on sale.

    Attributes:
        id: identity in the feed.
        thing: name of the thing.
        code: code point of its drawing.
        studio: who drew it.
        category: category in the shop.
        price: price in euros.
    """

    id: str
    thing: str
    code: str
    studio: Studio
    category: str
    price: float

    @property
    def title(self) -> str:
        """Title in the shop."""
        return self.thing.capitalize() + STUDIOS[self.studio]

    @property
    def text(self) -> str:
        """Description in the shop."""
        return f"{self.title} from our department of {self.category}."


def catalogue() -> list[Product]:
    """Products on sale, in the order of their categories.

    Raises:
        MissingExtra: the studios' packages are not installed.
    """
    codes = {one.name: one.code for one in things()}
    return [
        Product(f"{codes[name]}-{studio}", name, codes[name], studio, category, _price(name, studio))
        for category, names in CATEGORIES.items()
        for name in names
        if name in codes
        for studio in STUDIOS
    ]


def _price(name: str, studio: str) -> float:
    """A price that follows from the name, most of them low."""
    number = int.from_bytes(hashlib.sha256(f"{name}|{studio}".encode()).digest()[:4]) / 2**32
    low, high = PRICES
    return float(round(low * (high / low) ** number, 2))


def write_feed(products: Sequence[Product], folder: Path) -> Path:
    """Write the products as a Google-Merchant-style feed in CSV, with their pictures beside it; the feed's file.

    Raises:
        RunError: the disk refuses.
    """
    with disk_errors(folder):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        for one in products:
            picture = draw(one.code, one.studio, size=SIDE)
            ground = Image.new("RGB", picture.size, "white")
            ground.paste(picture, mask=picture.getchannel("A"))
            ground.save(folder / "pictures" / f"{one.id}.png")
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(
        ["id", "title", "description", "link", "image_link", "availability", "price", "product_type"]
    )
    for one in products:
        link, picture_file = f"https://shop.example/{one.id}", f"pictures/{one.id}.png"
        row = [
            one.id,
            one.title,
            one.text,
            link,
            picture_file,
            "in_stock",
            f"{one.price:.2f} EUR",
            one.category,
        ]
        writer.writerow(row)
    path = folder / "shop.csv"
    write_atomic(path, sheet.getvalue())
    return path
