"""The four stages as one job over a folder: plan, visuals, sections, rendering. A killed job resumes with the same
bytes.

Each stage's result is a file of `stages/` under the digest of what it was made from. A stage whose inputs did not
change is read and not made again, so that an edited `plan.json`, a new index or another house template redo only what
follows from them.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from noria.core.errors import ConfigError, NoriaError
from noria.core.files import write_atomic
from noria.core.progress import Progress
from noria.reports.agents.contracts import Plan, Requirement, SectionPlan, repair_plan, requirements
from noria.reports.agents.extractive import make_chart, plan_request, section_series
from noria.reports.agents.images import find_image
from noria.reports.agents.requests import Request, read_request
from noria.reports.agents.series import Series
from noria.reports.agents.writer import Figure, chart_figure, write_edge, write_section
from noria.reports.charts.drawing import draw
from noria.reports.charts.records import ChartData
from noria.reports.document.blocks import FigureBlock, Missing, Report, Section
from noria.reports.document.bundle import Bundle
from noria.reports.evidence.records import Book, decode, digest, encode
from noria.reports.search.index import Index

T = TypeVar("T")


class Agents(Protocol):
    """What plans and writes: the extractive engine, or a model. Charts and pictures are chosen by their contracts."""

    def plan(self, request: Request, index: Index, book: Book) -> Plan:
        """Outline of a request."""
        ...

    def write(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> Section:
        """A body section, whose numbers all follow from the ledger."""
        ...


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


class Extractive:
    """The engine without a model."""

    def plan(self, request: Request, index: Index, book: Book) -> Plan:
        """Outline by grammar and vocabulary."""
        return plan_request(request, index)

    def write(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> Section:
        """Statements of the section's numbers."""
        return write_section(section, series, figures, context.request, context.index, context.book)


@dataclass
class Limits:
    """Limits of a run. Whatever was finished before one is reached becomes a partial report that says so.

    Attributes:
        seconds: most seconds of the whole run; None for no limit.
        reserve: seconds of it that are kept for rendering.
        visuals: threads that draw visuals at once.
        stop: set by another thread to end the run as a limit does.
    """

    seconds: float | None = None
    reserve: float = 10.0
    visuals: int = 2
    began: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)

    def spent(self) -> bool:
        """Whether only the time reserved for rendering is left."""
        if self.stop.is_set():
            return True
        return self.seconds is not None and time.monotonic() - self.began > max(
            0.0, self.seconds - self.reserve
        )


