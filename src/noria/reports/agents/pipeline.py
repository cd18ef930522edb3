"""The four stages as one job over a folder: plan, visuals, sections, rendering. A killed job resumes with the same
bytes.

Each stage's result is a file of `stages/` under the digest of what it was made from. A stage whose inputs did not
change is read and not made again, so that an edited `plan.json`, a new index or another house template redo only what
follows from them.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from noria.core.errors import ConfigError, NoriaError
from noria.core.files import write_atomic
from noria.reports.agents.asking import SpentError
from noria.reports.agents.contracts import NOTES, Plan, Requirement, SectionPlan, repair_plan, requirements
from noria.reports.agents.extractive import make_chart, plan_request, section_series
from noria.reports.agents.images import Picture, find_image
from noria.reports.agents.requests import Request, read_request
from noria.reports.agents.roles import Agents, Context, Extractive
from noria.reports.agents.series import Series
from noria.reports.agents.writer import Figure, chart_figure, write_edge
from noria.reports.charts.drawing import draw
from noria.reports.charts.records import ChartData
from noria.reports.document.blocks import Heading, Language, Missing, Report, Section
from noria.reports.document.bundle import Bundle
from noria.reports.evidence.records import Book, decode, digest, encode
from noria.reports.search.index import Index
from noria.reports.search.protocol import search_all

T = TypeVar("T")
Watch = Callable[[float, str], None]
"""Receiver of a job's progress: the share that is done, from 0 to 1, and what is done now."""


