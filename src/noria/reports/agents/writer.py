"""The extractive writer: statements of level, range, change and ratio, each with the facts that it follows from."""

from __future__ import annotations

from collections.abc import Sequence

from noria.reports.agents.contracts import NOTES, Plan, SectionPlan
from noria.reports.agents.requests import Request, chinese_measure, chinese_name
from noria.reports.agents.series import Point, Series
from noria.reports.charts.records import ChartData, alt_text
from noria.reports.document.blocks import Block, FigureBlock, Paragraph, Section, Sentence
from noria.reports.evidence.derivation import derive
from noria.reports.evidence.quantities import plain_number, rounded
from noria.reports.evidence.records import Book
from noria.reports.evidence.support import check_sentence, checked_quantities
from noria.reports.evidence.tables import COLUMNS
from noria.reports.search.index import Index
from noria.reports.search.terms import query_terms

COUNTS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


class Figure:
    """A produced visual that the writer places: its id, caption, alternative text, file and evidence."""

    def __init__(
        self, id: str, caption: str, alt: str, path: str, cites: Sequence[str], chart: ChartData | None = None
    ) -> None:
        self.id, self.caption, self.alt, self.path, self.cites, self.chart = (
            id,
            caption,
            alt,
            path,
            tuple(cites),
            chart,
        )

    def block(self) -> FigureBlock:
        """The figure at its place in a section."""
        return FigureBlock(self.id, self.caption, self.alt, self.path, self.cites)


def chart_figure(chart: ChartData) -> Figure:
    """Figure of a drawn chart."""
    cites = tuple(dict.fromkeys(cell.target for cell in chart.cells))
    return Figure(chart.id, chart.title, alt_text(chart), f"charts/{chart.id}.png", cites, chart)


def write_section(
    section: SectionPlan,
    series: Sequence[Series],
    figures: Sequence[Figure],
    request: Request,
    index: Index,
    book: Book,
) -> Section:
    """Write a body section: what the numbers say, then each figure after the sentence that introduces it."""
    zh = request.language == "zh"
    blocks: list[Block] = []
    for one in series:
        blocks.append(Paragraph(tuple(_statements(one, book, zh))))
    if not series:
        blocks += _quoted(section, index, book, zh)
    for figure in figures:
        blocks.append(Paragraph((introduced(figure, book, zh),)))
        blocks.append(figure.block())
    if series and (note := _limits(series, zh)):
        blocks.append(Paragraph((Sentence(note),)))
    return Section(section.id, section.title, tuple(linked(block, book) for block in blocks))


def write_edge(
    section: SectionPlan, plan: Plan, request: Request, series: Sequence[Series], book: Book
) -> Section:
    """Write the introduction or the conclusion: what is treated, or what each section showed."""
    zh = request.language == "zh"
    topics = [one.title if zh else lowered(one.title) for one in plan.sections[1:-1]]
    if section.id == plan.sections[0].id:
        names = [chinese_name(name) if zh else name for name in request.entities]
        about = f"，涉及{'、'.join(names)}" if zh and names else f", for {', '.join(names)}" if names else ""
        text = (
            f"本报告讨论{'、'.join(topics)}{about}。"
            if zh
            else f"This report treats {_listed(topics)}{about}."
        )
        more = (
            "文中每个数字都注明来源，并可在来源中核对。"
            if zh
            else "Every number in it is taken from a source or computed from one, and can be looked up there."
        )
        return Section(section.id, section.title, (Paragraph((Sentence(text), Sentence(more))),))
    said = [sentence for one in series if (sentence := _extremes(one, zh)) is not None]
    more = (
        "上述结论只依据所引来源，未加估计。"
        if zh
        else "These findings rest on the cited sources alone; nothing was estimated."
    )
    return Section(section.id, section.title, (linked(Paragraph((*said, Sentence(more))), book),))


