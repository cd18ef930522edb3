"""Support of sentences: every number of a sentence is looked up in what the sentence cites.

A passage that a number is in is no proof that the sentence is true; a number that is in none of its passages is proof
that the sentence does not follow from them. That is what is decided here, without a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from noria.reports.evidence.quantities import Quantity, agrees, passage_quantities, quantities
from noria.reports.evidence.records import Book, Fact

Verdict = Literal["supported", "partial", "unsupported", "unknown"]
_SKIP = re.compile(
    (
        r"\[\[(?:(?!\[\[).){0,2000}?\]\]|<a\b(?:(?!<a\b).)*?</a>|\[\d[\d,\s–-]{0,200}\](?:\([^)]{0,2000}\))?"
        r"|(?:Figure|Table|Section|Fig\.)\s\d+|[图表]\s?\d+|^\s*\d+[.)、]\s"
    ),
    re.IGNORECASE | re.MULTILINE,
)


class Link(msgspec.Struct, frozen=True):
    """A number of a sentence, from character `start` to `end`, and the id it follows from; None where it
    follows from none.
    """

    start: int
    end: int
    target: str | None


class Support(msgspec.Struct, frozen=True):
    """Support of one sentence: its verdict, and each of its numbers with what it follows from."""

    verdict: Verdict
    links: tuple[Link, ...] = ()

    @property
    def missing(self) -> tuple[Link, ...]:
        """Numbers that follow from nothing cited."""
        return tuple(link for link in self.links if link.target is None)


def checked_quantities(text: str) -> list[Quantity]:
    """Numbers of a sentence that need support: all but markers, numbers of figures and items, and tokens of ids."""
    blank = _SKIP.sub(lambda match: "\x00" * len(match[0]), text)
    return list(quantities(blank))


def named_numbers(text: str, facts: Iterable[Fact]) -> dict[int, str]:
    """Numbers of a sentence that are part of a name, such as those of "unemployment rate (ages 15-24)".

    Args:
        text: the sentence.
        facts: facts whose measures and entities may be named in it.

    Returns:
        The id of a fact that has the name, by the place where the number begins. A name without letters is none.
    """
    names = {
        name: fact.id
        for fact in facts
        for name in (fact.measure, fact.entity)
        if any(c.isdigit() for c in name) and any(c.isalpha() for c in name)
    }
    lowered, found = text.lower(), dict[int, str]()
    for name, id in names.items():
        if name.lower() not in lowered:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            found |= {q.start: id for q in quantities(text) if match.start() <= q.start < match.end()}
    return found


def check_sentence(text: str, cites: Sequence[str], book: Book) -> Support:
    """Look up every number of a sentence in the facts, derived numbers and passages that it cites.

    Returns:
        `unknown` where it cites nothing that the ledger holds; else `supported`, `partial` or `unsupported` where all,
        some or none of its numbers follow from what is cited. Without numbers it is supported if its words are.
    """
    known = [id for id in cites if book.has(id)]
    if not known:
        return Support("unknown", tuple(Link(q.start, q.end, None) for q in checked_quantities(text)))
    numbers = checked_quantities(text)
    named = named_numbers(text, (fact for id in known for fact in book.facts_of(id))) if numbers else {}
    links = tuple(Link(q.start, q.end, named.get(q.start) or _target(q, known, book)) for q in numbers)
    if not links:
        return Support("supported" if _words_shared(text, known, book) else "unknown")
    found = sum(link.target is not None for link in links)
    return Support("supported" if found == len(links) else "partial" if found else "unsupported", links)


def _target(number: Quantity, cites: Iterable[str], book: Book) -> str | None:
    for id in cites:
        if id in book.derived and agrees(number, book.derived[id].value, book.derived[id].unit):
            return id
        for fact in book.facts_of(id):
            if number.is_year and str(int(number.value)) in f"{fact.period} {fact.entity} {fact.measure}":
                return fact.id
            if id not in book.derived and agrees(number, fact.value, fact.unit):
                return fact.id
            if f"/{number.raw}" in fact.unit:  # the thousand of "deaths/1,000 live births"
                return fact.id
    for id in cites:
        if id not in book.passages:
            continue
        text = book.passages[id].text
        if number.is_year:
            if re.search(rf"(?<!\d){int(number.value)}(?!\d)", text):
                return id
        elif any(agrees(number, q.value, q.unit) for q in passage_quantities(text)):
            return id
    return None


_WORD = re.compile(r"[a-z]{4,}|[\u4e00-\u9fff]{2}")


def _words_shared(text: str, cites: Iterable[str], book: Book) -> bool:
    """Whether a sentence without numbers shares at least a third of its longer words with what it cites."""
    words = set(_WORD.findall(text.lower()))
    if not words:
        return True
    cited = " ".join(
        book.passages[id].text
        if id in book.passages
        else " ".join(f"{f.entity} {f.measure}" for f in book.facts_of(id))
        for id in cites
    ).lower()
    return sum(word in cited for word in words) * 3 >= len(words)