@dataclass
class Job:
    """A report in the making: its folder, agents and limits.

    Attributes:
        folder: folder of the bundle.
        index: the corpus.
        agents: what plans and writes.
        limits: limits of the run.
        text_only: whether no visual is made.
        charts, images: whether charts and pictures are made.
        until: date until which sources count.
        since: date before which sources are marked as stale.
        countries: TopoJSON for maps.
        house: style sheet of a house.
        version: what the stages depend on beside the request: model, corpus, settings.
    """

    folder: Path
    index: Index
    agents: Agents = field(default_factory=Extractive)
    limits: Limits = field(default_factory=Limits)
    charts: bool = True
    images: bool = True
    until: str = ""
    since: str = ""
    countries: Any = None
    house: str = ""
    version: str = ""
    progress: Progress | None = None

    def plan(self, text: str) -> tuple[Request, Plan]:
        """Request and plan; a plan that the user edited is read, mended and kept.

        Raises:
            ConfigError: the request is empty.
        """
        if not text.strip():
            raise ConfigError("an empty request", where="REQUEST", mend="say what the report is about")
        request = read_request(text, self.index)
        path = self.folder / "plan.json"
        if path.is_file():
            plan = decode(path.read_bytes(), Plan, str(path))
        else:
            plan = self._stage("plan", [text], Plan, lambda: self.agents.plan(request, self.index, Book()))
        plan, _ = repair_plan(plan)
        write_atomic(path, encode(plan))
        return request, plan

    def write(self, text: str) -> Bundle:
        """Make the report and write its bundle.

        Raises:
            ConfigError: the request is empty.
            RunError: the disk refuses.
        """
        request, plan = self.plan(text)
        book = Book()
        stopped = ""
        charts, figures, missing = self._visuals(plan, request, book)
        sections: list[Section] = []
        context = Context(request, self.index, book)
        all_series: list[Series] = []
        for section in plan.sections[1:-1]:
            if self.limits.spent():
                stopped = (
                    f"时间用尽，{section.title} 起未写"
                    if plan.language == "zh"
                    else f"the time limit ended the run before {section.title!r}"
                )
                missing += [
                    Missing(s.id, s.title, stopped) for s in plan.sections[plan.sections.index(section) : -1]
                ]
                break
            series = [
                s for m in section.measures if (s := section_series(m, section, request, self.index, book))
            ]
            all_series += series
            own = [figures[v.id] for v in section.visuals if v.id in figures]
            made = self._stage(
                f"section-{section.id}",
                [encode(section), encode(context.before), *[f.id for f in own]],
                _Written,
                functools.partial(self._written, section, series, own, context),
            )
            for part in (made.book.sources, made.book.passages, made.book.facts, made.book.derived):
                book.add(*part.values())
            sections.append(made.section)
            context.before.append(
                {"id": section.id, "title": section.title, "summary": section.summary, "headings": []}
            )
        first = write_edge(plan.sections[0], plan, request, all_series, book)
        last = write_edge(plan.sections[-1], plan, request, all_series, book)
        report = Report(
            plan.title,
            plan.language,
            (first, *sections, last),
            (*plan.dropped, *missing),
            stopped,
            self.until,
        )
        bundle = Bundle(report, book, charts, dict(self._drawn.items()), house=self.house)
        report = msgspec.structs.replace(report, stale=bundle.stale(self.since))
        bundle = Bundle(report, bundle.book, charts, self._drawn, house=self.house)
        bundle.write(self.folder, self.index)
        return bundle

    def _written(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> _Written:
        """A section by the agents, with the ledger after it."""
        return _Written(self.agents.write(section, series, figures, context), context.book)

    # -- visuals ------------------------------------------------------------------------------------------------------

    def _visuals(
        self, plan: Plan, request: Request, book: Book
    ) -> tuple[dict[str, ChartData], dict[str, Figure], list[Missing]]:
        """Make every visual, several at once; each ends as a figure or as an entry of what is missing, with
        its reason.
        """
        self._drawn: dict[str, dict[str, bytes]] = {}
        charts: dict[str, ChartData] = {}
        figures: dict[str, Figure] = {}
        missing: list[Missing] = []
        sections = {v.id: section for section in plan.sections for v in section.visuals}
        wanted: list[tuple[Requirement, ChartData]] = []
        for need in requirements(plan):
            if need.kind == "image":
                found = find_image(need, request, self.index, book) if self.images else _off(request)
                if isinstance(found, str):
                    missing.append(Missing(need.id, need.goal, found))
                else:
                    figures[need.id], png = found
                    self._drawn[need.id] = {"png": png}
                continue
            made: ChartData | str = (
                make_chart(need, sections[need.id], request, self.index, book)
                if self.charts
                else _off(request)
            )
            if isinstance(made, str):
                missing.append(Missing(need.id, need.goal, made))
            else:
                wanted.append((need, made))
        with concurrent.futures.ThreadPoolExecutor(max(1, self.limits.visuals)) as pool:
            drawings = list(pool.map(lambda pair: self._draw(pair[1]), wanted))
        for (need, chart), drawing in zip(wanted, drawings, strict=True):
            if isinstance(drawing, str):
                missing.append(Missing(need.id, need.goal, drawing))
                continue
            charts[chart.id], figures[chart.id] = chart, chart_figure(chart)
            self._drawn[chart.id] = drawing
        return charts, figures, missing

    def _draw(self, chart: ChartData) -> dict[str, bytes] | str:
        """Draw a chart; one that cannot be drawn as asked is tried once as bars."""
        for kind in dict.fromkeys((chart.kind, "bar")):
            try:
                drawing = draw(msgspec.structs.replace(chart, kind=kind), countries=self.countries)
            except NoriaError as error:
                why = str(error)
                continue
            return {"png": drawing.png, "svg": drawing.svg.encode(), "spec": encode(drawing.spec).encode()}
        return why

    def _stage(self, name: str, inputs: Sequence[str], kind: type[T], make: Callable[[], T]) -> T:
        """Result of a stage: read where its inputs are the same, else made and kept."""
        key = digest("\x00".join([self.version, *inputs]))[:24]
        path = self.folder / "stages" / f"{name}-{key}.json"
        if path.is_file():
            return decode(path.read_bytes(), kind, str(path))
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, encode(value))
        return value


class _Written(msgspec.Struct):
    """A written section with the ledger after it."""

    section: Section
    book: Book


def _off(request: Request) -> str:
    return "已按设置关闭" if request.language == "zh" else "switched off by a setting"


__all__ = ["Agents", "Context", "Extractive", "FigureBlock", "Job", "Limits"]
