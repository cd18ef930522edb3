"""The extractive engine: all four stages without a model. Its prose is modest, and every number of it is checkable."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from noria.reports.agents.contracts import (
    BODY,
    NOTES,
    Plan,
    Requirement,
    SectionPlan,
    VisualKind,
    repair_plan,
)
from noria.reports.agents.requests import Demand, Request, chinese_measure, stems, topics_of, years_between
from noria.reports.agents.series import Series, fact_series, numeric_columns, table_series
from noria.reports.charts.choosing import fitting_kind
from noria.reports.charts.records import Cell, ChartData, ChartKind
from noria.reports.document.blocks import LABELS
from noria.reports.evidence.records import Book
from noria.reports.evidence.tables import without_unit
from noria.reports.search.index import Index
from noria.reports.search.protocol import Hit, search_all

COMPARED, MAPPED = 12, 300
"""Most entities that are compared where a request names none, and most countries of a map."""
_FIRST = re.compile(r"(?<=[a-z0-9)][.!?])\s+(?=[A-Z])|(?<=[。！？])")
"""End of the first sentence."""
NEEDS_TIME = {"line", "area", "timeline"}


def plan_request(request: Request, index: Index) -> Plan:
    """Outline of a request: a section for each measure or table that it speaks of, with the visuals that it demands."""
    zh = request.language == "zh"
    sections: list[SectionPlan] = []
    for measure in request.measures:
        title = chinese_measure(measure) if zh else measure
        sections.append(
            SectionPlan(
                "", title, _summary(title, request, zh), measures=(measure,), entities=request.entities
            )
        )
    if request.measures:
        sections += [_of_table(id, "", request, index) for id in request.beside[:2]]
    else:
        sections += [
            _of_table(id, ", ".join(request.entities[:6]), request, index) for id in request.tables[:2]
        ]
    sections += _topics(request, index, BODY[1] - len(sections))
    sections = sections or [_general(request, index)]
    sections = _with_visuals(sections, request)
    labels = LABELS[request.language]
    outline = (
        SectionPlan("intro", labels["introduction"], words=150),
        *sections,
        SectionPlan("end", labels["conclusion"], words=150),
    )
    plan = Plan(_title(request), request.language, outline, words=request.words)
    return repair_plan(plan)[0]


def _of_table(id: str, where: str, request: Request, index: Index) -> SectionPlan:
    """A section on the columns of a table that a request names."""
    source, table = index.source(id), index.table(id)
    columns = _wanted_columns(request.text, numeric_columns(table) if table else [])
    title = source.title[:1].upper() + source.title[1:]
    return SectionPlan(
        "",
        title,
        _placed(title, where, zh=request.language == "zh"),
        measures=tuple(columns[:2]),
        notes=(id,),
    )


def _topics(request: Request, index: Index, most: int) -> list[SectionPlan]:
    """Sections for what a request names in words, and not as a measure or a table: those with the best hits, in order.

    A single topic without a measure is no section of its own: it is what the whole report is about.
    """
    zh = request.language == "zh"
    known = stems(" ".join([*request.measures, *(index.source(id).title for id in request.tables)]))
    topics = [topic for topic in topics_of(request) if not stems(topic) & known]
    if request.tables or len(topics) + len(request.measures) < BODY[0]:
        return []
    where = ", ".join(request.entities)
    ranked = [
        (
            topic,
            _about(
                topic, search_all(index, (f"{topic} {where}", *request.queries), 2 * NOTES), request, index
            ),
        )
        for topic in topics
    ]
    best = sorted((one for one in ranked if one[1]), key=lambda one: -one[1][0].score)[:most]
    return [
        SectionPlan(
            "",
            topic[:1].upper() + topic[1:],
            _summary(topic, request, zh),
            notes=tuple(hit.id for hit in hits),
        )
        for topic, hits in ranked
        if (topic, hits) in best
    ]


def _general(request: Request, index: Index) -> SectionPlan:
    """A section for a request of which the corpus knows no measure, table or topic."""
    hits = search_all(index, request.searched, 2 * NOTES)
    title = "相关材料" if request.language == "zh" else "What the sources say"
    return SectionPlan("", title, request.text[:300], notes=tuple(hit.id for hit in hits))


def _about(topic: str, hits: Sequence[Hit], request: Request, index: Index) -> list[Hit]:
    """Hits that share half of the topic's words, in sources about an entity of the request where there are such."""
    wanted = stems(topic) - stems(" ".join(request.entities))
    kept = [
        hit
        for hit in hits
        if (passage := index.passage(hit.id)) is not None
        and 2 * len(wanted & stems(f"{hit.heading} {passage.text}")) >= len(wanted) > 0
    ]
    return [hit for hit in kept if any(name in hit.title for name in request.entities)] or kept


