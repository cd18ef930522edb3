"""The report as one HTML page without any other file: a click on a number or a bar opens the source that it
follows from.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from noria.core.errors import DataError
from noria.reports.charts.records import ChartData
from noria.reports.document.blocks import (
    FIGURE_MENTION,
    LABELS,
    FigureBlock,
    Heading,
    Paragraph,
    Report,
    Sentence,
    TableBlock,
    sentences,
)
from noria.reports.document.numbering import Numbering, number, reference_text, shortened
from noria.reports.evidence.records import Book


def write_page(
    report: Report,
    book: Book,
    *,
    pictures: Mapping[str, bytes],
    svgs: Mapping[str, str],
    charts: Mapping[str, ChartData],
    house: str = "",
) -> str:
    """HTML of a report.

    Args:
        report: the report.
        book: evidence of the report.
        pictures: PNG of each figure by id.
        svgs: SVG of each chart by id; a picture is used where there is none.
        charts: data of each chart by id, for the table below it.
        house: style sheet of a house, which stands after ours.
    """
    numbering = number(report, book)
    labels = LABELS[report.language]
    resource = files("noria.reports.document") / "templates"
    style = (resource / "report.css").read_text(encoding="utf-8") + _safe_style(house)
    script = (resource / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    body = [_header(report, labels)]
    figure_parts = {"pictures": pictures, "svgs": svgs, "charts": charts}
    for n, section in enumerate(report.sections):
        inner = "\n".join(
            _block(block, report, numbering, book, labels, figure_parts) for block in section.blocks
        )
        body.append(f'<section id="s{n}"><h2>{html.escape(section.title)}</h2>\n{inner}</section>')
    if report.missing:
        rows = "".join(f"<li>{html.escape(one.what)}: {html.escape(one.why)}</li>" for one in report.missing)
        body.append(f"<section><h2>{labels['missing']}</h2><ul>{rows}</ul></section>")
    body.append(_references(numbering, report, labels))
    evidence = _script_json(_evidence(report, book, numbering, labels, charts))
    return (
        f'<!doctype html>\n<html lang="{report.language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(report.title)}</title><style>{style}</style></head>\n"
        f'<body><main>{"".join(body)}</main><aside id="source" hidden aria-live="polite">'
        f'<button type="button">{labels["close"]}</button><div></div></aside>'
        f'<script type="application/json" id="evidence">{evidence}</script><script>{script}</script></body></html>\n'
    )


def _header(report: Report, labels: dict[str, str]) -> str:
    links = "".join(
        f'<li><a href="#s{n}">{html.escape(s.title)}</a></li>' for n, s in enumerate(report.sections)
    )
    partial = (
        f'<p class="partial"><strong>{labels["partial"]}.</strong> {html.escape(report.stopped)}</p>'
        if report.stopped
        else ""
    )
    until = f'<p class="until">{labels["until"]} {html.escape(report.until)}</p>' if report.until else ""
    return (
        f"<header><h1>{html.escape(report.title)}</h1>{until}{partial}<nav>"
        f"<h2>{labels['contents']}</h2><ol>{links}</ol></nav></header>"
    )


def _block(
    block: Any,
    report: Report,
    numbering: Numbering,
    book: Book,
    labels: dict[str, str],
    parts: dict[str, Any],
) -> str:
    match block:
        case Heading():
            return f"<h3>{html.escape(block.text)}</h3>"
        case Paragraph():
            gap = "" if report.language == "zh" else " "
            return f"<p>{gap.join(_sentence(s, numbering, book, labels) for s in block.sentences)}</p>"
        case TableBlock():
            return (
                f"<figure>{_table(block.columns, block.rows)}<figcaption>"
                f"{html.escape(block.caption)} {_markers(block.cites, numbering, book)}</figcaption>"
                f"</figure>"
            )
        case FigureBlock():
            return _figure(block, numbering, book, labels, parts)
    return ""


def _sentence(sentence: Sentence, numbering: Numbering, book: Book, labels: dict[str, str]) -> str:
    pieces, place = [], 0
    for link in sentence.links:
        if link.target is None or link.start < place:
            continue
        pieces.append(html.escape(sentence.text[place : link.start]))
        pieces.append(
            f'<button type="button" class="n" '
            f'data-id="{html.escape(link.target)}">{html.escape(sentence.text[link.start : link.end])}</button>'
        )
        place = link.end
    pieces.append(html.escape(sentence.text[place:]))
    text = FIGURE_MENTION.sub(
        lambda m: (
            f"<a "
            f'href="#fig{numbering.figures.get(m[1], 0)}">{labels["figure"]} {numbering.figures.get(m[1], "?")}</a>'
        ),
        "".join(pieces),
    )
    markers = _markers(sentence.cites, numbering, book)
    end = text[-1] if text[-1:] in ".。!?！？" else ""
    return f"{text.removesuffix(end) if end else text}{markers}{end}"


def _markers(cites: Any, numbering: Numbering, book: Book) -> str:
    return "".join(f'<sup><a href="#ref{n}">[{n}]</a></sup>' for n in numbering.markers(cites, book))


def _figure(
    block: FigureBlock, numbering: Numbering, book: Book, labels: dict[str, str], parts: dict[str, Any]
) -> str:
    n = numbering.figures[block.id]
    drawn = parts["svgs"].get(block.id)
    if drawn is not None:
        image = (
            f'<div class="chart" role="img" aria-label="{html.escape(block.alt)}" '
            f'data-chart="{block.id}">{_safe_svg(drawn)}</div>'
        )
    else:
        data = base64.b64encode(parts["pictures"].get(block.id, b"")).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(block.alt)}">'
    chart = parts["charts"].get(block.id)
    details = ""
    if chart is not None:
        name = "数据" if chart.language == "zh" else "Data"
        details = f"<details><summary>{name}</summary>{_chart_table(chart)}</details>"
    refs = "".join(
        f'<sup><a href="#ref{n}">[{n}]</a></sup>' if n else " … "
        for n in shortened(numbering.markers(block.cites, book))
    )
    caption = html.escape(block.caption.rstrip(".。"))
    return (
        f'<figure id="fig{n}">{image}<figcaption>{labels["figure"]} {n}: '
        f"{caption}. {labels['source']}: {refs}</figcaption>{details}</figure>"
    )


def _chart_table(chart: ChartData) -> str:
    targets = {(cell.row, cell.column): cell.target for cell in chart.cells}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in chart.columns)
    rows = []
    for n, row in enumerate(chart.rows[:500]):
        cells = []
        for name, text in zip(chart.columns, row, strict=True):
            target = targets.get((n, name))
            inner = (
                f'<button type="button" class="n" data-id="{html.escape(target)}">{html.escape(text)}</button>'
                if target
                else html.escape(text)
            )
            cells.append(f"<td>{inner}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _table(columns: Any, rows: Any) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _references(numbering: Numbering, report: Report, labels: dict[str, str]) -> str:
    entries = []
    for n, source in enumerate(numbering.order, 1):
        link = (
            f'<a href="{html.escape(source.url)}" rel="noreferrer noopener">{html.escape(source.url)}</a>'
            if source.url.startswith(("https://", "http://"))
            else f"<code>{html.escape(source.url)}</code>"
        )
        more = f" {labels['retrieved']} {source.retrieved}." if source.retrieved else ""
        licence = f" {html.escape(source.licence)}." if source.licence else ""
        entries.append(
            f'<li id="ref{n}" value="{n}">{html.escape(reference_text(source, report))} {link}.{more}{licence}</li>'
        )
    return f'<section class="references"><h2>{labels["references"]}</h2><ol>{"".join(entries)}</ol></section>'


def _evidence(
    report: Report, book: Book, numbering: Numbering, labels: dict[str, str], charts: Mapping[str, ChartData]
) -> dict[str, Any]:
    """What the script shows of each id: words, source number, and the passage or formula."""
    wanted = {link.target for _, s in sentences(report) for link in s.links if link.target}
    wanted |= {cell.target for chart in charts.values() for cell in chart.cells}
    shown: dict[str, Any] = {}
    waiting = sorted(wanted)
    while waiting:
        id = waiting.pop()
        if id in shown or not book.has(id):
            continue
        entry = {"refs": numbering.markers([id], book), **_entry(id, book, labels)}
        waiting += entry.get("operands", [])
        if id in report.stale:
            entry["head"] += f" [{labels['stale']}]"
        shown[id] = entry
    chart_cells = {
        id: {str(cell.row): cell.target for cell in chart.cells if cell.column == chart.y}
        for id, chart in charts.items()
    }
    references = {
        str(n): f"[{n}] {reference_text(source, report)} {source.url}"
        for n, source in enumerate(numbering.order, 1)
    }
    return {"ids": shown, "charts": chart_cells, "references": references}


def _entry(id: str, book: Book, labels: dict[str, str]) -> dict[str, Any]:
    """Words of a derived number, a fact or a passage."""
    if id in book.derived:
        one = book.derived[id]
        return {
            "head": f"{labels['derived']}: {one.operation}",
            "value": f"{one.value:f} {one.unit}".strip(),
            "operands": list(one.operands[:40]),
            "more": max(0, len(one.operands) - 40),
        }
    if id in book.facts:
        fact = book.facts[id]
        passage = book.passages.get(fact.passage)
        return {
            "head": f"{fact.entity}: {fact.measure}" + (f", {fact.period}" if fact.period else ""),
            "value": f"{fact.raw} {'' if fact.unit in fact.raw else fact.unit}".strip(),
            "text": passage.text[:900] if passage else "",
            "where": f"{passage.heading if passage else ''} · {id}",
        }
    if id in book.passages:
        one_passage = book.passages[id]
        return {"head": one_passage.heading, "value": "", "text": one_passage.text[:900], "where": id}
    return {"head": ""}


def _script_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _safe_svg(svg: str) -> str:
    """An SVG of our own drawing, refused if it holds anything that runs or fetches."""
    if re.search(r"<script|\son\w+\s*=|javascript:|<foreignObject|href\s*=\s*[\"'](?!#)", svg, re.IGNORECASE):
        raise DataError("an SVG that runs or fetches something", where="chart", mend="draw it again")
    return svg


def _safe_style(style: str) -> str:
    """A house's style sheet, refused if it could leave its element or fetch."""
    if re.search(r"</|@import|url\s*\(", style, re.IGNORECASE):
        raise DataError(
            "a style sheet that fetches, or holds markup", where="--house", mend="give plain rules"
        )
    return style
