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
    if numbers[0].start <= 2:
        unit = numbers[0].unit or _unit_after(body, numbers[0])
        yield Fact(
            f"{source}#f{first}",
            entity,
            name,
            numbers[0].value,
            unit,
            period,
            numbers[0].raw,
            passage,
            estimate,
        )
        return
    for number in numbers:
        label = _LABELLED.search(
            body[: number.end].rsplit(",", 1)[-1] if "," in body[: number.start] else body[: number.end]
        )
        if label and number.unit == "%":
            yield Fact(
                f"{source}#f{first}",
                entity,
                f"{name}: {label['label'].strip()}",
                number.value,
                number.unit,
                period,
                number.raw,
                passage,
                estimate,
            )
            first += 1


def _unit_after(text: str, number: Quantity) -> str:
    """Words right after a number that name its unit, such as `births/1,000 population`."""
    match = re.match(r"\s?([A-Za-z°][A-Za-z°/.0-9,² ]{0,30}?)(?=\s*(?:$|\(|;|,\s))", text[number.end :])
    return match[1].strip() if match and not _NOTE.search(match[1]) else ""
