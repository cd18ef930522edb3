"""PDF of a report by Typst.

Typst rather than WeasyPrint: one wheel without system libraries, a page in .06 s against .37 s, fonts and line breaking
of its own; WeasyPrint needs Pango of the system.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from noria.core.errors import require
from noria.core.files import decoding
from noria.reports.document.blocks import (
    FIGURE_MENTION,
    LABELS,
    Block,
    FigureBlock,
    Heading,
    Paragraph,
    Report,
    Sentence,
    notices,
)
from noria.reports.document.bundle import Bundle
from noria.reports.document.numbering import Numbering, number, reference_text
from noria.reports.evidence.records import Book

TEMPLATE = """#set document(title: "{title}")
#set page(paper: "a4", margin: (x: 2.6cm, y: 2.8cm), numbering: "1")
#set text(font: ("Libertinus Serif", "Noto Serif CJK SC", "Noto Sans CJK SC", "DejaVu Sans"),
  size: 10.5pt, lang: "{lang}")
#set par(justify: true, leading: 0.72em, spacing: 1.1em)
#show heading: set text(font: ("DejaVu Sans", "Noto Sans CJK SC"), weight: "bold")
#show heading.where(level: 1): set block(above: 1.8em, below: 0.8em)
#show figure.caption: set text(size: 9pt)
#show link: set text(fill: rgb("#0b5cad"))
#align(left)[#text(size: 20pt, weight: "bold", font: ("DejaVu Sans", "Noto Sans CJK SC"))[{head}]]
#v(0.6em)
#outline(title: [{contents}], depth: 1)
"""


def write_pdf(bundle: Bundle, *, fonts: Path | None = None) -> bytes:
    """PDF of a report by Typst.

    Raises:
        MissingExtra: Typst is not installed.
        DataError: Typst refuses what it was given.
    """
    typst = require("typst", "reports")
    text = typst_source(bundle.report, bundle.book)
    with (
        tempfile.TemporaryDirectory(prefix="noria-reports-") as name,
        decoding(Path("report.pdf"), "a report that Typst can set"),
    ):
        root = Path(name)
        (root / "main.typ").write_text(text, encoding="utf-8")
        for id, parts in bundle.drawn.items():
            (root / f"{id}.png").write_bytes(parts["png"])
        return bytes(
            typst.compile(str(root / "main.typ"), root=str(root), font_paths=[str(fonts)] if fonts else [])
        )


def typst_source(report: Report, book: Book) -> str:
    """Typst source of a report; all text of evidence is in string literals, so that none of it is markup."""
    numbering = number(report, book)
    labels = LABELS[report.language]
    head = TEMPLATE.format(
        title=_string(report.title),
        lang=report.language,
        head=_text(report.title),
        contents=_text(labels["contents"]),
    )
    parts = [head, *map(_text, notices(report))]
    for section in report.sections:
        parts.append(f"= {_text(section.title)}")
        parts += [_block(block, report, numbering, book, labels) for block in section.blocks]
    if report.missing:
        parts.append(f"#heading(numbering: none)[{_text(labels['missing'])}]")
        parts += [f"- {_text(f'{one.what}: {one.why}')}" for one in report.missing]
    parts.append(f"#heading(numbering: none)[{_text(labels['references'])}]")
    parts += [
        f'#block[[{n}] {_text(reference_text(source, report))} #raw("{_string(source.url)}") <ref-{n}>]'
        for n, source in enumerate(numbering.order, 1)
    ]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, report: Report, numbering: Numbering, book: Book, labels: dict[str, str]) -> str:
    match block:
        case Heading():
            return f"== {_text(block.text)}"
        case Paragraph():
            gap = "" if report.language == "zh" else " "
            return gap.join(_sentence(s, numbering, book, labels) for s in block.sentences)
        case FigureBlock():
            refs = _refs(block.cites, numbering, book)
            return (
                f'#figure(image("{block.id}.png", width: 100%, alt: "{_string(block.alt)}"), supplement: '
                f"[{labels['figure']}], caption: [{_text(block.caption)} {refs}]) <fig-{block.id}>"
            )
    cells = ", ".join(f"[{_text(cell)}]" for row in (block.columns, *block.rows) for cell in row)
    return f"#figure(table(columns: {len(block.columns)}, {cells}), caption: [{_text(block.caption)}])"


def _sentence(sentence: Sentence, numbering: Numbering, book: Book, labels: dict[str, str]) -> str:
    pieces = FIGURE_MENTION.split(sentence.text)
    text = "".join(
        _text(piece) if n % 2 == 0 else (f"@fig-{piece}" if piece in numbering.figures else "")
        for n, piece in enumerate(pieces)
    )
    return text + _refs(sentence.cites, numbering, book)


def _refs(cites: Any, numbering: Numbering, book: Book) -> str:
    return "".join(f"#super[[{n}]]" for n in numbering.markers(cites, book))


def _string(text: str) -> str:
    return re.sub(r"[\x00-\x1f]", " ", text).replace("\\", "\\\\").replace('"', '\\"')


def _text(text: str) -> str:
    return f'#"{_string(text)}"' if text else ""
