"""Borders of countries for maps: a TopoJSON of the user's with the names of the chart.

Files with ISO 3166 numbers and no names (vega-datasets, world-atlas) get their names from Unicode's CLDR.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

OTHER_NAMES = {
    "BA": ("Bosnia and Herzegovina",),
    "BS": ("The Bahamas", "Bahamas, The"),
    "CD": ("DRC", "Congo, Democratic Republic of the"),
    "CG": ("Congo", "Congo, Republic of the"),
    "CI": ("Cote d'Ivoire",),
    "DO": ("The Dominican",),
    "FK": ("Falkland Islands (Islas Malvinas)",),
    "GM": ("The Gambia", "Gambia, The"),
    "KP": ("Korea, North",),
    "KR": ("Korea, South",),
    "MM": ("Burma",),
    "PS": ("West Bank", "Palestine"),
    "TR": ("Turkey", "Turkey (Turkiye)"),
    "US": ("United States of America",),
}
"""Names by which the World Factbook and others know countries, where they are not CLDR's."""


def named_borders(
    topology: Mapping[str, Any], feature: str, names: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Borders whose countries bear the names of a chart, and the names that no country of them has.

    Args:
        topology: TopoJSON with names in `properties.name`, or with ISO numbers as ids.
        feature: object of the topology that holds the countries.
        names: names in the chart.
    """
    wanted = {_plain(name): name for name in names}
    shapes = []
    for shape in topology["objects"][feature].get("geometries", []):
        own = (shape.get("properties") or {}).get("name")
        known = [own] if own else _names_of(str(shape.get("id", "")))
        shown = next(
            (wanted[_plain(name)] for name in known if _plain(name) in wanted), known[0] if known else ""
        )
        shapes.append({**shape, "properties": {"name": shown}})
    have = {shape["properties"]["name"] for shape in shapes}
    objects = {feature: {**topology["objects"][feature], "geometries": shapes}}
    return {**topology, "objects": objects}, [name for name in dict.fromkeys(names) if name not in have]


def _names_of(number: str) -> list[str]:
    """Names of a country by its ISO number: in English, as the World Factbook has it, and in Chinese."""
    return _countries().get(number.zfill(3), []) if number.isdigit() else []


@functools.cache
def _countries() -> dict[str, list[str]]:
    try:
        from babel import Locale
        from babel.core import get_global
    except ModuleNotFoundError:
        return {}
    english, chinese = Locale("en").territories, Locale("zh").territories
    found = {}
    for number, codes in get_global("territory_aliases").items():
        if number.isdigit() and codes and codes[0] in english:
            code = codes[0]
            names = [english[code], *OTHER_NAMES.get(code, ()), chinese.get(code)]
            found[number] = [str(name) for name in names if name]
    return found


def _plain(name: str) -> str:
    """A name without accents, punctuation and case, and with "and" for an ampersand."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", " ", bare.replace("&", "and").lower()).strip()
