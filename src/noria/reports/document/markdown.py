"""The report as Markdown in the layout of TVIR-Bench, which its released scripts read: anchors of references
and figures.
"""

from __future__ import annotations

import html
import re
from urllib.parse import quote

from noria.reports.document.blocks import (
    FIGURE_MENTION,
    LABELS,
    FigureBlock,
    Heading,
    Paragraph,
    Report,
    Sentence,
    TableBlock,
)
from noria.reports.document.numbering import Numbering, number, reference_text
from noria.reports.evidence.records import Book


def write_markdown(report: Report, book: Book) -> str:
    """Markdown of a report; the same report gives the same text."""
    numbering = number(report, book)
    labels = LABELS[report.language]
    lines = [f"# {_plain(report.title)}", ""]
    if report.stopped:
        lines += [f"> **{labels['partial']}**: {_plain(report.stopped)}", ""]
    if report.until:
        lines += [f"> {labels['until']} {report.until}", ""]
    for section in report.sections:
        lines += [f"## {_plain(section.title)}", ""]
        for block in section.blocks:
            match block:
                case Heading():
                    lines += [f"### {_plain(block.text)}", ""]
                case Paragraph():
                    gap = "" if report.language == "zh" else " "
                    lines += [gap.join(_sentence(s, numbering, book, labels) for s in block.sentences), ""]
                case TableBlock():
                    lines += _table(block, numbering, book, labels)
                case FigureBlock():
                    lines += [_figure(block, numbering, book, labels), ""]
    if report.missing:
        lines += [f"## {labels['missing']}", ""]
        lines += [f"- {_plain(one.what)}: {_plain(one.why)}" for one in report.missing] + [""]
    lines += [f"## {labels['references']}", ""]
    for n, source in enumerate(numbering.order, 1):
        lines.append(f'<a id="ref{n}"></a> [{n}] {_plain(reference_text(source, report))} {_url(source.url)}')
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _sentence(sentence: Sentence, numbering: Numbering, book: Book, labels: dict[str, str]) -> str:
    text = FIGURE_MENTION.sub(lambda match: _mention(match[1], numbering, labels), _plain(sentence.text))
    markers = " ".join(f'<a href="#ref{n}">[{n}]</a>' for n in numbering.markers(sentence.cites, book))
    if not markers:
        return text
    end = text[-1] if text[-1:] in ".。!?！？" else ""
    gap = "" if end in "。！？" and end else " "
    return f"{text.removesuffix(end) if end else text}{gap}{markers}{end}"


def _mention(id: str, numbering: Numbering, labels: dict[str, str]) -> str:
    n = numbering.figures.get(id)
    return f'<a href="#fig{n}">{labels["figure"]} {n}</a>' if n else ""


def _figure(block: FigureBlock, numbering: Numbering, book: Book, labels: dict[str, str]) -> str:
    n = numbering.figures[block.id]
    refs = " ".join(f'<a href="#ref{k}">[{k}]</a>' for k in numbering.markers(block.cites, book))
    source = f" {labels['source']}: {refs}." if refs else ""
    caption = html.escape(block.caption.rstrip(".。"), quote=False)
    return (
        f'<figure><img src="{html.escape(block.path)}" alt="{html.escape(block.alt)}">'
        f'<figcaption id="fig{n}">{labels["figure"]} {n}: {caption}.{source}</figcaption></figure>'
    )


def _table(block: TableBlock, numbering: Numbering, book: Book, labels: dict[str, str]) -> list[str]:
    refs = " ".join(f'<a href="#ref{k}">[{k}]</a>' for k in numbering.markers(block.cites, book))
    rows = [block.columns, ["---"] * len(block.columns), *block.rows]
    lines = [f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [*lines, "", f"{labels['table']}: {_plain(block.caption)} {refs}".rstrip(), ""]


def _plain(text: str) -> str:
    """Text of evidence as Markdown shows it: no markup of its own, no control characters, no overrides of direction."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", "", " ".join(text.split()))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _url(url: str) -> str:
    return quote(url, safe="/:?&=#%~+,;@!$'()*-._")
