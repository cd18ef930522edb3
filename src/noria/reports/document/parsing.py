"""Reading of a report's Markdown, ours or another system's: sections, sentences, markers, references, figures. No
model.

What the release asks a model for, three calls a report, is decided here by a grammar. Markers are
`<a href="#refN">[N]</a>`,
`[[N]](#refN)`, `[N](#refN)` or a plain `[N]`, also `[1, 3]` and `[2-4]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import msgspec

_REFERENCES = re.compile(
    r"^#{1,6}\s*(?:\d+[.、]?\s*)?(?:references|bibliography|sources|works cited"
    r"|参考文献|参考资料|引用来源|来源)\s*:?\s*$",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_ANCHOR = re.compile(r'<a\s+(?:id|name)="ref(\d+)"\s*>\s*(?:</a>)?', re.IGNORECASE)
_ENTRY = re.compile(
    (
        r"^\s*(?:[-*]\s*)?(?:<a\s+(?:id|name)=\"ref\d+\"\s*>\s*(?:"
        r"</a>)?)?\s*(?:\[(\d+)\]|\[\^(\d+)\]:|(\d+)[.)、])\s*:?\s*(.*)$"
    ),
    re.IGNORECASE,
)
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'）】，。]+|(?<=\()[^\s()]+://[^\s()]+")
_PATH = re.compile(
    r"(\S+\.(?:md|txt|html?|pdf|docx|xlsx|pptx|csv|tsv|jsonl?|ndjson|parquet|png|jpe?g)(?:#\S*)?)\s*$",
    re.IGNORECASE,
)
MARKER = re.compile(
    r'<a\s+href="#ref([^"]{0,40})"\s*>(?:(?!<a\s).)*?</a>|\[\[([\d,\s–-]{1,200})\]\]\([^)]{0,2000}\)'
    r"|\[([\d,\s–-]{1,200})\](?:\(#?[^)]{0,2000}\))?|\[\^(\d+)\]",
    re.IGNORECASE,
)
_FIGURE = re.compile(
    r"<figure\b(?:(?!<figure\b).)*?</figure>"
    r"|!\[(?P<alt>[^\]]{0,1000})\]\((?P<src>(?>[^)\s]{1,2000}))(?:\s[^)]{0,2000})?\)|<img\b(?:(?!<img\b)[^>])*>",
    re.IGNORECASE | re.DOTALL,
)
# Each scan ends at the next beginning of its kind, or is bounded: text that opens a thing a million times is linear.
_SRC = re.compile(r"<img\b(?:(?!<img\b)[^>])*?\bsrc\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
_ALT = re.compile(r"<img\b(?:(?!<img\b)[^>])*?\balt\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
_CAPTION = re.compile(
    r"<figcaption\b([^<>]*)>((?:(?!<figcaption\b).)*?)</figcaption>", re.IGNORECASE | re.DOTALL
)
_CAPTION_LINE = re.compile(
    r"^\s*[*_]*(?:figure|fig\.|图)\s*(\d+)\s*[:：.、]?\s*(.*?)[*_]*\s*$", re.IGNORECASE
)
_FIGURE_LINK = re.compile(
    r'<a\s+href="#fig(\d+)"\s*>(?:(?!<a\s).)*?</a>|\[[^\]]{0,500}\]\(#fig(\d+)\)', re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"(?<=[。！？])(?![」』”’）\s]*(?:<a\b|\[\d))|(?<=[.!?])(?=\s+(?!<a\s+href=\"#ref"
    r"|\[)[A-Z\"'(\u4e00-\u9fff<*])|(?<=\])(?=\s+[A-Z])(?<=[.!?]\s\[\d\])"
)


class Reference(msgspec.Struct, frozen=True):
    """An entry of the list of references: number, words, address (empty where there is none), its line."""

    number: int
    text: str
    url: str
    line: int


class CitedSentence(msgspec.Struct, frozen=True):
    """A sentence of the body with the numbers that it cites and the figures that it links to."""

    text: str
    section: str
    line: int
    cites: tuple[int, ...] = ()
    figures: tuple[int, ...] = ()


class ParsedFigure(msgspec.Struct, frozen=True):
    """A figure: its path or address, caption, anchor number, references in the caption, place, and the text
    around it.
    """

    path: str
    caption: str
    anchor: int | None
    cites: tuple[int, ...]
    line: int
    section: str
    context: str
    alt: str = ""

    @property
    def kind(self) -> str:
        """`chart` below `charts/`, `image` below `images/` or on the web, else `unknown` (the release's rule)."""
        if self.path.startswith(("charts/", "./charts/")):
            return "chart"
        return "image" if self.path.startswith(("images/", "./images/", "http://", "https://")) else "unknown"


class ParsedReport(msgspec.Struct, frozen=True):
    """Everything that a report's Markdown holds, as lists in its order."""

    title: str
    sections: tuple[tuple[str, int, int], ...]
    sentences: tuple[CitedSentence, ...]
    references: tuple[Reference, ...]
    figures: tuple[ParsedFigure, ...]
    length: int

    def reference(self, number: int) -> Reference | None:
        """First entry of a number; None where there is none."""
        return next((one for one in self.references if one.number == number), None)


def parse_report(markdown: str) -> ParsedReport:
    """Parse a report in one pass over its lines; time grows with its length.

    Code blocks are skipped: a `[1]` in code is no citation.
    """
    lines = markdown.replace("\r\n", "\n").split("\n")
    split, end = _references_at(lines)
    title = next((m[2] for line in lines if (m := _HEADING.match(line)) and len(m[1]) == 1), "")
    body = [*lines[:split], *[""] * (end - split), *lines[end:]]  # places of lines stay as they are
    figures = tuple(_figures(body))
    sections, sentences = _body(body)
    references = tuple(_references(lines[split:end], split))
    return ParsedReport(_strip(title), sections, tuple(sentences), references, figures, len(markdown))


def _references_at(lines: list[str]) -> tuple[int, int]:
    """Line of the last heading of references, and that of the next heading which is not below it; without a heading of
    references, from the first anchored entry to the end.
    """
    places = [n for n, line in enumerate(lines) if _REFERENCES.match(line.replace("*", ""))]
    if not places:
        return next((n for n, line in enumerate(lines) if _ANCHOR.search(line)), len(lines)), len(lines)
    first = places[-1]
    level = lines[first].count("#")
    after = ((n, _HEADING.match(lines[n])) for n in range(first + 1, len(lines)))
    return first, next((n for n, m in after if m and len(m[1]) <= level), len(lines))


def _references(lines: list[str], first: int) -> Iterator[Reference]:
    for offset, line in enumerate(lines):
        match = _ENTRY.match(line)
        if not match:
            continue
        text = unescape(match[4]).strip()
        url = _URL.search(text)
        path = None if url else _PATH.search(text)
        address = url[0].rstrip(".,;)") if url else path[1] if path else ""
        number = int((match[1] or match[2] or match[3])[:9])
        yield Reference(
            number, text.replace(address, "").strip() if address else text, address, first + offset + 1
        )


def _body(lines: list[str]) -> tuple[tuple[tuple[str, int, int], ...], list[CitedSentence]]:
    """Sections as (title, level, characters of text), and the sentences of paragraphs, lists and tables."""
    sections: list[tuple[str, int, int]] = []
    found: list[CitedSentence] = []
    section, size, fenced = "", 0, False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            continue
        if fenced:
            continue
        if heading := _HEADING.match(line):
            if sections:
                sections[-1] = (*sections[-1][:2], size)
            section, size = _strip(heading[2]), 0
            sections.append((section, len(heading[1]), 0))
            continue
        text = _FIGURE.sub("", line).strip()
        if not text or re.match(r"^[\s|:-]+$", text) or _CAPTION_LINE.match(text):
            continue
        size += len(text)
        for part in sentences_of(text):
            links = tuple(int((a or b)[:9]) for a, b in _FIGURE_LINK.findall(part))
            found.append(CitedSentence(part, section, number, markers_of(part), links))
    if sections:
        sections[-1] = (*sections[-1][:2], size)
    return tuple(sections), found


def sentences_of(text: str) -> list[str]:
    """Sentences of a paragraph; markers stay with the sentence before them."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def markers_of(text: str) -> tuple[int, ...]:
    """Reference numbers that a text cites, in order, each once."""
    numbers: list[int] = []
    for match in MARKER.finditer(text):
        group = next((g for g in match.groups() if g), "")
        for piece in re.split(r"[,\s]+", group.strip()):
            span = re.fullmatch(r"(\d{1,6})[–-](\d{1,6})", piece)
            if span and int(span[2]) - int(span[1]) < 100:
                numbers += range(int(span[1]), int(span[2]) + 1)
            elif piece.isdecimal():
                numbers.append(int(piece[:9]))
    return tuple(dict.fromkeys(numbers))


def _figures(lines: list[str]) -> Iterator[ParsedFigure]:
    text = "\n".join(lines)
    line, seen, section = 1, 0, ""
    headings = [(m.start(), m[2]) for m in re.finditer(_HEADING.pattern, text, re.MULTILINE)]
    place = 0
    for match in _FIGURE.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        while place < len(headings) and headings[place][0] < match.start():
            section = _strip(headings[place][1])
            place += 1
        raw = match[0]
        source = match["src"] or (m[1] if (m := _SRC.search(raw)) else "")
        alt = match["alt"] or (m[1] if (m := _ALT.search(raw)) else "")
        caption = _CAPTION.search(raw)
        words, anchor = "", None
        if caption:
            words = caption[2]
            named = re.search(r'id="fig(\d+)"', caption[1])
            anchor = int(named[1][:9]) if named else None
        elif below := _CAPTION_LINE.match(
            text[match.end() : match.end() + 600].lstrip("\n").partition("\n")[0]
        ):
            words, anchor = below[0].strip(" *_"), int(below[1])
        around = (
            text[max(0, match.start() - 1200) : match.start()].rsplit("\n#", 1)[-1]
            + "\n"
            + text[match.end() : match.end() + 1200].split("\n#", 1)[0]
        )
        yield ParsedFigure(
            unescape(source),
            _strip(words),
            anchor,
            markers_of(words),
            line,
            section,
            _strip(around),
            unescape(alt or ""),
        )


def _strip(text: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]{0,400}>", "", text)).split())
