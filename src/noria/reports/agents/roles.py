"""The roles of the paper's agents, what a writer may know, and the engine that plays all of them without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from noria.reports.agents.contracts import Plan, Requirement, SectionPlan
from noria.reports.agents.extractive import make_chart, plan_request
from noria.reports.agents.images import Picture, find_image
from noria.reports.agents.requests import Request, translated_query
from noria.reports.agents.series import Series
from noria.reports.agents.writer import Figure, write_section
from noria.reports.charts.records import ChartData
from noria.reports.document.blocks import Section
from noria.reports.evidence.records import Book
from noria.reports.search.index import Index


@dataclass
class Context:
    """What the writer of a section may know: request, index, ledger, and titles, summaries and headings before it.

    Attributes:
        request: the request.
        index: the corpus.
        book: the ledger of the report.
        before: id, title, summary and headings of each earlier section, and not their prose (the paper's C).
        removed: sentences that were removed because a number had no support, for the record.
    """

    request: Request
    index: Index
    book: Book
    before: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class Agents(Protocol):
    """Who plans, searches, draws up visuals and writes: the extractive engine, or a model. One contract for both.

    Each method may raise SpentError, which ends the run with a partial report.
    """

    def queries(self, request: Request, language: str, seen: Sequence[str]) -> tuple[str, ...]:
        """Queries for a search in a language; none where the titles seen are enough."""
        ...

    def plan(self, request: Request, index: Index, book: Book) -> Plan:
        """Outline of a request."""
        ...

    def chart(
        self, need: Requirement, section: SectionPlan, request: Request, index: Index, book: Book
    ) -> ChartData | str:
        """Data of a chart, every cell with its source; or why there is none."""
        ...

    def image(self, need: Requirement, request: Request, index: Index, book: Book) -> Picture | str:
        """A picture of the corpus and its PNG; or why there is none."""
        ...

    def write(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> Section:
        """A body section, whose numbers all follow from the ledger."""
        ...


class Extractive:
    """The engine without a model."""

    def queries(self, request: Request, language: str, seen: Sequence[str]) -> tuple[str, ...]:
        """The request, in the words of the language where the glossary has them; nothing more once it was searched."""
        return () if seen else (translated_query(request, language)[:400],)

    def plan(self, request: Request, index: Index, book: Book) -> Plan:
        """Outline by grammar and vocabulary."""
        return plan_request(request, index)

    def chart(
        self, need: Requirement, section: SectionPlan, request: Request, index: Index, book: Book
    ) -> ChartData | str:
        """Data of a chart by rule."""
        return make_chart(need, section, request, index, book)

    def image(self, need: Requirement, request: Request, index: Index, book: Book) -> Picture | str:
        """The picture whose caption fits best."""
        return find_image(need, request, index, book)

    def write(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> Section:
        """Statements of the section's numbers."""
        return write_section(section, series, figures, context.request, context.index, context.book)