def _title(request: Request) -> str:
    zh = request.language == "zh"
    names = [chinese_measure(m) if zh else m for m in request.measures[:3]]
    if not names:
        return _shortened(_FIRST.split(" ".join(request.text.split()), maxsplit=1)[0], 40 if zh else 90)
    where = request.entities[:5]
    if zh:
        from noria.reports.agents.requests import chinese_name

        return "、".join(names) + ("：" + "、".join(map(chinese_name, where)) if where else "")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) + (
        " in " + ", ".join(where) if where else ""
    )


def _shortened(text: str, most: int) -> str:
    """A text up to a number of characters, cut between words."""
    if len(text) <= most:
        return text.rstrip(" ,.，。")
    return (
        text[: most + 1].rpartition(" ")[0].rstrip(" ,.，。") + "…"
        if " " in text[:most]
        else f"{text[:most]}…"
    )


def _summary(title: str, request: Request, zh: bool) -> str:
    return _placed(title, ", ".join(request.entities[:6]), zh=zh)


def _placed(title: str, where: str, *, zh: bool) -> str:
    return f"{title}：{where}" if zh else f"{title}" + (f" in {where}" if where else "")


def _wanted_columns(text: str, columns: Sequence[str]) -> list[str]:
    lower, words = text.lower().replace("_", " "), stems(text)
    named = [name for name in columns if name.lower().replace("_", " ") in lower]
    named = named or [name for name in columns if (own := stems(without_unit(name))) and own <= words]
    return named or list(columns)


def _with_visuals(sections: list[SectionPlan], request: Request) -> list[SectionPlan]:
    """Give each demanded visual to the section whose measure its words speak of, else to the next without one."""
    placed: list[list[Requirement]] = [[] for _ in sections]
    demands = list(request.demands) or [Demand("", "") for section in sections if section.measures]
    for number, demand in enumerate(demands, 1):
        kind: VisualKind = "image" if demand.kind == "image" else "chart"
        best = _section_for(demand, sections, placed)
        measures = request.measures if demand.kind in ("radar", "scatter") else sections[best].measures
        goal = demand.words or sections[best].title
        placed[best].append(
            Requirement(
                f"{'I' if kind == 'image' else 'C'}{number}",
                kind,
                goal,
                demand.kind if kind == "chart" else "",
                request.entities,
                tuple(measures),
                demand.words,
            )
        )
    return [msgspec.structs.replace(s, visuals=tuple(v)) for s, v in zip(sections, placed, strict=True)]


def _section_for(demand: Demand, sections: list[SectionPlan], placed: list[list[Requirement]]) -> int:
    words = demand.words.lower()

    def fit(number: int) -> tuple[int, int, int]:
        names = [*sections[number].measures, sections[number].title]
        shared = max((_shared(name.lower(), words) for name in names), default=0)
        return (-shared, len(placed[number]), number)

    return min(range(len(sections)), key=fit)


def _shared(name: str, words: str) -> int:
    """Number of a name's words that stand in a text; a Chinese name counts whole, or by its first two characters."""
    if not name.isascii():
        return 4 * (name in words) + (name[:2] in words)
    return sum(
        len(word) > 2 and word in words for word in set(name.replace(":", " ").replace("(", " ").split())
    )


# -- charts -----------------------------------------------------------------------------------------------------------


def make_chart(
    need: Requirement, section: SectionPlan, request: Request, index: Index, book: Book
) -> ChartData | str:
    """Data of a demanded chart, or why there is none. A kind that does not fit is changed once, and the reason
    is kept.
    """
    most = MAPPED if need.chart == "map" else COMPARED
    series = [
        s
        for m in need.measures
        if (s := section_series(m, section, request, index, book, most=most)) is not None
    ]
    if not series:
        return "没有相应的数据" if request.language == "zh" else "the corpus has no numbers for it"
    kind = need.chart or fitting_kind(
        periods=len(series[0].periods()), entities=len(series[0].entities()), measures=1, share=False
    )
    if kind in NEEDS_TIME and len(series[0].periods()) < 2:
        kind = "bar"
    if kind in ("radar", "scatter") and len(series) < (3 if kind == "radar" else 2):
        kind = "bar"
    if kind in ("pie", "stacked bar", "heat map", "diagram", "histogram") and len(series) == 1:
        kind = {"diagram": "bar", "heat map": "heat map" if len(series[0].periods()) > 1 else "bar"}.get(
            kind, kind
        )
    return _chart(need.id, kind, series, request)  # type: ignore[arg-type]


