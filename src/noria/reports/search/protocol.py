"""The protocol of search: hits of passages and pictures, and their fusion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

import msgspec
from pydantic import Field

from noria.core.config import Config


class Hit(msgspec.Struct, frozen=True):
    """A result of a search.

    Attributes:
        id: id of a passage of a local index; empty for a page that is to be fetched.
        url: address or path.
        title: title of the source.
        score: score of the service; larger is better, and not comparable between services.
        heading: headings above the passage.
        date: publication date, where known.
        snippet: text that a web service shows.
    """

    id: str
    url: str
    title: str
    score: float
    heading: str = ""
    date: str = ""
    snippet: str = ""


class ImageHit(msgspec.Struct, frozen=True):
    """A picture that a search gives: its source's id, or an address to fetch, with its caption."""

    id: str
    url: str
    caption: str
    score: float = 0.0


class SearchService(Protocol):
    """A service that answers queries: a local index, a web service, an MCP server."""

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Best results for a query, best first.

        Raises:
            RunError: the service failed; a fused search goes on without it, and counts the failure.
        """
        ...


class SourceRules(Config):
    """Which sources a report may use."""

    section: ClassVar[str] = "Sources"

    only: tuple[str, ...] = Field((), description="Domains or path prefixes that sources must come from.")
    prefer: tuple[str, ...] = Field((), description="Domains or path prefixes that are ranked first.")
    never: tuple[str, ...] = Field((), description="Domains or path prefixes that no source may come from.")
    per_domain: int = Field(50, ge=1, description="Most results of one domain in one search.")
    since: str = Field(
        "",
        pattern=r"^(\d{4}(-\d\d){0,2})?$",
        description="Earliest publication date of a source: YYYY, YYYY-MM or YYYY-MM-DD.",
    )
    until: str = Field(
        "",
        pattern=r"^(\d{4}(-\d\d){0,2})?$",
        description="Latest publication date of a source (as-of date): YYYY, YYYY-MM or YYYY-MM-DD.",
    )

    def allows(self, url: str, date: str = "") -> bool:
        """Whether a source may be used. A source without a date is not refused by dates; it is marked as undated."""
        if any(is_under(url, rule) for rule in self.never):
            return False
        if self.only and not any(is_under(url, rule) for rule in self.only):
            return False
        return not date or (
            (not self.since or date[: len(self.since)] >= self.since[: len(date)])
            and (not self.until or date[: len(self.until)] <= self.until)
        )


def domain_of(url: str) -> str:
    """Domain of an address; the first folder of a path."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return re.sub(r"^www\.", "", (parts.hostname or "").lower())
    return url.partition("/")[0] if "/" in url else ""


def is_under(url: str, rule: str) -> bool:
    """Whether an address is of a domain or one below it, or below a path."""
    host = domain_of(url)
    return host == rule or host.endswith("." + rule) or url.startswith(rule.rstrip("/") + "/") or url == rule


def fuse(lists: Sequence[Sequence[Hit]], rules: SourceRules, k: int, *, constant: int = 60) -> list[Hit]:
    """Reciprocal rank fusion of several result lists: a hit's score is the sum of 1 / (60 + rank).

    Cormack, Clarke and Büttcher 2009, whose constant is 60. Preferred sources come first; each domain has at most
    `per_domain` hits.
    """
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for results in lists:
        for rank, hit in enumerate(results, 1):
            if rules.allows(hit.url, hit.date):
                key = hit.id or hit.url
                scores[key] = scores.get(key, 0.0) + 1 / (constant + rank)
                hits.setdefault(key, hit)
    preferred = {key for key, hit in hits.items() if any(is_under(hit.url, rule) for rule in rules.prefer)}
    ordered = sorted(hits, key=lambda key: (key not in preferred, -scores[key], key))
    return list(_capped((hits[key] for key in ordered), rules.per_domain))[:k]


def search_all(service: SearchService, queries: Sequence[str], k: int) -> list[Hit]:
    """Best results for several queries, fused where there is more than one."""
    lists = [service.search(query, k) for query in queries]
    return lists[0] if len(lists) == 1 else fuse(lists, SourceRules(), k)


def _capped(hits: Iterable[Hit], most: int) -> Iterable[Hit]:
    seen: dict[str, int] = {}
    for hit in hits:
        domain = domain_of(hit.url)
        seen[domain] = seen.get(domain, 0) + 1
        if seen[domain] <= most:
            yield hit
