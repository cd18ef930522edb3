"""The image searcher: candidates by caption, refused by words and by quality, each refusal with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from noria.core.errors import NoriaError
from noria.reports.agents.contracts import Requirement
from noria.reports.agents.requests import Request
from noria.reports.agents.writer import Figure
from noria.reports.evidence.records import Book, Passage
from noria.reports.figures.pictures import open_picture, png_of
from noria.reports.figures.quality import image_quality
from noria.reports.search.index import Index

DECORATION = re.compile(
    (
        r"(?<![a-z])(?:icons?|logos?|favicon|avatar|thumbnail|button|badge|banner"
        r"|headshot|emoji|sticker|advertisement|sponsor|placeholder)(?![a-z])"
    ),
    re.IGNORECASE,
)
"""Words that mark decoration: whole words, so that `semiconductor` and `silicon` stay (the release looks for
parts of words)."""
LEAST_QUALITY = 0.35
Picture = tuple[Figure, bytes]
"""A figure and its PNG."""


@dataclass(frozen=True)
class Candidate:
    """A picture of the corpus that passed the rules: id of its source, caption and PNG."""

    id: str
    caption: str
    png: bytes


def candidates(query: str, index: Index, reasons: list[str]) -> list[Candidate]:
    """Pictures for a query: best captions first, of those the best pictures; refusals are added to `reasons`."""
    kept: list[tuple[float, float, Candidate]] = []
    for hit in index.images(query, 12):
        if is_decoration(hit.caption, hit.url):
            reasons.append(f"{hit.url}: decoration")
            continue
        data = index.picture(hit.id)
        if data is None:
            continue
        try:
            image = open_picture(data, hit.url)
        except NoriaError as error:
            reasons.append(str(error))
            continue
        quality = image_quality(image, repaired=True).total
        if quality < LEAST_QUALITY:
            reasons.append(f"{hit.url}: quality {quality:.2f}")
            continue
        kept.append((-hit.score, -quality, Candidate(hit.id, hit.caption, png_of(image))))
    return [candidate for _, _, candidate in sorted(kept, key=lambda one: one[:2])]


def is_decoration(caption: str, url: str) -> bool:
    """Whether the words of a picture, or the ending of its address, mark decoration."""
    return bool(DECORATION.search(caption)) or url.lower().endswith((".svg", ".ico"))


def find_image(need: Requirement, request: Request, index: Index, book: Book) -> Picture | str:
    """The best picture for a requirement; or why there is none."""
    reasons: list[str] = []
    offered = candidates(" ".join([need.goal, *need.entities]), index, reasons)
    if offered:
        return picture_figure(need, offered[0], index, book)
    none = "没有相符的图片" if request.language == "zh" else "no picture of the corpus fits"
    return "; ".join([none, *reasons])


def picture_figure(
    need: Requirement, chosen: Candidate, index: Index, book: Book, *, alt: str = ""
) -> Picture:
    """Figure of a chosen picture, whose caption is its source's; `alt` is what was seen in it."""
    passage = index.passage(f"{chosen.id}#p0")
    heading = passage.heading if passage is not None else ""
    id = f"{chosen.id}#p0"
    book.add(index.source(chosen.id), Passage(id, chosen.id, 0, 0, chosen.caption, heading))
    figure = Figure(need.id, chosen.caption, alt or chosen.caption, f"images/{need.id}.png", (id,))
    return figure, chosen.png
