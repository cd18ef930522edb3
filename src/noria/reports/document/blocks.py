"""Blocks of a report: sections of paragraphs of sentences, with figures where they are discussed. The files are
renderings of it.

In a sentence, `[[fig:C1]]` is a mention of a figure; evidence is not in the text but beside it, in `cites`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from noria.reports.evidence.support import Link

Language = Literal["en", "zh"]
FIGURE_MENTION = re.compile(r"\[\[fig:([CI]\d+)\]\]")


class Sentence(msgspec.Struct, frozen=True):
    """A sentence, the ids that it cites, and its numbers with the ids that they follow from."""

    text: str
    cites: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()


class Paragraph(msgspec.Struct, frozen=True, tag="paragraph"):
    """Sentences that belong together."""

    sentences: tuple[Sentence, ...]


class Heading(msgspec.Struct, frozen=True, tag="heading"):
    """A heading inside a section."""

    text: str


class FigureBlock(msgspec.Struct, frozen=True, tag="figure"):
    """The place of a chart (`C1`) or a picture (`I1`), with its caption.

    Attributes:
        id: id of the chart or picture.
        caption: title and what it shows, without the number and without the sources.
        alt: alternative text.
        path: file of the picture in the bundle.
        cites: ids of evidence behind it.
    """

    id: str
    caption: str
    alt: str
    path: str
    cites: tuple[str, ...] = ()


class TableBlock(msgspec.Struct, frozen=True, tag="table"):
    """A table with a caption; cells may hold numbers of the evidence cited."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    cites: tuple[str, ...] = ()


Block = Paragraph | Heading | FigureBlock | TableBlock


class Section(msgspec.Struct, frozen=True):
    """A section with its id, title and blocks."""

    id: str
    title: str
    blocks: tuple[Block, ...] = ()


class Missing(msgspec.Struct, frozen=True):
    """What was planned and not produced, and why."""

    id: str
    what: str
    why: str


class Report(msgspec.Struct, frozen=True):
    """A report as its blocks, before it is rendered.

    Attributes:
        title: title of the report.
        language: language of headings and labels.
        sections: sections in order.
        missing: what was planned and not produced.
        stopped: why the report is partial; empty where it is whole.
        until: date until which sources were read; empty where there is none.
        stale: ids of sources and facts that are older than the date asked for.
    """

    title: str
    language: Language
    sections: tuple[Section, ...]
    missing: tuple[Missing, ...] = ()
    stopped: str = ""
    until: str = ""
    stale: tuple[str, ...] = ()


LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "references": "References",
        "figure": "Figure",
        "table": "Table",
        "source": "Source",
        "contents": "Contents",
        "missing": "Planned but not produced",
        "partial": "This report is partial",
        "introduction": "Introduction",
        "conclusion": "Conclusion",
        "derived": "computed",
        "from": "from",
        "retrieved": "read on",
        "close": "Close",
        "stale": "older than asked for",
        "until": "Sources until",
    },
    "zh": {
        "references": "参考文献",
        "figure": "图",
        "table": "表",
        "source": "来源",
        "contents": "目录",
        "missing": "计划但未完成的内容",
        "partial": "本报告不完整",
        "introduction": "引言",
        "conclusion": "结论",
        "derived": "计算",
        "from": "来自",
        "retrieved": "读取于",
        "close": "关闭",
        "stale": "早于所要求的日期",
        "until": "来源截至",
    },
}


def sentences(report: Report) -> Iterator[tuple[Section, Sentence]]:
    """Yield every sentence with its section."""
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Paragraph):
                yield from ((section, sentence) for sentence in block.sentences)


def figures(report: Report) -> list[FigureBlock]:
    """Figures of a report in the order of their numbers."""
    return [
        block for section in report.sections for block in section.blocks if isinstance(block, FigureBlock)
    ]


def cited_ids(report: Report) -> list[str]:
    """Ids that a report cites, in order, each once."""
    ids: list[str] = []
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Paragraph):
                ids += [id for sentence in block.sentences for id in sentence.cites]
            elif isinstance(block, FigureBlock | TableBlock):
                ids += block.cites
    return list(dict.fromkeys(ids))


def notices(report: Report) -> list[str]:
    """What a reader must know first: that the report is partial and why, and the date of its sources."""
    labels = LABELS[report.language]
    partial = [f"{labels['partial']}: {report.stopped}"] if report.stopped else []
    return partial + ([f"{labels['until']} {report.until}"] if report.until else [])
