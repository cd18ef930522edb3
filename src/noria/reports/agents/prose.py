"""Prose of a model: what it is shown, each sentence checked against what it cites, figures where they are mentioned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from noria.reports.agents.asking import Asker, as_data
from noria.reports.agents.contracts import NOTES, SectionPlan
from noria.reports.agents.roles import Context
from noria.reports.agents.series import Series
from noria.reports.agents.writer import Figure, introduced, linked, write_section
from noria.reports.document.blocks import FIGURE_MENTION, Block, Heading, Paragraph, Section, Sentence
from noria.reports.evidence.records import Book
from noria.reports.evidence.support import check_sentence, checked_quantities

TOKEN = re.compile(r"\s*\[\[((?:S\d+(?:#\w+)?|D\d+)(?:\s*,\s*(?:S\d+(?:#\w+)?|D\d+))*)\]\]")
ID = r"^(?:S\d+(?:#\w+)?|D\d+)$"
"""Pattern of an id, which servers with guided decoding keep to."""
LANGUAGES = {"en": "English", "zh": "Chinese"}


class Said(msgspec.Struct, frozen=True):
    """A sentence or a heading of a model, and the ids that it cites."""

    text: str
    cites: tuple[Annotated[str, msgspec.Meta(extra_json_schema={"pattern": ID})], ...] = ()
    heading: bool = False


class Prose(msgspec.Struct, frozen=True):
    """A section of a model."""

    sentences: tuple[Said, ...]


def write_prose(
    asker: Asker, section: SectionPlan, series: Sequence[Series], figures: Sequence[Figure], context: Context
) -> Section:
    """A section by the model, checked sentence by sentence; the engine's where the model gives none."""
    plain = write_section(section, series, figures, context.request, context.index, context.book)
    told = section_material(section, series, figures, plain, context)
    instruction = section_instruction(context.request.language)
    reply = asker.ask(Prose, instruction, [told], most=section_tokens(section, context.request.language))
    if reply is None:
        return plain
    kept: list[Block] = []
    run: list[Sentence] = []
    mentions = {f.id for f in figures}
    for said in reply.sentences:
        if said.heading:
            kept += [Paragraph(tuple(run))] if run else []
            run = []
            if not checked_quantities(said.text):
                kept.append(Heading(said.text[:200]))
            continue
        sentence = checked(asker, said, mentions, context.book, context.removed)
        if sentence is not None:
            run.append(sentence)
    kept += [Paragraph(tuple(run))] if run else []
    if not any(isinstance(block, Paragraph) for block in kept):
        return plain
    zh = context.request.language == "zh"
    return Section(section.id, section.title, placed(kept, figures, context.book, zh=zh))


def checked(asker: Asker, said: Said, figures: set[str], book: Book, removed: list[str]) -> Sentence | None:
    """A sentence whose numbers all follow from what it cites; sent back once, else None and recorded."""
    for attempt in range(2):
        text = TOKEN.sub("", said.text).strip()
        text = FIGURE_MENTION.sub(lambda m: m[0] if m[1] in figures else "", text)
        named = [id for group in TOKEN.findall(said.text) for id in re.split(r"\s*,\s*", group)]
        cites = tuple(id for id in dict.fromkeys((*said.cites, *named)) if book.has(id))
        asker.tally.invented += len({*said.cites, *named}) - len(cites)
        support = check_sentence(text, cites, book)
        if text and not support.missing:
            return Sentence(text, cites)
        wrong = [text[link.start : link.end] for link in support.missing]
        if attempt == 0 and wrong:
            again = asker.ask(
                Said,
                f"These numbers are not in what the sentence cites: {', '.join(wrong)}. "
                "Write it again without them, or with ids that hold them.",
                [said.text],
                most=400,
            )
            if again is None:
                break
            said = again
    asker.tally.removed += 1
    removed.append(said.text[:300])
    return None


def placed(blocks: Sequence[Block], figures: Sequence[Figure], book: Book, *, zh: bool) -> tuple[Block, ...]:
    """Blocks with each figure after the first paragraph that mentions it; one that none mentions is introduced."""
    waiting = {figure.id: figure for figure in figures}
    out: list[Block] = []
    for block in blocks:
        out.append(linked(block, book))
        if isinstance(block, Paragraph):
            named = [id for s in block.sentences for id in FIGURE_MENTION.findall(s.text)]
            out += [waiting.pop(id).block() for id in dict.fromkeys(named) if id in waiting]
    for figure in waiting.values():
        out += [linked(Paragraph((introduced(figure, book, zh),)), book), figure.block()]
    return tuple(out)


def section_instruction(language: str) -> str:
    """What the writer of a section is asked for."""
    return (
        f"Write the section in {LANGUAGES[language]}, sentence by sentence. Each "
        "sentence with a number cites the ids that the number is from."
    )


def section_tokens(section: SectionPlan, language: str) -> int:
    """Most tokens of a section's reply: its words as a record with ids, and a third more."""
    return int(200 + section.words * (4 if language == "zh" else 5))


def section_material(
    section: SectionPlan,
    series: Sequence[Series],
    figures: Sequence[Figure],
    plain: Section,
    context: Context,
) -> str:
    """What the writer of a section is shown: outline, figures, and the evidence that it may cite.

    Evidence is the newest points of the section's series, the numbers that the engine derived from them, and the
    passages of its notes.
    """
    listed = [
        {"id": p.target, "says": f"{p.entity}, {one.measure}, {p.period}: {p.raw}"}
        for one in series
        for p in one.points[:40]
    ]
    derived = [context.book.derived[id] for id in _cited(plain) if id in context.book.derived]
    listed += [
        {"id": d.id, "says": f"{d.operation} of {', '.join(d.operands[:4])}: {d.value:f} {d.unit}"}
        for d in derived
    ]
    for note in section.notes[:NOTES]:
        passage = context.index.passage(note)
        if passage is not None:
            context.book.add(passage, context.index.source(passage.source))
            listed.append({"id": passage.id, "says": passage.text})
    return as_data(
        {
            "section": section.title,
            "summary": section.summary,
            "words": section.words,
            "before": context.before,
            "figures": [{"mention": f"[[fig:{f.id}]]", "shows": f.caption} for f in figures],
            "evidence": listed[:80],
        }
    )


def _cited(section: Section) -> list[str]:
    paragraphs = [block for block in section.blocks if isinstance(block, Paragraph)]
    return list(dict.fromkeys(id for p in paragraphs for s in p.sentences for id in s.cites))
