"""The bundle of a report: its folder, which holds the report in every format, its evidence and the archive it
is from.
"""

from __future__ import annotations

import graphlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.files import inside, read_bytes, write_atomic
from noria.reports.charts.records import ChartData
from noria.reports.document.blocks import Report, cited_ids
from noria.reports.document.markdown import write_markdown
from noria.reports.document.page import write_page
from noria.reports.evidence.records import Book, decode, encode

LARGEST = 32_000_000
"""Most bytes of a file of a bundle."""
DEEPEST = 100
"""Most steps by which a number is derived."""


@dataclass
class Bundle:
    """A report with its evidence, its charts, and the files of its figures by id: `png`, `svg`, `spec`."""

    report: Report
    book: Book
    charts: dict[str, ChartData]
    drawn: Mapping[str, Mapping[str, bytes]]
    house: str = ""

    def __post_init__(self) -> None:
        self.book = used(self.book, self.report, self.charts)

    def stale(self, since: str) -> tuple[str, ...]:
        """Ids of sources that were published before a date, and of facts whose period ended before it."""
        if not since:
            return ()
        dated = [(s.id, s.date) for s in self.book.sources.values()]
        dated += [(f.id, f.period) for f in self.book.facts.values() if f.period[:4].isdigit()]
        return tuple(id for id, date in dated if date and date < since[: len(date)])

    def write(self, folder: Path, index: Any = None) -> None:
        """Write every file of the bundle; one that is there with the same content is replaced by the same bytes.

        Args:
            folder: folder of the bundle.
            index: corpus that gives the archived text of each source; None keeps the archive that is there.

        Raises:
            RunError: the disk refuses.
        """
        for name in ("charts", "images", "archive"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if index is not None:
            for source in self.book.sources.values():
                write_atomic(folder / "archive" / f"{source.sha256}.txt", index.text(source.id), sync=False)
        for id, chart in self.charts.items():
            base = folder / "charts" / id
            write_atomic(base.with_suffix(".json"), encode(chart), sync=False)
            write_atomic(base.with_suffix(".csv"), _csv(chart), sync=False)
            write_atomic(base.with_suffix(".vl.json"), self.drawn[id]["spec"], sync=False)
            write_atomic(base.with_suffix(".svg"), self.drawn[id]["svg"], sync=False)
        for id, files in self.drawn.items():
            write_atomic(
                folder / ("charts" if id in self.charts else "images") / f"{id}.png", files["png"], sync=False
            )
        write_atomic(folder / "ledger.json", encode(self.book))
        write_atomic(folder / "report.json", encode(self.report))
        write_atomic(folder / "report.md", write_markdown(self.report, self.book))
        write_atomic(folder / "report.html", self.page())

    def page(self) -> str:
        """HTML of the report."""
        pictures = {id: files["png"] for id, files in self.drawn.items()}
        svgs = {id: files["svg"].decode() for id, files in self.drawn.items() if "svg" in files}
        return write_page(
            self.report, self.book, pictures=pictures, svgs=svgs, charts=self.charts, house=self.house
        )


def used(book: Book, report: Report, charts: Mapping[str, ChartData]) -> Book:
    """The part of a ledger that a report and its charts name, with all that stands behind it, in order."""
    kept = Book()
    waiting = cited_ids(report) + [cell.target for chart in charts.values() for cell in chart.cells]
    seen: set[str] = set()
    while waiting:
        id = waiting.pop(0)
        if id in seen:
            continue
        seen.add(id)
        source = id.partition("#")[0]
        if source in book.sources:
            kept.add(book.sources[source])
        if id in book.derived:
            kept.add(book.derived[id])
            waiting += book.derived[id].operands
        elif id in book.facts:
            kept.add(book.facts[id])
            if book.facts[id].passage:
                waiting.append(book.facts[id].passage)
        elif id in book.passages:
            kept.add(book.passages[id])
    return kept


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle back.

    Raises:
        DataError: it is none, or a file of it is missing or damaged.
    """
    report = decode(read_bytes(folder / "report.json", limit=LARGEST), Report, str(folder / "report.json"))
    book = decode(read_bytes(folder / "ledger.json", limit=LARGEST), Book, str(folder / "ledger.json"))
    _check(book, str(folder / "ledger.json"))
    charts: dict[str, ChartData] = {}
    drawn: dict[str, dict[str, bytes]] = {}
    for section in report.sections:
        for block in section.blocks:
            path = getattr(block, "path", None)
            if path is None:
                continue
            id = block.id  # type: ignore[union-attr]
            if not id.isalnum():
                raise DataError(f"a figure of the id {id!r}", where=str(folder / "report.json"))
            drawn[id] = {"png": read_bytes(inside(folder, path), limit=LARGEST)}
            if path.startswith("charts/"):
                base = folder / "charts" / id
                charts[id] = decode(
                    read_bytes(base.with_suffix(".json"), limit=LARGEST),
                    ChartData,
                    str(base.with_suffix(".json")),
                )
                drawn[id] |= {
                    "svg": read_bytes(base.with_suffix(".svg"), limit=LARGEST),
                    "spec": read_bytes(base.with_suffix(".vl.json"), limit=LARGEST),
                }
    return Bundle(report, book, charts, drawn)


def _check(book: Book, where: str) -> None:
    """Refuse a ledger whose derived numbers follow from one another in a circle.

    Raises:
        DataError: it has such a circle, or one that is derived a thousand times over.
    """
    operands = {
        id: [one for one in entry.operands if one in book.derived] for id, entry in book.derived.items()
    }
    depth: dict[str, int] = {}
    try:
        for id in graphlib.TopologicalSorter(operands).static_order():
            depth[id] = 1 + max((depth[one] for one in operands[id]), default=0)
    except graphlib.CycleError:
        raise DataError("derived numbers that follow from each other", where=where) from None
    if max(depth.values(), default=0) > DEEPEST:
        raise DataError(f"a number that is derived more than {DEEPEST} times over", where=where)


def spec_of(raw: bytes, where: str) -> dict[str, Any]:
    """A chart's specification.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise DataError("not a specification", where=where)
    return value


def _csv(chart: ChartData) -> str:
    from noria.reports.evidence.tables import Table

    return Table(chart.columns, chart.rows).csv()