def unwatched(share: float, what: str) -> None:
    """Receive progress and do nothing."""


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
        index: the corpus; its rules say which sources count.
        agents: who plans, draws up visuals and writes.
        limits: limits of the run.
        charts, images: whether charts and pictures are made.
        language: language of the report; empty takes the request's.
        research_language: language in which the corpus is searched; empty takes the report's.
        stale_before: date before which evidence is marked as stale.
        countries: TopoJSON for maps.
        house: style sheet of a house.
        version: what the stages depend on beside the request: model, corpus, settings.
        watch: receiver of the progress.
    """

    folder: Path
    index: Index
    agents: Agents = field(default_factory=Extractive)
    limits: Limits = field(default_factory=Limits)
    charts: bool = True
    images: bool = True
    language: Language | Literal[""] = ""
    research_language: Language | Literal[""] = ""
    stale_before: str = ""
    countries: Any = None
    house: str = ""
    version: str = ""
    watch: Watch = unwatched
    _ended: str = field(default="", init=False)
    _drawn: dict[str, dict[str, bytes]] = field(default_factory=dict, init=False)

    def read(self, text: str) -> Request:
        """The request in the words of the corpus, in the report's language, with its queries.

        Raises:
            ConfigError: the request is empty.
        """
        if not text.strip():
            raise ConfigError("an empty request", where="REQUEST", mend="say what the report is about")
        request = read_request(text, self.index, language=self.language)
        wanted = self.research_language
        if wanted and wanted != request.language:
            queries = self._asked(
                lambda: self.agents.queries(request, wanted, ()),
                lambda: Extractive().queries(request, wanted, ()),
            )
            request = msgspec.structs.replace(request, queries=queries)
        return request

    def plan(self, text: str) -> tuple[Request, Plan]:
        """Request and plan; a plan that the user edited is read, mended and kept.

        Raises:
            ConfigError: the request is empty.
        """
        request = self.read(text)
        path = self.folder / "plan.json"
        if path.is_file():
            plan = decode(path.read_bytes(), Plan, str(path))
        else:
            plan = self._asked(
                lambda: self._stage(
                    "plan",
                    [text, *request.queries],
                    Plan,
                    lambda: self.agents.plan(request, self.index, Book()),
                ),
                lambda: plan_request(request, self.index),
            )
        plan, _ = repair_plan(plan)
        if not self._ended:  # an outline that a limit forced is not kept for a run with more room
            write_atomic(path, encode(plan))
        return request, plan

    def write(self, text: str) -> Bundle:
        """Make the report and write its bundle.

        Raises:
            ConfigError: the request is empty.
            RunError: the disk refuses.
        """
        self.watch(0.0, "planning")
        request, plan = self.plan(text)
        write_atomic(self.folder / "request.txt", text)
        total = len(plan.sections) + 1  # plan, visuals, the sections between the edges, and rendering
        self.watch(1 / total, "drawing charts and choosing pictures")
        book = Book()
        charts, figures, missing = self._visuals(plan, request, book)
        context = Context(request, self.index, book)
        series: list[Series] = []
        sections: list[Section] = []
        stopped = ""
        for number, section in enumerate(plan.sections[1:-1], 2):
            self.watch(number / total, f"writing {section.title!r}")
            try:
                sections.append(self._section(section, figures, context, series))
            except SpentError as error:
                stopped = _ending(str(error), section, plan)
                left = plan.sections[plan.sections.index(section) : -1]
                missing += [Missing(one.id, one.title, stopped) for one in left]
                break
        self.watch(1 - 1 / total, "rendering")
        edges = [write_edge(plan.sections[n], plan, request, series, book) for n in (0, -1)]
        report = Report(
            plan.title,
            plan.language,
            (edges[0], *sections, edges[1]),
            (*plan.dropped, *missing),
            stopped,
            self.index.rules.until,
        )
        bundle = Bundle(report, book, charts, self._drawn, house=self.house)
        report = msgspec.structs.replace(report, stale=bundle.stale(self.stale_before))
        bundle = Bundle(report, bundle.book, charts, self._drawn, house=self.house)
        bundle.write(self.folder, self.index)
        return bundle

    # -- sections -----------------------------------------------------------------------------------------------------

    def _section(
        self, section: SectionPlan, figures: Mapping[str, Figure], context: Context, all_series: list[Series]
    ) -> Section:
        """A body section, from its stage or by the agents.

        Raises:
            SpentError: a limit ends the run before it.
        """
        if self._ended or self.limits.spent():
            raise SpentError(self._ended or "the time limit is reached")
        series = [
            s
            for m in section.measures
            if (s := section_series(m, section, context.request, self.index, context.book))
        ]
        all_series += series
        own = [figures[v.id] for v in section.visuals if v.id in figures]
        if not series and not section.notes:
            hits = search_all(
                self.index, (f"{section.title} {section.summary}", *context.request.queries), NOTES
            )
            section = msgspec.structs.replace(section, notes=tuple(hit.id for hit in hits))
        made = self._stage(
            f"section-{section.id}",
            [encode(section), encode(context.before), *[f.id for f in own]],
            _Written,
            lambda: _Written(self.agents.write(section, series, own, context), context.book),
        )
        for part in (made.book.sources, made.book.passages, made.book.facts, made.book.derived):
            context.book.add(*part.values())
        headings = [block.text for block in made.section.blocks if isinstance(block, Heading)]
        context.before.append(
            {"id": section.id, "title": section.title, "summary": section.summary, "headings": headings}
        )
        return made.section

    # -- visuals ------------------------------------------------------------------------------------------------------

    def _visuals(
        self, plan: Plan, request: Request, book: Book
    ) -> tuple[dict[str, ChartData], dict[str, Figure], list[Missing]]:
        """Make every visual, several at once; each ends as a figure or as an entry of what is missing, with its
        reason. Drawing costs no turn of a model, so that what was chosen before a limit is drawn.
        """
        self._drawn = {}
        charts: dict[str, ChartData] = {}
        figures: dict[str, Figure] = {}
        missing: list[Missing] = []
        sections = {v.id: section for section in plan.sections for v in section.visuals}
        wanted: list[tuple[Requirement, ChartData]] = []
        for need in requirements(plan):
            made = self._chosen(need, sections[need.id], request, book)
            if isinstance(made, str):
                missing.append(Missing(need.id, need.goal, made))
            elif isinstance(made, ChartData):
                wanted.append((need, made))
            else:
                figures[need.id], png = made
                self._drawn[need.id] = {"png": png}
        with concurrent.futures.ThreadPoolExecutor(max(1, self.limits.visuals)) as pool:
            drawings = list(pool.map(lambda pair: self._draw(pair[1]), wanted))
        for (need, chart), drawing in zip(wanted, drawings, strict=True):
            if isinstance(drawing, str):
                missing.append(Missing(need.id, need.goal, drawing))
                continue
            charts[chart.id], figures[chart.id] = chart, chart_figure(chart)
            self._drawn[chart.id] = drawing
        return charts, figures, missing

    def _chosen(
        self, need: Requirement, section: SectionPlan, request: Request, book: Book
    ) -> ChartData | Picture | str:
        """Data of a chart, or a picture; by rule once a limit of the model is reached."""
        if not (self.images if need.kind == "image" else self.charts):
            return "已按设置关闭" if request.language == "zh" else "switched off by a setting"
        if need.kind == "image":
            return self._asked(
                lambda: self.agents.image(need, request, self.index, book),
                lambda: find_image(need, request, self.index, book),
            )
        return self._asked(
            lambda: self.agents.chart(need, section, request, self.index, book),
            lambda: make_chart(need, section, request, self.index, book),
        )

    def _asked(self, make: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What the agents make; by rule once a limit of money or tokens is reached, which is then remembered."""
        if not self._ended:
            try:
                return make()
            except SpentError as error:
                self._ended = str(error)
        return otherwise()

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


def _ending(why: str, section: SectionPlan, plan: Plan) -> str:
    """Why a report is partial, in its language."""
    if plan.language == "zh":
        return f"已达到限额（{why}），{section.title} 起未写"
    return f"{why}, which ended the run before {section.title!r}"


__all__ = ["Agents", "Extractive", "Job", "Limits"]