def section_series(
    measure: str, section: SectionPlan, request: Request, index: Index, book: Book, *, most: int = COMPARED
) -> Series | None:
    """Series of a section's measure, out of facts or out of the table that the section is about."""
    tables = [note for note in section.notes if "#" not in note]
    if tables:
        return table_series(index, book, tables[0], measure, years=years_between(request.years))
    return fact_series(index, book, measure, section.entities or request.entities, most=most)


def _chart(id: str, kind: ChartKind, series: Sequence[Series], request: Request) -> ChartData:
    zh = request.language == "zh"
    who, when, what = ("实体", "年份", "指标") if zh else ("Name", "Year", "Indicator")
    first = series[0]
    name = chinese_measure(first.measure) if zh else first.measure
    who = first.names if first.names not in ("", when, what, name) else who
    if kind == "radar":
        return _radar(id, series, request, (what, who))
    if kind == "scatter":
        return _scatter(id, series, request, who)
    if kind in NEEDS_TIME | {"heat map"} or (kind in ("grouped bar",) and len(first.periods()) > 1):
        keep = first.entities()[:8]
        points = sorted(
            (p for p in first.points if p.entity in keep and p.period),
            key=lambda p: (keep.index(p.entity), p.period),
        )
        rows = tuple((p.period, p.entity, f"{p.value:f}") for p in points)
        cells = tuple(Cell(n, name, p.target) for n, p in enumerate(points))
        several = len(keep) > 1
        return ChartData(
            id,
            kind,
            name,
            (when, who, name),
            rows,
            when,
            name,
            who if several or kind == "heat map" else "",
            first.unit,
            cells,
            request.language,
        )
    latest = sorted(first.latest(), key=lambda p: -p.value)[: MAPPED if kind == "map" else 20]
    rows = tuple((p.entity, p.period, f"{p.value:f}") for p in latest)
    cells = tuple(Cell(n, name, p.target) for n, p in enumerate(latest))
    kind = "bar" if kind in ("stacked bar", "grouped bar") else kind
    return ChartData(
        id, kind, name, (who, when, name), rows, who, name, "", first.unit, cells, request.language
    )


def _radar(id: str, series: Sequence[Series], request: Request, names: tuple[str, str]) -> ChartData:
    zh = request.language == "zh"
    value = "值" if zh else "Value"
    rows: list[tuple[str, ...]] = []
    cells: list[Cell] = []
    for one in series:
        for point in one.latest()[:6]:
            if point.value >= 0:
                cells.append(Cell(len(rows), value, point.target))
                rows.append(
                    (chinese_measure(one.measure) if zh else one.measure, point.entity, f"{point.value:f}")
                )
    title = (
        "、".join(r for r in dict.fromkeys(r[0] for r in rows))
        if zh
        else ", ".join(dict.fromkeys(r[0] for r in rows))
    )
    return ChartData(
        id,
        "radar",
        title,
        (*names, value),
        tuple(rows),
        names[0],
        value,
        names[1],
        "",
        tuple(cells),
        request.language,
    )


def _scatter(id: str, series: Sequence[Series], request: Request, who: str) -> ChartData:
    zh = request.language == "zh"
    first, second = series[0], series[1]
    a, b = (chinese_measure(s.measure) if zh else s.measure for s in (first, second))
    if a == b:
        a, b = f"{a} (1)", f"{b} (2)"
    across = {p.entity: p for p in first.latest()}
    pairs = [(across[p.entity], p) for p in second.latest() if p.entity in across]
    rows = tuple((p.entity, f"{p.value:f}", f"{q.value:f}") for p, q in pairs)
    cells = tuple(c for n, (p, q) in enumerate(pairs) for c in (Cell(n, a, p.target), Cell(n, b, q.target)))
    return ChartData(
        id, "scatter", f"{b} / {a}", (who, a, b), rows, a, b, "", second.unit, cells, request.language
    )
