"""Quantities in text: numbers with sign, scale and unit, in English and Chinese, and when one agrees with another.

A number that a report prints agrees with its source when the source, rounded to the printed precision, gives it, after
conversion of units. "about 3.7 trillion" may be further off (`LOOSE`), and says so. Decimal arithmetic: no number is
rounded before it is compared.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal

import msgspec

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "千": 10**3,
    "万": 10**4,
    "百万": 10**6,
    "千万": 10**7,
    "亿": 10**8,
    "万亿": 10**12,
}
UNITS: dict[str, tuple[str, Decimal]] = {
    name: (dimension, Decimal(factor))
    for dimension, names in {
        "%": {
            "%": "1",
            "％": "1",
            "percent": "1",
            "per cent": "1",
            "个百分点": "1",
            "percentage points": "1",
        },
        "power": {
            "kW": "1e3",
            "MW": "1e6",
            "GW": "1e9",
            "TW": "1e12",
            "千瓦": "1e3",
            "兆瓦": "1e6",
            "吉瓦": "1e9",
        },
        "energy": {
            "kWh": "1e3",
            "MWh": "1e6",
            "GWh": "1e9",
            "TWh": "1e12",
            "千瓦时": "1e3",
            "Btu": "0.29307107",
        },
        "area": {
            "sq km": "1e6",
            "km²": "1e6",
            "km2": "1e6",
            "平方公里": "1e6",
            "sq mi": "2589988.11",
            "ha": "1e4",
        },
        "length": {
            "km": "1e3",
            "公里": "1e3",
            "mi": "1609.344",
            "m": "1",
            "米": "1",
            "mm": "1e-3",
            "cm": "1e-2",
        },
        "mass": {"metric tons": "1e3", "metric tonnes": "1e3", "tonnes": "1e3", "吨": "1e3", "kg": "1"},
        "volume": {"cubic meters": "1", "cubic metres": "1", "cu km": "1e9", "立方米": "1"},
        "oil": {"bbl/day": "1", "barrels": "1", "桶/日": "1", "桶": "1"},
        "time": {"years": "1", "year": "1", "岁": "1", "年": "1"},
        "temperature": {"°C": "1", "℃": "1"},
        "ppm": {"ppm": "1"},
        "USD": {"$": "1", "US$": "1", "USD": "1", "dollars": "1", "美元": "1"},
        "EUR": {"€": "1", "EUR": "1", "euros": "1", "欧元": "1"},
        "GBP": {"£": "1", "GBP": "1"},
        "CNY": {"¥": "1", "CNY": "1", "元": "1", "人民币": "1"},
    }.items()
    for name, factor in names.items()
}
"""Dimension of each unit and its factor to the unit of that dimension."""
LOOSE = Decimal("0.05")
"""Share by which a number after "about" may differ from its source."""
MOST_DIGITS = 300
"""Most digits, and largest exponent, of a number that is read; a longer one is beyond every float, and is none."""
MOST_PLACES = 1000
"""Largest exponent of a number in a ledger: one that was read, in any scale, or that a formula gives."""
EXACT = Context(2 * MOST_PLACES, ROUND_HALF_EVEN, MIN_EMIN, MAX_EMAX, traps=[])
"""Arithmetic in which numbers of a ledger are not rounded, and which raises nothing: what has no value is NaN."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: ord("-")}
_UNIT_NAMES = sorted(
    (name for name in UNITS if name not in ("$", "US$", "€", "£", "¥")), key=len, reverse=True
)
_QUANTITY = re.compile(
    r"(?<![A-Za-z0-9_.#])"
    r"(?P<sign>(?<![\d年月)\]])[-–](?=[\d$€£¥]))?"
    r"(?P<currency>US\$|[$€£¥])?\s?"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w|\.\d))?)"
    r"(?P<scale>\s?(?:" + "|".join(sorted(SCALES, key=len, reverse=True)) + r")(?![a-z]))?"
    r"(?P<unit>[\s-]?(?:" + "|".join(map(re.escape, _UNIT_NAMES)) + r")(?![A-Za-z]))?"
)
_ABOUT = re.compile(
    r"(?:about|around|roughly|nearly|almost|approximately|some|over|~|约|大约|近|接近|左右)\s*$",
    re.IGNORECASE,
)
_SCALED = re.compile(
    rf"(?:in )?(?P<scale>{'|'.join(sorted(SCALES, key=len, reverse=True))})(?:s(?: of)?)?(?![a-z])\s*(?P<rest>.*)",
    re.IGNORECASE,
)
_YEARS = range(1400, 2201)


