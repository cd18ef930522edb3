"""Reading of HTML and Markdown: headings, paragraphs, tables and pictures; scripts, styles and navigation are
left out.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from html.parser import HTMLParser

from noria.core.errors import DataError
from noria.reports.evidence.tables import Table
from noria.reports.reading.documents import Document, Piece

_SILENT = {
    "script",
    "style",
    "noscript",
    "template",
    "nav",
    "footer",
    "aside",
    "form",
    "svg",
    "iframe",
    "object",
    "head",
}
_BLOCKS = {
    "p",
    "li",
    "dd",
    "dt",
    "blockquote",
    "pre",
    "figcaption",
    "td",
    "th",
    "div",
    "section",
    "article",
    "br",
    "tr",
}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_VOID = {
    "br",
    "img",
    "meta",
    "link",
    "hr",
    "input",
    "source",
    "wbr",
    "area",
    "base",
    "col",
    "embed",
    "track",
    "param",
}
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")
"""First bytes of gzip, zip, Zstandard, bzip2 and xz."""
_NO_ENCODINGS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"}
"""Codecs of Python's that are no encodings of pages: slow, or able to make what is no character."""
_DATES = {
    "article:published_time",
    "date",
    "dc.date",
    "datepublished",
    "citation_publication_date",
    "last-modified",
}


class _Reader(HTMLParser):
    """Collects the text of a page as pieces, and its tables."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[Piece] = []
        self.tables: list[list[list[str]]] = []
        self.images: list[tuple[str, str]] = []
        self.meta: dict[str, str] = {}
        self.title = ""
        self._silent = 0
        self._in_title = False
        self._headings: list[tuple[int, str]] = []
        self._text: list[str] = []
        self._level = 0
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "title":
            self._in_title = True
        elif tag == "meta":
            self.meta[(values.get("property") or values.get("name") or "").lower()] = values.get(
                "content", ""
            )
        elif tag in _SILENT and tag != "head":
            self._silent += 1
        elif self._silent:
            return
        elif tag == "img":
            self.images.append((values.get("src", ""), values.get("alt", "")))
        elif tag == "table":
            self._flush()
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._flush()
            self._in_cell = True
        elif tag in _HEADINGS:
            self._flush()
            self._level = int(tag[1])
        elif tag in _BLOCKS:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in _SILENT and tag != "head":
            self._silent = max(0, self._silent - 1)
        elif self._silent:
            return
        elif tag in ("td", "th"):
            text = self._take()
            if self.tables and self.tables[-1]:
                self.tables[-1][-1].append(text)
            self._in_cell = False
        elif tag in _HEADINGS and self._level:
            text = self._take()
            self._headings = [(level, name) for level, name in self._headings if level < self._level] + [
                (self._level, text)
            ]
            self._level = 0
        elif tag in _BLOCKS:
            self._flush()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent:
            self._text.append(data)

    def _take(self) -> str:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        return text

    def _flush(self) -> None:
        if self._in_cell or self._level:
            return
        text = self._take()
        if text:
            self.pieces.append(Piece(text, " > ".join(name for _, name in self._headings)))


def read_html(raw: bytes, url: str) -> list[Document]:
    """Read a page and each of its tables.

    Returns:
        The page, then a document for each table of two rows or more.
    """
    reader = _Reader()
    reader.feed(decode_page(raw))
    reader.close()
    reader._in_cell = False
    reader._flush()
    title = " ".join(reader.title.split()) or next((name for _, name in reader._headings), url)
    date = next(
        (value[:10] for name, value in reader.meta.items() if name in _DATES and re.match(r"\d{4}", value)),
        "",
    )
    publisher = reader.meta.get("og:site_name", "")
    page = Document(url, title, publisher, date, pieces=reader.pieces, origin=raw)
    documents = [page]
    for number, rows in enumerate(reader.tables, 1):
        rows = [row for row in rows if any(row)]
        if len(rows) < 2:
            continue
        try:
            table = Table.of(rows[0], rows[1:], url)
        except DataError:
            continue
        documents.append(
            Document(
                f"{url}#table-{number}", f"{title}, table {number}", publisher, date, table=table, origin=raw
            )
        )
    return documents


def page_images(raw: bytes) -> list[tuple[str, str]]:
    """Addresses and alternative texts of the pictures of a page."""
    reader = _Reader()
    reader.feed(decode_page(raw))
    return reader.images


def decode_page(raw: bytes) -> str:
    """Text of a page by its byte-order mark, in the encoding that it names, else UTF-8, else Windows-1252.

    Raises:
        DataError: it is no text: it is compressed, or has NUL characters.
    """
    if raw.startswith(_COMPRESSED):
        raise DataError("not text but compressed", mend="unpack it first")
    named = re.search(rb"charset=[\"']?([A-Za-z0-9_-]{2,30})", raw[:4096])
    names = ["utf-8-sig", "gb18030" if _looks_chinese(raw) else "cp1252"]
    with contextlib.suppress(LookupError):
        if named and codecs.lookup(named[1].decode()).name.replace("_", "-") not in _NO_ENCODINGS:
            names.insert(0, named[1].decode())
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        names.insert(0, "utf-16")
    text = raw.decode("cp1252", errors="replace")
    for name in names:
        with contextlib.suppress(LookupError, UnicodeError):
            text = raw.decode(name)
            break
    if "\0" in text:
        raise DataError("not text: it has NUL characters", mend="save it as text in UTF-8")
    return text


def _looks_chinese(raw: bytes) -> bool:
    """Whether bytes that are no UTF-8 are mostly pairs of high bytes, as GB 18030's are."""
    high = sum(byte > 0x7F for byte in raw[:4096])
    return high > len(raw[:4096]) // 4


def read_markdown(raw: bytes, url: str) -> list[Document]:
    """Read Markdown or plain text: headings, paragraphs, pipe tables."""
    text = decode_page(raw).replace("\r\n", "\n")
    headings: list[tuple[int, str]] = []
    pieces: list[Piece] = []
    documents: list[Document] = []
    title = ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").split("\n")
        while lines and (match := re.match(r"(#{1,6})\s+(.*)", lines[0])):
            level = len(match[1])
            headings = [(deep, name) for deep, name in headings if deep < level] + [(level, match[2].strip())]
            title = title or match[2].strip()
            lines = lines[1:]
        if not lines or not "".join(lines).strip():
            continue
        heading = " > ".join(name for _, name in headings)
        if len(lines) > 2 and "|" in lines[0] and re.match(r"^[\s|:-]+$", lines[1]):
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
            table = Table.of(rows[0], rows[2:], url)
            documents.append(
                Document(f"{url}#table-{len(documents) + 1}", heading or url, table=table, origin=raw)
            )
        else:
            pieces.append(Piece(" ".join(" ".join(lines).split()), heading))
    return [Document(url, title or url, pieces=pieces, origin=raw), *documents]
