"""Web search by services with a key (Tavily, Brave, Serper) or without (SearXNG), and pages fetched behind the guard.

A key is read from the environment variable of the service, sent to its address only, and written nowhere. Results are
addresses; a page is a source only once it was fetched, read and archived.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from noria.core.errors import ConfigError, DataError, NoriaError, RunError, require
from noria.reports.reading.documents import Document
from noria.reports.reading.folders import READERS, read_image
from noria.reports.search.guard import Resolve, fetch, resolve
from noria.reports.search.protocol import Hit, SourceRules, fuse

KEYS = {"tavily": "TAVILY_API_KEY", "brave": "BRAVE_API_KEY", "serper": "SERPER_API_KEY"}
ADDRESSES = {
    "tavily": "https://api.tavily.com/search",
    "brave": "https://api.search.brave.com/res/v1/web/search",
    "serper": "https://google.serper.dev/search",
}
SERVICES = (*KEYS, "searxng")
LARGEST_REPLY = 4_000_000
MEDIA = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "application/pdf": ".pdf",
}
Request = tuple[str, str, Mapping[str, Any]]
"""Method, address, and what `httpx2` takes besides."""


class WebSearch:
    """A search service on the web.

    Args:
        service: name of the service, one of `SERVICES`.
        url: address of a SearXNG instance, or another address of the service.
        client: an `httpx2.Client`; by default one of its own.

    Raises:
        ConfigError: an unknown service, no key in the environment, or no address of SearXNG.
    """

    def __init__(self, service: str, url: str | None = None, client: Any = None) -> None:
        if service not in SERVICES:
            raise ConfigError(
                f"no service {service!r}", where="--service", mend=f"choose from {', '.join(SERVICES)}"
            )
        if service == "searxng" and not url:
            raise ConfigError("no address of SearXNG", where="--service-url", mend="give one")
        self.service, self.url = service, url or ADDRESSES[service]
        self.key = os.environ.get(KEYS[service], "") if service in KEYS else ""
        if service in KEYS and not self.key:
            raise ConfigError(
                "no key", where=KEYS[service], mend=f"set the environment variable {KEYS[service]}"
            )
        self.client = client or require("httpx2", "reports").Client(timeout=30.0)

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Addresses for a query, best first.

        Raises:
            RunError: the service did not answer with results.
        """
        method, url, more = self._request(query, k)
        try:
            reply = self.client.request(method, url, **more)
            if reply.status_code != 200:
                raise RunError(f"the service answers {reply.status_code}", where=self.service)
            if len(reply.content) > LARGEST_REPLY:
                raise RunError(f"a reply of more than {LARGEST_REPLY:,} bytes", where=self.service)
            value = reply.json()
        except (ValueError, require("httpx2", "reports").HTTPError) as error:
            raise RunError(f"no results: {type(error).__name__}", where=self.service) from None
        return list(_hits(_results(value, self.service)))[:k]

    def _request(self, query: str, k: int) -> Request:
        headers = {"User-Agent": "noria-reports"}
        match self.service:
            case "tavily":
                headers["Authorization"] = f"Bearer {self.key}"
                return "POST", self.url, {"headers": headers, "json": {"query": query, "max_results": k}}
            case "brave":
                headers["X-Subscription-Token"] = self.key
                return "GET", self.url, {"headers": headers, "params": {"q": query, "count": min(k, 20)}}
            case "serper":
                headers["X-API-KEY"] = self.key
                return "POST", self.url, {"headers": headers, "json": {"q": query, "num": k}}
        return (
            "GET",
            f"{self.url.rstrip('/')}/search",
            {"headers": headers, "params": {"q": query, "format": "json"}},
        )


def _results(value: Any, service: str) -> Sequence[Any]:
    part = value.get("web", {}) if service == "brave" and isinstance(value, dict) else value
    listed = part.get("organic" if service == "serper" else "results") if isinstance(part, dict) else None
    return listed if isinstance(listed, list) else []


def _hits(results: Sequence[Any]) -> Iterator[Hit]:
    for rank, entry in enumerate(results):
        if not isinstance(entry, dict):
            continue
        url = str(entry.get("url") or entry.get("link") or "")
        if url.startswith(("https://", "http://")):
            date = str(entry.get("published_date") or entry.get("publishedDate") or entry.get("date") or "")[
                :10
            ]
            words = str(entry.get("content") or entry.get("description") or entry.get("snippet") or "")
            known = date if date[:4].isdigit() else ""
            yield Hit(
                "", url, str(entry.get("title") or url), 1 / (1 + rank), date=known, snippet=words[:500]
            )


def gather(
    services: Sequence[WebSearch], queries: Sequence[str], rules: SourceRules, k: int, warnings: list[str]
) -> list[Hit]:
    """Results of several services and queries, fused; a service that fails is named and left out."""
    lists = []
    for query in queries:
        for service in services:
            try:
                lists.append(service.search(query, k))
            except RunError as error:
                warnings.append(str(error))
    return fuse(lists, rules, k)


def read_pages(
    urls: Sequence[str], warnings: list[str], *, client: Any = None, resolver: Resolve = resolve
) -> Iterator[Document]:
    """Yield the documents of addresses; what cannot be fetched or is no source is named and left out."""
    client = client or require("httpx2", "reports").Client(timeout=30.0, follow_redirects=False)
    for url in dict.fromkeys(urls):
        try:
            final, media, raw = fetch(url, client=client, resolver=resolver)
            documents = _read(final, media, raw)
        except NoriaError as error:
            warnings.append(str(error))
            continue
        for document in documents:
            if document.blocked or document.empty:
                warnings.append(
                    f"{url}: a page that asks for JavaScript or a captcha, or is empty, is no source"
                )
            else:
                yield document


def _read(url: str, media: str, raw: bytes) -> list[Document]:
    """Documents of a fetched page by its media type, else by the ending of its address.

    Raises:
        DataError: neither is read.
    """
    if media.startswith("image/"):
        return [read_image(raw, url)]
    suffix = MEDIA.get(media) or "." + urlsplit(url).path.rpartition(".")[2].lower()
    reader: Callable[[bytes, str], list[Document]] | None = READERS.get(suffix)
    if reader is None:
        raise DataError(f"pages of type {media!r} are not read", where=url[:120])
    return reader(raw, url)