class Quantity(msgspec.Struct, frozen=True):
    """A number in a text.

    Attributes:
        value: number with its sign and scale.
        unit: unit as it is written; empty where there is none.
        raw: characters of the text.
        start, end: place of `raw` in the text.
        step: value of one unit of the last printed digit.
        about: whether a word of approximation stands before it.
    """

    value: Decimal
    unit: str
    raw: str
    start: int
    end: int
    step: Decimal
    about: bool = False

    @property
    def is_year(self) -> bool:
        """Whether this reads as a year: four digits without a scale; 年 is not a unit then."""
        return self.unit in ("", "年") and self.raw.rstrip(" 年").isdigit() and int(self.value) in _YEARS


def is_bounded(value: Decimal, most: int) -> bool:
    """Whether a number is finite, with no digit further than `most` places from the decimal point."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and abs(exponent) <= most and abs(value.adjusted()) <= most


def last_place(value: Decimal) -> Decimal:
    """One unit of the last printed digit of a number."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))


def quantities(text: str) -> Iterator[Quantity]:
    """Yield the numbers of a text in order, with scale and unit. Full-width digits count as digits."""
    plain = text.translate(_FULL_WIDTH)
    for match in _QUANTITY.finditer(plain):
        digits = match["number"].replace(",", "")
        number = Decimal(digits)
        if not is_bounded(number, MOST_DIGITS):
            continue
        scale = SCALES[match["scale"].strip()] if match["scale"] else 1
        value = EXACT.multiply(number, -scale if match["sign"] else scale)
        step = scale * last_place(number)
        unit = match["currency"] or (match["unit"] or "").strip(" -\n\t")
        start = match.start() + (len(match[0]) - len(match[0].lstrip()))
        before = plain[max(0, start - 16) : start]
        yield Quantity(value, unit, match[0].strip(), start, match.end(), step, bool(_ABOUT.search(before)))


@functools.lru_cache(maxsize=4096)
def dimension(unit: str) -> tuple[str, Decimal]:
    """Dimension of a unit and its factor to that dimension's own unit; an unknown unit is its own dimension.

    Heads of tables scale their units: `billion USD` is 10^9 dollars, and `million` is of no dimension.
    """
    scale, rest = _scaled(unit)
    name, factor = UNITS.get(rest, (rest, Decimal(1)))
    return name, factor * scale


def _scaled(unit: str) -> tuple[int, str]:
    """The scale that a unit begins with, 1 where it begins with none, and the rest of the unit."""
    match = None if unit in UNITS else _SCALED.fullmatch(unit)
    return (SCALES[match["scale"].lower()], match["rest"]) if match else (1, unit)


def agrees(printed: Quantity, value: Decimal, unit: str) -> bool:
    """Whether a printed number follows from a value: equal once rounded to the printed digits, in the same dimension.

    A missing unit on one side agrees with any: tables name the unit in their head, with its scale or without. Signs may
    differ where the text says a fall in words ("fell by 3 %").
    """
    ours, theirs = dimension(printed.unit), dimension(unit)
    if ours[0] and theirs[0] and ours[0] != theirs[0]:
        return False
    factors = {theirs[1] / ours[1]} if ours[0] and theirs[0] else {1, _scaled(unit)[0]}
    return any(_rounds_to(printed, EXACT.multiply(value, factor)) for factor in factors)


def _rounds_to(printed: Quantity, wanted: Decimal) -> bool:
    if not wanted.is_finite():
        return False
    size, ours = EXACT.abs(wanted), EXACT.abs(printed.value)
    tolerance = printed.step / 2
    if printed.about:
        tolerance = max(tolerance, EXACT.multiply(size, LOOSE))
    apart = EXACT.abs(EXACT.subtract(printed.value, wanted))
    return min(apart, EXACT.abs(EXACT.subtract(ours, size))) <= tolerance


def find_agreeing(printed: Quantity, candidates: Iterable[Quantity]) -> Quantity | None:
    """First quantity of a source that a printed number agrees with; None where there is none."""
    return next((one for one in candidates if agrees(printed, one.value, one.unit)), None)


@functools.lru_cache(maxsize=4096)
def passage_quantities(text: str) -> tuple[Quantity, ...]:
    """Numbers of a passage, remembered: a passage is asked for each sentence that cites it."""
    return tuple(quantities(text))


def parse_value(text: str) -> Quantity | None:
    """The one number that a cell or a field's value begins with; None where it begins with none."""
    first = next(quantities(text.strip()), None)
    return first if first is not None and first.start <= 1 else None


def plain_number(value: Decimal, *, digits: int = 3) -> str:
    """A value in digits for a sentence: thousands separated, a scale word's precision kept by rounding to `digits`."""
    size = abs(value)
    places = (
        0
        if size >= 1000 or value == value.to_integral_value()
        else max(0, digits - max(1, value.adjusted() + 1))
    )
    return f"{rounded(value, places):,f}"


def rounded(value: Decimal, places: int) -> Decimal:
    """A value rounded to so many decimal places, half to even, with all its digits before the point."""
    return value.quantize(Decimal(1).scaleb(-places), context=EXACT)
