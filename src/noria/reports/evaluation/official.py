"""The released pipeline's order and logic, reproduced, with its defects named: for comparison with published numbers.

Read in NJU-LINK/TVIR at c48f1ed; nothing of it is copied. `DEFECTS` lists what differs from the definitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

DEFECTS = (
    (
        "FCQ replaces every caption that scored at most 6 by the judge's "
        "own, and MC, ADB, WQ, FLC and IA are judged on that text"
    ),
    "links of images that cannot be opened are deleted from the text that later metrics judge",
    "a citation whose page could not be read counts as unsupported",
    (
        "a chart whose source page is empty has no contradictions, "
        "hence CSC 1; one without a reference in its caption has CSC 0"
    ),
    "a chart is what lies below charts/: systems that keep charts elsewhere have CSC near 0",
    "references are merged where their words agree without author and year, even where addresses differ",
    "a citation without an entry keeps its number, which later is another source's",
    "a link to another section's figure is turned into a link to this section's",
)
LOW_CAPTION = 6
_MARK = re.compile(r'<a href="#ref(\d+)">\[\d+\]</a>')
_FIGURE = re.compile(r'(<figcaption id=")fig(\d{1,9})(">)(Figure|图)(\s?)(\d+)')
_LINK = re.compile(r'<a href="#fig(\d+)">(Figure|图)(\s?)\d+</a>')
_REF = re.compile(r'^<a id="ref(\d+)"></a>\s*\[\d+\]\s*(.*?)\s*(https?://\S+)?\s*$')


class DraftReference(msgspec.Struct, frozen=True):
    """An entry of a section's own list of references."""

    number: int
    text: str
    url: str


class Draft(msgspec.Struct, frozen=True):
    """A section as the writer leaves it: its text, with numbers from 1, and its own references."""

    body: str
    references: tuple[DraftReference, ...]


def read_draft(markdown: str) -> Draft:
    """Read a section with its own `## References`."""
    body, _, listed = markdown.partition("## References")
    entries = [m for line in listed.split("\n") if (m := _REF.match(line.strip()))]
    return Draft(body.strip(), tuple(DraftReference(int(m[1]), m[2], m[3] or "") for m in entries))


def released_polish(title: str, drafts: Sequence[Draft]) -> str:
    """Join sections as the released polisher does, faults included."""
    seen_urls: dict[str, int] = {}
    seen_texts: dict[str, int] = {}
    listed: list[DraftReference] = []
    parts = [f"# {title}"]
    figures = 0
    for draft in drafts:
        cited = {int(n) for n in _MARK.findall(draft.body)}
        numbers: dict[int, int] = {}
        for one in draft.references:
            if one.number not in cited:
                continue
            text = _released_key(one.text)
            number = seen_urls.get(one.url) if one.url in seen_urls else seen_texts.get(text)
            if number is None:
                number = len(listed) + 1
                listed.append(DraftReference(number, one.text, one.url))
            if one.url:
                seen_urls.setdefault(one.url, number)
            seen_texts.setdefault(text, number)
            numbers[one.number] = number
        body = _run_of_marks(_marked(draft.body, numbers, keep=True))
        body, figures = _figures_renumbered(body, figures, keep=True)
        parts.append(body)
    lines = [f'<a id="ref{one.number}"></a> [{one.number}] {one.text} {one.url}'.rstrip() for one in listed]
    return "\n\n".join([*parts, "## References", "\n".join(lines)]) + "\n"


def mended_polish(title: str, drafts: Sequence[Draft]) -> str:
    """Join sections so that a citation never points to another source.

    Two entries are one reference where their addresses agree once canonical, or where neither has an address and their
    words agree whole. A citation without an entry is taken out. Figures keep the link to the figure that they name in
    their own section; a link to none loses its link.
    """
    from noria.reports.document.numbering import canonical

    seen: dict[str, int] = {}
    listed: list[DraftReference] = []
    parts = [f"# {title}"]
    figures = 0
    for draft in drafts:
        entries = {one.number: one for one in draft.references}
        numbers: dict[int, int] = {}
        for match in _MARK.finditer(draft.body):
            one = entries.get(int(match[1]))
            if one is None:
                continue
            key = canonical(one.url) if one.url else "text " + " ".join(one.text.lower().split())
            if key not in seen:
                seen[key] = len(listed) + 1
                listed.append(DraftReference(seen[key], one.text, one.url))
            numbers[one.number] = seen[key]
        body = _run_of_marks(_marked(draft.body, numbers, keep=False))
        body, figures = _figures_renumbered(body, figures, keep=False)
        parts.append(body)
    lines = [f'<a id="ref{one.number}"></a> [{one.number}] {one.text} {one.url}'.rstrip() for one in listed]
    return "\n\n".join([*parts, "## References", "\n".join(lines)]) + "\n"


