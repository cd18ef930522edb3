"""A document: what a reader makes of a file, before it has an id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from noria.reports.evidence.tables import Table

PASSAGE = 900
"""Characters of a passage, about; it ends at a sentence or a line where it can."""
LARGEST_TEXT = 8_000_000
"""Most characters of one document."""
_BLOCKED = re.compile(
    r"enable javascript|javascript is (?:disabled|required)|turn on javascript|are you a robot|captcha|access denied|"
    r"checking your browser|请启用\s*javascript|开启\s*javascript",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Piece:
    """A paragraph or a field of a document: its text under a heading.

    Attributes:
        text: the text; empty ones are left out by readers.
        heading: path of headings, joined by " > ".
        entity: what a field is about, for facts; empty for prose.
        measure: name of the field; empty for prose.
    """

    text: str
    heading: str = ""
    entity: str = ""
    measure: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of a document: its bytes, the text beside it, and where it is from."""

    data: bytes
    caption: str
    url: str


@dataclass
class Document:
    """Content of a file.

    Attributes:
        url: address, or path in the corpus.
        title, publisher, date, licence: what the file says of itself.
        pieces: text in the order of reading.
        table: table, where the document is one.
        pictures: pictures with their captions.
        origin: bytes that it was read from.
        warnings: what was left out, and why.
    """

    url: str
    title: str
    publisher: str = ""
    date: str = ""
    licence: str = ""
    pieces: list[Piece] = field(default_factory=list)
    table: Table | None = None
    pictures: list[Picture] = field(default_factory=list)
    origin: bytes = b""
    warnings: list[str] = field(default_factory=list)

    @property
    def blocked(self) -> bool:
        """Whether this is a page that says "enable JavaScript" or asks for a captcha, and is no source."""
        text = " ".join(piece.text for piece in self.pieces[:20])
        return self.table is None and not self.pictures and len(text) < 1500 and bool(_BLOCKED.search(text))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.pieces and self.table is None and not self.pictures


def parted(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of passages of about `PASSAGE` characters, cut at a line, a sentence or a blank."""
    start = 0
    while start < len(text):
        end = min(len(text), start + PASSAGE)
        if end < len(text):
            window = text[start + PASSAGE // 2 : end]
            cut = max(window.rfind("\n"), window.rfind(". "), window.rfind("。"), window.rfind("; "))
            cut = cut if cut >= 0 else window.rfind(" ")
            end = start + PASSAGE // 2 + cut + 1 if cut >= 0 else end
        yield start, end
        start = end


def paragraphs(text: str) -> list[str]:
    """Paragraphs of plain text: blocks between empty lines, blanks collapsed."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]