def _listed(parts: Sequence[str]) -> str:
    """Parts of a sentence in a row: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def linked(block: Block, book: Book) -> Block:
    """A block whose numbers are linked to what they follow from."""
    if not isinstance(block, Paragraph):
        return block
    return Paragraph(
        tuple(Sentence(s.text, s.cites, check_sentence(s.text, s.cites, book).links) for s in block.sentences)
    )


def _statements(series: Series, book: Book, zh: bool) -> list[Sentence]:
    said = [_levels(series, zh)]
    extremes = _extremes(series, zh)
    latest = series.latest()
    if extremes is not None and len(latest) > 2:
        said.append(extremes)
    top, low = max(latest, key=lambda p: p.value), min(latest, key=lambda p: p.value)
    if len(latest) > 1 and low.value > 0 and top.value > low.value and not series.cut:
        ratio = derive(book, "ratio", (_fact(top), _fact(low))) if _plain(top, low) else None
        if ratio is not None and ratio.value >= 1:
            shown = plain_number(ratio.value)
            said.append(
                Sentence(
                    f"最高值是最低值的 {shown} 倍。"
                    if zh
                    else f"The highest value is {shown} times the lowest.",
                    (ratio.id,),
                )
            )
    said += [
        one for entity in series.entities()[:4] if (one := _change(series, entity, book, zh)) is not None
    ]
    return said


def _fact(point: Point) -> str:
    return point.target


def _plain(*points: Point) -> bool:
    return all(not point.target.startswith("D") for point in points)


def _cites(*points: Point) -> tuple[str, ...]:
    return tuple(dict.fromkeys(point.target for point in points))


def _levels(series: Series, zh: bool) -> Sentence:
    points = series.latest()[:6]
    name = chinese_measure(series.measure) if zh else begun(series.label)
    shared = {point.period for point in points}
    parts = []
    for point in points:
        who = chinese_name(point.entity) if zh else point.entity
        when = (
            ""
            if len(shared) == 1 or not point.period
            else f"（{point.period} 年）"
            if zh
            else f" ({point.period})"
        )
        parts.append(f"{who}为 {point.raw}{when}" if zh else f"{point.raw} in {who}{when}")
    year = next(iter(shared)) if len(shared) == 1 else ""
    if zh:
        most = "最高的几个" if series.cut else ""
        return Sentence(
            f"{year + ' 年，' if year else ''}{name}{most}：{'，'.join(parts)}。", _cites(*points)
        )
    listed = _listed(parts)
    verb = "was highest, at" if series.cut else "was"
    return Sentence(
        f"{'In ' + year + ', ' + lowered(name) if year else name} {verb} {listed}.", _cites(*points)
    )


def _extremes(series: Series, zh: bool) -> Sentence | None:
    latest = series.latest()
    if len(latest) < 2:
        return None
    top, low = max(latest, key=lambda p: p.value), min(latest, key=lambda p: p.value)
    if top.value == low.value:
        return None
    name = chinese_measure(series.measure) if zh else begun(series.label)
    if series.cut:  # the lowest of those shown is not the lowest that there is
        most = f"{name}最高的是{chinese_name(top.entity)}（{top.raw}）。"
        return Sentence(most if zh else f"{name} was highest in {top.entity} ({top.raw}).", _cites(top))
    if zh:
        return Sentence(
            f"{name}最高的是{chinese_name(top.entity)}（{top.raw}），最低的是{chinese_name(low.entity)}（{low.raw}）。",
            _cites(top, low),
        )
    return Sentence(
        f"{name} was highest in {top.entity} ({top.raw}) and lowest in {low.entity} ({low.raw}).",
        _cites(top, low),
    )


def _change(series: Series, entity: str, book: Book, zh: bool) -> Sentence | None:
    points = series.of(entity)
    if len(points) < 2 or points[0].period == points[-1].period or not points[0].value:
        return None
    first, last = points[0], points[-1]
    who = chinese_name(entity) if zh else entity
    if not _plain(first, last):
        text = (
            f"{who}由 {first.period} 年的 {first.raw} 变为 {last.period} 年的 {last.raw}。"
            if zh
            else f"In {who} the yearly mean went from {first.raw} in {first.period} to {last.raw} in {last.period}."
        )
        return Sentence(text, (*_cites(first, last),))
    operation = "difference" if series.unit == "%" else "growth"
    operands = (last.target, first.target) if operation == "difference" else (first.target, last.target)
    entry = derive(book, operation, operands)
    if entry is None or entry.value == 0:
        return None
    size = plain_number(abs(entry.value))
    if zh:
        way = "上升" if entry.value > 0 else "下降"
        unit = "个百分点" if operation == "difference" else "%"
        return Sentence(
            f"{who}从 {first.period} 年到 {last.period} 年{way}了 {size} {unit}。",
            (entry.id, *_cites(first, last)),
        )
    way = "rose" if entry.value > 0 else "fell"
    unit = " percentage points" if operation == "difference" else "%"
    return Sentence(
        f"From {first.period} to {last.period} that of {who} {way} by {size}{unit}.",
        (entry.id, *_cites(first, last)),
    )


def introduced(figure: Figure, book: Book, zh: bool) -> Sentence:
    """The sentence that introduces a figure: what it shows, and its largest value."""
    chart = figure.chart
    mention = f"[[fig:{figure.id}]]"
    if chart is None:
        return Sentence(
            f"{mention}为{figure.caption}。" if zh else f"{mention} shows {figure.caption}.", figure.cites
        )
    if chart.kind in ("radar", "scatter", "diagram"):
        text = f"{mention}比较{chart.title}。" if zh else f"{mention} compares {lowered(chart.title)}."
        return Sentence(text, figure.cites[:12])
    values = [
        (abs(v.value), v, cell)
        for cell in chart.cells
        if cell.column == chart.y and (v := _value(cell.target, book)) is not None
    ]
    if not values:
        return Sentence(
            f"{mention}显示{chart.title}。" if zh else f"{mention} shows {chart.title}.", figure.cites[:1]
        )
    _, top, cell = max(values, key=lambda one: one[1].value)
    name = chart.rows[cell.row][chart.columns.index(chart.series or chart.columns[0])]
    when = f" ({top.period})" if top.period and top.period not in name else ""
    if zh:
        when = f"（{top.period} 年）" if when else ""
        return Sentence(
            f"{mention}显示{chart.title}，其中最大值为{chinese_name(name)}的 {top.raw}{when}。", (top.target,)
        )
    return Sentence(
        f"{mention} shows {lowered(chart.title)}; its largest value is {top.raw}, of {name}{when}.",
        (top.target,),
    )


def lowered(name: str) -> str:
    """A name inside of a sentence: its first letter small, unless it begins with an abbreviation."""
    return name[:1].lower() + name[1:] if name[1:2].islower() else name


def begun(name: str) -> str:
    """A name at the begin of a sentence."""
    return name[:1].upper() + name[1:]


def _value(target: str, book: Book) -> Point | None:
    from noria.reports.agents.series import printed

    if target in book.facts:
        fact = book.facts[target]
        return Point(
            fact.entity, fact.period[:4], fact.value, fact.unit, target, printed(fact.raw, fact.unit)
        )
    entry = book.derived.get(target)
    return (
        None
        if entry is None
        else Point("", "", entry.value, entry.unit, target, f"{rounded(entry.value, 2):,f}")
    )


def _limits(series: Sequence[Series], zh: bool) -> str:
    """A note on what cannot be compared: different years within one comparison."""
    mixed = [one for one in series if len({point.period for point in one.latest()}) > 1]
    if not mixed:
        return ""
    return (
        "各国数据的年份不同，比较时应注意。"
        if zh
        else "The values are of different years, which limits the comparison."
    )


def _quoted(section: SectionPlan, index: Index, book: Book, zh: bool) -> list[Block]:
    """Sentences of the passages that the notes name, as quotations, where there are no numbers to compare.

    Each stands under the last of its headings, and a text that is quoted already is not repeated.
    """
    said: dict[str, Block] = {}
    for note in section.notes:
        passage = index.passage(note)
        if passage is None or passage.heading == COLUMNS or len(said) == NOTES:
            continue
        text = passage.text if len(passage.text) <= 300 else passage.text[:300].rsplit(" ", 1)[0] + " …"
        head = passage.heading.rpartition(" > ")[2]
        if text in said or len(query_terms(text)) < 2:
            continue
        book.add(passage, index.source(passage.source))
        head = "" if not head or checked_quantities(head) else f"{head}{'：' if zh else ': '}"
        said[text] = Paragraph((Sentence(f"{head}“{text}”", (passage.id,)),))
    return list(said.values())