def _mark(number: int) -> str:
    return f'<a href="#ref{number}">[{number}]</a>'


def _marked(body: str, numbers: Mapping[int, int], *, keep: bool) -> str:
    """A section with global numbers in its citations; one without an entry is kept as it is, or taken out."""

    def mark(match: re.Match[str]) -> str:
        local = int(match[1])
        return _mark(numbers[local]) if local in numbers else _mark(local) if keep else ""

    return _MARK.sub(mark, body)


def _run_of_marks(body: str) -> str:
    """A section without repeats inside of a run of adjacent citations."""
    return re.sub(r"(?:<a href=\"#ref\d+\">\[\d+\]</a>\s*){2,}", lambda match: _once(match[0]), body)


def _figures_renumbered(body: str, before: int, *, keep: bool) -> tuple[str, int]:
    """A section with global numbers of figures, and the number of figures so far.

    A link to a figure of another section keeps its local number (as published), or loses its link.
    """
    local = {int(match[2]): before + n for n, match in enumerate(_FIGURE.finditer(body), 1)}

    def caption(match: re.Match[str]) -> str:
        number = local[int(match[2])]
        return f"{match[1]}fig{number}{match[3]}{match[4]}{match[5]}{number}"

    def link(match: re.Match[str]) -> str:
        number = local.get(int(match[1]), int(match[1]) if keep else None)
        return match[2] if number is None else f'<a href="#fig{number}">{match[2]}{match[3]}{number}</a>'

    return _LINK.sub(link, _FIGURE.sub(caption, body)), before + len(local)


def _once(run: str) -> str:
    """A run of citations without repeats, joined by a blank; what stood behind the run stays."""
    tail = run[len(run.rstrip()) :]
    return " ".join(_mark(int(n)) for n in dict.fromkeys(_MARK.findall(run))) + tail


def _released_key(text: str) -> str:
    """Words of a reference without a leading "author (date)." and without blanks, as the release compares them."""
    return re.sub(r"\s+", "", re.sub(r"^.*?\(\s*[^)]*\)\.\s*", "", text, count=1).lower())


def rewrite_captions(markdown: str, scores: Mapping[int, tuple[int, str]], broken: Sequence[str] = ()) -> str:
    """The text that the release's later metrics judge: low captions replaced by the judge's, broken images taken out.

    Args:
        markdown: the report.
        scores: lowest rubric score and the judge's caption, by the figure's number.
        broken: paths of images that cannot be opened.
    """

    def caption(match: re.Match[str]) -> str:
        number = int(match[1])
        score, words = scores.get(number, (10, ""))
        return (
            f'<figcaption id="fig{number}">{words}</figcaption>'
            if score <= LOW_CAPTION and words
            else match[0]
        )

    text = re.sub(r'<figcaption id="fig(\d{1,9})">.*?</figcaption>', caption, markdown, flags=re.DOTALL)
    for path in broken:
        text = re.sub(rf'<img src="{re.escape(path)}"[^>]*>', "", text)
    return text


def official_support(labels: Sequence[str]) -> float:
    """CS as the release counts: what is unknown is 0, and no citations are 0."""
    points: dict[str, float] = {"supported": 1.0, "partial": 0.5}
    return sum(points.get(label, 0.0) for label in labels) / len(labels) if labels else 0.0


def official_chart_consistency(charts: Sequence[Mapping[str, Any]]) -> float:
    """CSC as the release counts: `cited` False is 0, a chart with empty sources is 1, no charts are 0."""
    if not charts:
        return 0.0
    values = [0.0 if not one["cited"] else max(1, 10 - int(one["contradictions"])) / 10 for one in charts]
    return sum(values) / len(values)
