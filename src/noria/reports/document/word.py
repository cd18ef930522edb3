"""Word document of a report, with footnotes as a part of our own: no permissive library writes them."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any
from xml.sax.saxutils import escape

from noria.core.errors import require
from noria.reports.document.blocks import (
    FIGURE_MENTION,
    LABELS,
    FigureBlock,
    Heading,
    Paragraph,
    TableBlock,
    notices,
)
from noria.reports.document.bundle import Bundle
from noria.reports.document.numbering import Numbering, number, reference_text
from noria.reports.evidence.records import Source

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_EPOCH = (1980, 1, 1, 0, 0, 0)
_FOOTNOTE_TYPE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
_FOOTNOTE_PART = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"


def write_docx(bundle: Bundle) -> bytes:
    """Word document of a report: headings, figures with alternative text, tables, and footnotes that hold the
    references.

    python-docx writes no footnotes: their part is written here and put into the package.

    Raises:
        MissingExtra: python-docx is not installed.
    """
    docx = require("docx", "reports")
    report = bundle.report
    numbering = number(report, bundle.book)
    labels = LABELS[report.language]
    document = docx.Document()
    document.core_properties.title = report.title
    document.core_properties.author = ""
    document.add_heading(report.title, 0)
    for notice in notices(report):
        document.add_paragraph(_clean(notice))
    notes: list[str] = []
    for section in report.sections:
        document.add_heading(section.title, 1)
        for block in section.blocks:
            match block:
                case Heading():
                    document.add_heading(block.text, 2)
                case Paragraph():
                    _paragraph(document.add_paragraph(), block, bundle, numbering, notes)
                case FigureBlock():
                    _figure(document, block, bundle, numbering, notes)
                case TableBlock():
                    grid = document.add_table(rows=0, cols=len(block.columns), style="Table Grid")
                    for row in (block.columns, *block.rows):
                        for cell, text in zip(grid.add_row().cells, row, strict=True):
                            cell.text = _clean(text)
    if report.missing:
        document.add_heading(labels["missing"], 1)
        for one in report.missing:
            document.add_paragraph(_clean(f"{one.what}: {one.why}"), style="List Bullet")
    document.add_heading(labels["references"], 1)
    for n, source in enumerate(numbering.order, 1):
        document.add_paragraph(f"[{n}] {_clean(reference_text(source, report))} {_clean(source.url)}")
    out = io.BytesIO()
    document.save(out)
    return _with_footnotes(out.getvalue(), notes)


def _paragraph(
    paragraph: Any, block: Paragraph, bundle: Bundle, numbering: Numbering, notes: list[str]
) -> None:
    """Write sentences, each with a footnote of its sources."""
    label = LABELS[bundle.report.language]["figure"]
    for sentence in block.sentences:
        words = FIGURE_MENTION.sub(lambda m: f"{label} {numbering.figures.get(m[1], '')}", sentence.text)
        paragraph.add_run(_clean(words))
        marks = numbering.markers(sentence.cites, bundle.book)
        _footnote(paragraph, [numbering.order[n - 1] for n in marks], notes)
        paragraph.add_run("" if bundle.report.language == "zh" else " ")


def _figure(
    document: Any, block: FigureBlock, bundle: Bundle, numbering: Numbering, notes: list[str]
) -> None:
    """Add a picture with its alternative text, and a caption with a footnote of its sources."""
    inches = require("docx.shared", "reports").Inches
    document.add_picture(io.BytesIO(bundle.drawn[block.id]["png"]), width=inches(6))
    document.inline_shapes[-1]._inline.docPr.set("descr", _clean(block.alt))
    caption = document.add_paragraph(style="Caption")
    label = LABELS[bundle.report.language]["figure"]
    caption.add_run(f"{label} {numbering.figures[block.id]}: {_clean(block.caption)}")
    marks = numbering.markers(block.cites, bundle.book)
    _footnote(caption, [numbering.order[n - 1] for n in marks], notes)


def _clean(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text)


def _footnote(paragraph: Any, sources: list[Source], notes: list[str]) -> None:
    """Add a footnote's reference to a paragraph, and its text to the notes."""
    parse = require("docx.oxml", "reports").parse_xml
    if not sources:
        return
    notes.append("; ".join(f"{reference_text(source)} {source.url}" for source in sources))
    run = (
        f'<w:r {_W}><w:rPr><w:vertAlign w:val="superscript"/>'
        f'</w:rPr><w:footnoteReference w:id="{len(notes)}"/></w:r>'
    )
    paragraph._p.append(parse(run))


def _with_footnotes(raw: bytes, notes: list[str]) -> bytes:
    """A Word file with a part of footnotes; entries keep their order and one fixed time, so bytes repeat."""
    marks = "".join(
        f'<w:footnote w:type="{kind}" w:id="{n}"><w:p><w:r><w:{tag}/></w:r></w:p></w:footnote>'
        for n, kind, tag in (
            (-1, "separator", "separator"),
            (0, "continuationSeparator", "continuationSeparator"),
        )
    )
    body = "".join(
        f'<w:footnote w:id="{n}"><w:p><w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:footnoteRef/></w:r>'
        f'<w:r><w:t xml:space="preserve"> {escape(_clean(text))}</w:t></w:r></w:p></w:footnote>'
        for n, text in enumerate(notes, 1)
    )
    part = f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><w:footnotes {_W}>{marks}{body}</w:footnotes>'
    return _with_part(raw, "word/footnotes.xml", part.encode())


_ADDED = {
    "[Content_Types].xml": (
        b"</Types>",
        f'<Override PartName="/word/footnotes.xml" ContentType="{_FOOTNOTE_PART}"/></Types>'.encode(),
    ),
    "word/_rels/document.xml.rels": (
        b"</Relationships>",
        f'<Relationship Id="rIdNotes" Type="{_FOOTNOTE_TYPE}" Target="footnotes.xml"/></Relationships>'.encode(),
    ),
}


def _with_part(raw: bytes, name: str, part: bytes) -> bytes:
    """A package with one more part, which its list of types and its relations name."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(raw)) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            data = source.read(entry.filename)
            if entry.filename in _ADDED:
                data = data.replace(*_ADDED[entry.filename])
            target.writestr(zipfile.ZipInfo(entry.filename, _EPOCH), data, zipfile.ZIP_DEFLATED)
        target.writestr(zipfile.ZipInfo(name, _EPOCH), part, zipfile.ZIP_DEFLATED)
    return out.getvalue()
