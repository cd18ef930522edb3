"""Numbers of references and figures: one number a source, in the order of first citation; a pure function."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from noria.reports.document.blocks import LABELS, Report, cited_ids, figures
from noria.reports.evidence.records import Book, Source


class Numbering(msgspec.Struct, frozen=True):
    """Number of each source and of each figure by id, and the sources in order."""

    sources: dict[str, int]
    figures: dict[str, int]
    order: tuple[Source, ...]

    def markers(self, cites: Sequence[str], book: Book) -> list[int]:
        """Reference numbers of ids, ascending, each once."""
        numbers = {self.sources[s] for id in cites for s in book.sources_of(id) if s in self.sources}
        return sorted(numbers)


def shortened(numbers: Sequence[int], most: int = 12) -> list[int | None]:
    """Numbers of a caption: all of them, or of many the first, a gap (None) and the last; the list has them all."""
    return list(numbers) if len(numbers) <= most else [*numbers[: most - 1], None, numbers[-1]]


def number(report: Report, book: Book) -> Numbering:
    """Number the sources that a report cites, and its figures.

    Two records of one address with the same text are one reference; two addresses are never merged, whatever their
    titles are, so that a citation never points to another source.
    """
    sources: dict[str, int] = {}
    seen: dict[tuple[str, str], int] = {}
    order: list[Source] = []
    for id in cited_ids(report):
        for name in book.sources_of(id):
            if name in sources or name not in book.sources:
                continue
            source = book.sources[name]
            key = (canonical(source.url), source.sha256)
            if key not in seen:
                order.append(source)
                seen[key] = len(order)
            sources[name] = seen[key]
    return Numbering(sources, {figure.id: n for n, figure in enumerate(figures(report), 1)}, tuple(order))


def canonical(url: str) -> str:
    """An address without what does not tell pages apart: case of the host, fragment, trailing slash, tracking terms."""
    from urllib.parse import parse_qsl, urlencode, urlsplit

    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https"):
        return url.strip()
    query = [
        (k, v)
        for k, v in parse_qsl(parts.query, keep_blank_values=True)
        if not re.match(r"utm_|fbclid|gclid", k)
    ]
    host = (parts.hostname or "").removeprefix("www.")
    return f"https://{host}{parts.path.rstrip('/')}{'?' + urlencode(query) if query else ''}"


def reference_text(source: Source, report: Report | None = None) -> str:
    """A reference in words: publisher (date). title; with a mark where the report holds it for stale."""
    date = source.date[:4] or "n.d."
    text = f"{source.publisher + ' ' if source.publisher else ''}({date}). {source.title.rstrip('.')}."
    stale = report is not None and source.id in report.stale
    return f"{text} [{LABELS[report.language]['stale']}]" if report is not None and stale else text
