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
from noria.core.fetching import Resolve, fetch, resolve, within
from noria.core.records import json_value
from noria.reports.reading.documents import Document, Picture
from noria.reports.reading.folders import READERS, read_image
from noria.reports.search.protocol import Hit, ImageHit, SearchService, SourceRules, fuse

KEYS = {"tavily": "TAVILY_API_KEY", "brave": "BRAVE_API_KEY", "serper": "SERPER_API_KEY"}
ADDRESSES = {
    "tavily": "https://api.tavily.com/search",
    "brave": "https://api.search.brave.com/res/v1/web/search",
    "serper": "https://google.serper.dev/search",
}
SERVICES = (*KEYS, "searxng")
LARGEST_REPLY = 4_000_000
"""Most bytes of a service's reply."""
SECONDS = 60.0
"""Most seconds of a service's reply, from the first byte of the request to the last of the reply."""
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
            raise ConfigError("no address of SearXNG", where="--searxng", mend="give one")
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
        return list(read_hits(_results(self._answer(*self._request(query, k)), self.service)))[:k]

    def images(self, query: str, k: int = 5) -> list[ImageHit]:
        """Addresses of pictures for a query with their captions, best first.

        Raises:
            RunError: the service did not answer with results.
        """
        return list(_pictures(_results(self._answer(*self._request(query, k, images=True)), self.service)))[
            :k
        ]

    def _answer(self, method: str, url: str, more: Mapping[str, Any]) -> Any:
        try:
            with (
                within(SECONDS, self.service) as extensions,
                self.client.stream(method, url, extensions=extensions, **more) as reply,
            ):
                if reply.status_code != 200:
                    raise RunError(f"the service answers {reply.status_code}", where=self.service)
                raw = bytearray()
                for part in reply.iter_bytes():
                    raw += part
                    if len(raw) > LARGEST_REPLY:
                        raise RunError(f"a reply of more than {LARGEST_REPLY:,} bytes", where=self.service)
            return json_value(bytes(raw), self.service)
        except DataError as error:
            raise RunError(f"no results: {error.what}", where=self.service) from None
        except (ValueError, require("httpx2", "reports").HTTPError) as error:
            raise RunError(f"no results: {type(error).__name__}", where=self.service) from None

    def _request(self, query: str, k: int, *, images: bool = False) -> Request:
        headers = {"User-Agent": "noria-reports"}
        match self.service:
            case "tavily":
                headers["Authorization"] = f"Bearer {self.key}"
                wanted = {"include_images": True, "include_image_descriptions": True} if images else {}
                body = {"query": query, "max_results": k, **wanted}
                return "POST", self.url, {"headers": headers, "json": body}
            case "brave":
                headers["X-Subscription-Token"] = self.key
                url = self.url.replace("/web/search", "/images/search") if images else self.url
                return "GET", url, {"headers": headers, "params": {"q": query, "count": min(k, 20)}}
            case "serper":
                headers["X-API-KEY"] = self.key
                url = self.url.replace("/search", "/images") if images else self.url
                return "POST", url, {"headers": headers, "json": {"q": query, "num": k}}
        params = {"q": query, "format": "json"} | ({"categories": "images"} if images else {})
        return "GET", f"{self.url.rstrip('/')}/search", {"headers": headers, "params": params}


def web_services(names: Sequence[str], searxng: str | None) -> list[WebSearch]:
    """Search services by name; an address of SearXNG names that service by itself.

    Raises:
        ConfigError: an unknown service, no key in the environment, or no address of SearXNG.
    """
    chosen = dict.fromkeys((*names, *(["searxng"] if searxng else [])))
    return [WebSearch(name, searxng if name == "searxng" else None) for name in chosen]


def _results(value: Any, service: str) -> Sequence[Any]:
    """The list of results in a reply, of pages or of pictures."""
    if not isinstance(value, dict):
        return []
    part = value.get("web", value) if service == "brave" else value
    names = ("organic", "images") if service == "serper" else ("images", "results")
    found = [part.get(name) for name in names] if isinstance(part, dict) else []
    return next((listed for listed in found if isinstance(listed, list) and listed), [])


def read_hits(results: Sequence[Any]) -> Iterator[Hit]:
    """Yield the addresses of results as services name them; an entry without an address of the web is left out."""
    for rank, entry in enumerate(results):
        if not isinstance(entry, dict):
            continue
        url = str(entry.get("url") or entry.get("link") or "")
        if url.startswith(("https://", "http://")):
            day = entry.get("published_date") or entry.get("publishedDate") or entry.get("date") or ""
            date = str(day)[:10] if str(day)[:4].isdigit() else ""
            words = str(entry.get("content") or entry.get("description") or entry.get("snippet") or "")
            title = str(entry.get("title") or url)[:300]
            yield Hit("", url, title, 1 / (1 + rank), date=date, snippet=words[:500])


def _pictures(results: Sequence[Any]) -> Iterator[ImageHit]:
    for rank, entry in enumerate(results):
        if isinstance(entry, dict):
            inner = entry.get("properties")
            given = (
                entry.get("img_src"),
                entry.get("imageUrl"),
                inner.get("url") if isinstance(inner, dict) else None,
            )
            url = str(next((one for one in (*given, entry.get("url")) if one), ""))
            caption = str(entry.get("title") or entry.get("description") or "")[:300]
            if url.startswith(("https://", "http://")) and caption:
                yield ImageHit("", url, caption, 1 / (1 + rank))


def gather(
    services: Sequence[SearchService], queries: Sequence[str], rules: SourceRules, k: int, warnings: list[str]
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
    client = client or web_client()
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


def read_pictures(
    hits: Sequence[ImageHit], warnings: list[str], *, client: Any = None, resolver: Resolve = resolve
) -> Iterator[Document]:
    """Yield pictures of the web as documents under their captions; what is no picture is named and left out."""
    client = client or web_client()
    for hit in {one.url: one for one in reversed(hits)}.values():
        try:
            final, media, raw = fetch(hit.url, client=client, resolver=resolver)
            if not media.startswith("image/"):
                raise DataError(f"a page of type {media!r} is no picture", where=hit.url[:120])
        except NoriaError as error:
            warnings.append(str(error))
            continue
        yield Document(final, hit.caption, pictures=[Picture(raw, hit.caption, final)], origin=raw)


def web_client() -> Any:
    """Client for pages, which leaves redirects to the guard."""
    return require("httpx2", "reports").Client(timeout=30.0, follow_redirects=False)


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
    try:
        return reader(raw, url)
    except DataError as error:
        error.where = error.where or url[:120]
        raise
