"""Agents over a chat model: queries, outline, charts, pictures and prose as records, with ids instead of addresses.

A model never writes an address, a number of a reference, a figure's number or a cell: it names ids and measures of the
corpus, and code inserts what they stand for. A sentence whose numbers do not follow from what it cites is sent back
once, then removed and recorded. What the model does not deliver is made by the extractive engine, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from noria.reports.agents.asking import Asker, as_data
from noria.reports.agents.contracts import Plan, Requirement, SectionPlan, VisualKind, repair_plan
from noria.reports.agents.extractive import make_chart, plan_request
from noria.reports.agents.images import Candidate, Picture, candidates, find_image, picture_figure
from noria.reports.agents.prose import LANGUAGES, write_prose
from noria.reports.agents.requests import Request, related_measures
from noria.reports.agents.roles import Context
from noria.reports.agents.series import Series
from noria.reports.agents.writer import Figure
from noria.reports.charts.records import KINDS, ChartData
from noria.reports.document.blocks import Section
from noria.reports.evidence.records import Book
from noria.reports.evidence.support import check_sentence, checked_quantities
from noria.reports.search.index import Index
from noria.reports.search.protocol import search_all

TURNS = 2
"""Questions about one visual; the turn after them is reserved for drawing by rule."""


CHART = (
    "Choose a chart for the goal, with a title in {}: its kind, measures as they are listed, and the entities that it "
    "compares; name no entity for those with the largest values."
)
PICTURES = (
    "Which picture shows what the goal asks for? Give its number, 0 for none, "
    "and say in {} in one sentence what it shows."
)


class _Outline(msgspec.Struct, frozen=True):
    title: str
    sections: tuple[_OutlineSection, ...]


class _OutlineSection(msgspec.Struct, frozen=True):
    title: str
    summary: str = ""
    words: int = 200
    measures: tuple[str, ...] = ()
    visuals: tuple[_OutlineVisual, ...] = ()


class _OutlineVisual(msgspec.Struct, frozen=True):
    goal: str
    kind: str = "chart"
    chart: str = ""


class _Queries(msgspec.Struct, frozen=True):
    queries: tuple[str, ...] = ()


class _Chart(msgspec.Struct, frozen=True):
    kind: str
    measures: tuple[str, ...]
    entities: tuple[str, ...] = ()
    title: str = ""


class _Choice(msgspec.Struct, frozen=True):
    number: int
    shows: str = ""


class ModelAgents:
    """Planner, chart maker, image searcher and writer over an OpenAI-compatible server.

    Args:
        asker: the model, its cache and its limits.
    """

    def __init__(self, asker: Asker) -> None:
        self.asker, self.tally = asker, asker.tally

    def queries(self, request: Request, language: str, seen: Sequence[str]) -> tuple[str, ...]:
        """Queries for a search in a language; none once the titles seen are enough (the paper's search–read loop)."""
        reply = self.asker.ask(
            _Queries,
            f"Name at most four short search queries in {LANGUAGES[language]} that still have to be searched for this "
            "request; name none if the titles seen are enough.",
            [request.text, as_data({"seen": list(seen)[:40]})],
            most=300,
        )
        asked = () if reply is None else reply.queries
        return tuple(dict.fromkeys(" ".join(q.split())[:300] for q in asked if q.strip()))[:4]

    def plan(self, request: Request, index: Index, book: Book) -> Plan:
        """Outline by the model, mended to the contract; the engine's where the model gives none."""
        base = plan_request(request, index)
        hits = search_all(index, request.searched, 20)
        known = {
            "measures": related_measures(request, index),
            "entities": list(request.entities),
            "chart kinds": list(KINDS),
            "passages": [{"id": hit.id, "heading": hit.heading, "title": hit.title} for hit in hits],
        }
        reply = self.asker.ask(
            _Outline,
            f"Plan the report in {LANGUAGES[request.language]}: two to five body sections with "
            "their visuals; name measures only as they are listed.",
            [request.text, as_data(known)],
            most=2000,
        )
        if reply is None:
            return base
        measures = set(index.measures()) | set(request.measures)
        sections: list[SectionPlan] = []
        for one in reply.sections:
            named = tuple(m for m in one.measures if m in measures)
            self.tally.invented += len(one.measures) - len(named)
            title = self._title(one.title, request.text, base.title)
            visuals = tuple(_requirement(v, request, named) for v in one.visuals)
            notes = tuple(h.id for h in hits[:4])
            words = max(50, min(one.words, 5000))
            sections.append(
                SectionPlan("", title, one.summary[:600], words, visuals, notes, request.entities, named)
            )
        title = self._title(reply.title, request.text, base.title)
        outline = Plan(title, request.language, tuple(sections), words=request.words)
        return repair_plan(_numbered(outline))[0]

    def _title(self, title: str, request: str, other: str) -> str:
        """A title of the model; another one where it is empty or holds a number that the request does not have."""
        if title.strip() and all(q.raw in request for q in checked_quantities(title)):
            return title[:200]
        self.tally.removed += bool(title.strip())
        return other

    # -- visuals ------------------------------------------------------------------------------------------------------

    def chart(
        self, need: Requirement, section: SectionPlan, request: Request, index: Index, book: Book
    ) -> ChartData | str:
        """Data of a chart whose kind, measures and entities the model chooses; every cell is the corpus's.

        The model has `TURNS` questions. Where it chooses nothing that can be drawn, rules choose, and it is drawn.
        """
        known = _measures_for(need, section, request, index)
        entities = set(index.entities())
        why = ""
        for _ in range(TURNS if known else 0):
            told = {
                "goal": need.goal,
                "asked for": need.chart,
                "chart kinds": list(KINDS),
                "measures": known,
                "entities": list(request.entities),
                "why the last choice failed": why,
            }
            instruction = CHART.format(LANGUAGES[request.language])
            reply = self.asker.ask(_Chart, instruction, [as_data(told)], most=400)
            if reply is None:
                break
            measures = tuple(m for m in reply.measures if m in known)
            named = tuple(e for e in reply.entities if e in entities)
            self.tally.invented += len(reply.measures) - len(measures) + len(reply.entities) - len(named)
            kind = need.chart if need.demanded and need.chart else reply.kind if reply.kind in KINDS else ""
            chosen = msgspec.structs.replace(need, chart=kind, measures=measures)
            place = msgspec.structs.replace(section, entities=named or section.entities)
            made = make_chart(chosen, place, request, index, book)
            if isinstance(made, ChartData):
                return self._titled(made, reply.title, book)
            why = made
        return make_chart(need, section, request, index, book)

    def _titled(self, chart: ChartData, title: str, book: Book) -> ChartData:
        """A chart with the model's title, unless a number of that has no source among the cells."""
        title = " ".join(title.split())[:160]
        if not title or check_sentence(title, [cell.target for cell in chart.cells], book).missing:
            self.tally.removed += bool(title)
            return chart
        return msgspec.structs.replace(chart, title=title)

    def image(self, need: Requirement, request: Request, index: Index, book: Book) -> Picture | str:
        """A picture that the model chooses among those which passed the rules, after it has looked at them."""
        reasons: list[str] = []
        offered = self._offered(" ".join([need.goal, *need.entities]), index, reasons)
        if not offered:
            return find_image(need, request, index, book)
        told = {"goal": need.goal, "captions": {n: c.caption for n, c in enumerate(offered, 1)}}
        instruction = PICTURES.format(LANGUAGES[request.language])
        shown = [candidate.png for candidate in offered]
        reply = self.asker.ask(_Choice, instruction, [as_data(told)], most=300, images=shown)
        if reply is None or not 0 <= reply.number <= len(offered):
            self.tally.invented += reply is not None
            return find_image(need, request, index, book)
        if reply.number == 0:
            none = (
                "模型认为没有相符的图片"
                if request.language == "zh"
                else "the model sees no picture that fits"
            )
            return "; ".join([none, *reasons])
        shows = " ".join(reply.shows.split())[:300]
        alt = "" if checked_quantities(shows) else shows
        return picture_figure(need, offered[reply.number - 1], index, book, alt=alt)

    def _offered(self, query: str, index: Index, reasons: list[str]) -> list[Candidate]:
        """At most four candidates; where a query has none, the model names one other query."""
        offered = candidates(query, index, reasons)[:4]
        if offered or not index.counts["pictures"]:
            return offered
        reply = self.asker.ask(_Queries, "Name one other query for a picture of this.", [query], most=200)
        return candidates(reply.queries[0][:300], index, reasons)[:4] if reply and reply.queries else []

    def write(
        self, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
    ) -> Section:
        """A section by the model, checked sentence by sentence; the engine's where the model gives none."""
        return write_prose(self.asker, section, series, figures, context)


def _measures_for(need: Requirement, section: SectionPlan, request: Request, index: Index) -> list[str]:
    """Measures that a chart may show: the columns of the section's table, else what the corpus has near the goal."""
    for note in section.notes:
        if "#" not in note and (table := index.table(note)):
            return list(table.columns)
    near = related_measures(request, index, need.goal)
    return list(dict.fromkeys((*need.measures, *section.measures, *near)))[:40]


def _requirement(visual: _OutlineVisual, request: Request, measures: tuple[str, ...]) -> Requirement:
    kind: VisualKind = "image" if visual.kind == "image" else "chart"
    return Requirement("", kind, visual.goal[:300], visual.chart, request.entities, measures)


def _numbered(plan: Plan) -> Plan:
    """A plan whose visuals have ids, counted through the report."""
    number = 0
    sections = []
    for section in plan.sections:
        visuals = []
        for visual in section.visuals:
            number += 1
            id = f"{'I' if visual.kind == 'image' else 'C'}{number}"
            visuals.append(msgspec.structs.replace(visual, id=id))
        sections.append(msgspec.structs.replace(section, visuals=tuple(visuals)))
    return msgspec.structs.replace(plan, sections=tuple(sections))
