"""The image searcher: candidates by caption, refused by words and by quality, each choice with its reason."""

from __future__ import annotations

import re

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


def find_image(need: Requirement, request: Request, index: Index, book: Book) -> tuple[Figure, bytes] | str:
    """A picture for a requirement, with its PNG; or why there is none."""
    zh = request.language == "zh"
    reasons: list[str] = []
    query = " ".join([need.goal, *need.entities])
    for hit in index.images(query, 5):
        if DECORATION.search(hit.caption) or hit.url.lower().endswith((".svg", ".ico")):
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
        passage = index.passage(f"{hit.id}#p0") or Passage(f"{hit.id}#p0", hit.id, 0, 0, hit.caption)
        book.add(
            index.source(hit.id), Passage(passage.id, passage.source, 0, 0, hit.caption, passage.heading)
        )
        return Figure(need.id, hit.caption, hit.caption, f"images/{need.id}.png", (passage.id,)), png_of(
            image
        )
    none = "没有相符的图片" if zh else "no picture of the corpus fits"
    return "; ".join([none, *reasons])
