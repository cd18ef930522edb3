"""Facts in text: `value (period est.)` under a path of headings, as encyclopaedias and fact sheets print them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from noria.reports.evidence.quantities import Quantity, quantities
from noria.reports.evidence.records import Fact

_PERIOD = re.compile(r"\(([^()]*?\b((?:1[5-9]|20|21)\d\d)(?:\s*est\.?)?[^()]*?)\)")
_TRAILING_YEAR = re.compile(r"[\s,–-]*\b(1[5-9]|20|21)\d\d$")
_NOTE = re.compile(r"\b(note|see)\b", re.IGNORECASE)
_LABELLED = re.compile(r"(?P<label>[A-Za-z][A-Za-z /()'-]{1,40}?)\s+(?=[$€£]?\d)")


def field_facts(
    entity: str, measure: str, text: str, *, source: str, passage: str, first: int
) -> Iterator[Fact]:
    """Yield the facts of a field such as `3.732 trillion (2024 est.)`, or of `urban 82%, rural 18% (2024)`.

    Args:
        entity: what the field is about.
        measure: name of the field; a year at its end is the period.
        text: value of the field.
        source: id of the source.
        passage: id of the passage that holds the text.
        first: number of the first fact's id.
    """
    year = _TRAILING_YEAR.search(measure)
    name = _TRAILING_YEAR.sub("", measure) if year else measure
    found = _PERIOD.search(text)
    period = found[2] if found else (year[0].strip(" ,–-") if year else "")
    estimate = bool(found and "est" in found[1])
    body = text[: found.start()] if found else text
    if len(body) > 240:
        return
    numbers = [q for q in quantities(body) if not (q.is_year and len(body) > 12)]
    if not numbers:
        return
    found_in = (period, passage, estimate)
    if numbers[0].start <= 2:
        unit = numbers[0].unit or _unit_after(body, numbers[0])
        yield _fact(f"{source}#f{first}", (entity, name), numbers[0], unit, found_in)
        return
    for number in numbers:
        before = body[: number.end].rsplit(",", 1)[-1] if "," in body[: number.start] else body[: number.end]
        label = _LABELLED.search(before)
        if label and number.unit == "%":
            what = (entity, f"{name}: {label['label'].strip()}")
            yield _fact(f"{source}#f{first}", what, number, "%", found_in)
            first += 1


def _fact(id: str, what: tuple[str, str], number: Quantity, unit: str, found: tuple[str, str, bool]) -> Fact:
    """A fact of entity and measure, and of period, passage and whether it is an estimate."""
    period, passage, estimate = found
    return Fact(id, *what, number.value, unit, period, number.raw, passage, estimate)


def _unit_after(text: str, number: Quantity) -> str:
    """Words right after a number that name its unit, such as `births/1,000 population`."""
    match = re.match(r"\s?([A-Za-z°][A-Za-z°/.0-9,² ]{0,30}?)(?=\s*(?:$|\(|;|,\s))", text[number.end :])
    return match[1].strip() if match and not _NOTE.search(match[1]) else ""
