"""Structure of a report's Markdown: markers against the list, figures against files; all decided by code.

The three classes are those of the paper's figure 7, as far as their names say: traceability (no source to go to),
consistency (marker, list and numbering disagree), completeness (something is not there).
"""

from __future__ import annotations

import re
from pathlib import Path

from noria.core.errors import NoriaError
from noria.core.files import inside
from noria.reports.checking.findings import Verification
from noria.reports.document.numbering import canonical
from noria.reports.document.parsing import CitedSentence, ParsedReport
from noria.reports.evidence.support import checked_quantities

_PLACEHOLDER = re.compile(
    r"example\.(?:com|org)|\blorem ipsum\b|\[?(?:TODO|TBD|insert .{3,30} here)\]?", re.IGNORECASE
)


def check_structure(parsed: ParsedReport, result: Verification, *, folder: Path | None) -> None:
    """Enter structural errors of a report.

    Args:
        parsed: the parsed report.
        result: where the findings go.
        folder: folder in which figures are looked up; None leaves them unchecked. Nothing outside of it is opened.
    """
    _references(parsed, result)
    _figures(parsed, result, folder)
    for title, level, size in parsed.sections:
        if level >= 3 and size == 0:
            result.find("completeness", "an empty section", title)


def _references(parsed: ParsedReport, result: Verification) -> None:
    numbers = [one.number for one in parsed.references]
    known = set(numbers)
    cited: dict[int, int] = {}
    for sentence in parsed.sentences:
        for number in sentence.cites:
            cited.setdefault(number, sentence.line)
    for figure in parsed.figures:
        for number in figure.cites:
            cited.setdefault(number, figure.line)
    for number, line in cited.items():
        if number not in known:
            result.find("traceability", f"[{number}] is not in the list of references", f"line {line}")
    for one in parsed.references:
        if one.number not in cited:
            result.find("consistency", f"reference [{one.number}] is never cited", f"line {one.line}")
        if not one.url:
            result.find("traceability", f"reference [{one.number}] has no address", f"line {one.line}")
        elif _PLACEHOLDER.search(one.url):
            result.find("traceability", f"reference [{one.number}] is a placeholder", f"line {one.line}")
    for number in sorted({n for n in numbers if numbers.count(n) > 1} if len(numbers) < 5000 else set()):
        result.find("consistency", f"reference [{number}] is there twice", "references")
    seen: dict[str, int] = {}
    for one in parsed.references:
        if one.url and (key := canonical(one.url)) in seen and seen[key] != one.number:
            result.find(
                "consistency",
                f"references [{seen[key]}] and [{one.number}] are the same address",
                f"line {one.line}",
            )
        elif one.url:
            seen[key] = one.number
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        result.find("consistency", "the references are not numbered 1, 2, 3 …", "references")


def _figures(parsed: ParsedReport, result: Verification, folder: Path | None) -> None:
    linked = {number for sentence in parsed.sentences for number in sentence.figures}
    cover = result.cover("figures")
    anchors = [figure.anchor for figure in parsed.figures]
    for place, figure in enumerate(parsed.figures, 1):
        where = f"line {figure.line}"
        if not figure.caption:
            result.find("completeness", "a figure without a caption", where)
        if not figure.cites:
            result.find("traceability", "a figure that names no source", where)
        if figure.anchor is not None and figure.anchor != place:
            result.find("consistency", f"figure {place} is numbered {figure.anchor}", where)
        if figure.anchor is not None and figure.anchor not in linked:
            result.find("consistency", f"figure {figure.anchor} is never referred to", where)
        if figure.path.startswith(("http://", "https://")) or folder is None:
            cover.unchecked += 1
            continue
        try:
            path = inside(folder, figure.path)
        except NoriaError:
            result.find("completeness", f"a figure outside of the report's folder: {figure.path[:80]}", where)
            continue
        cover.checked += 1
        if not figure.path or not path.is_file():
            result.find("completeness", f"a figure whose file is missing: {figure.path[:80]}", where)
    for number in sorted(linked - {a for a in anchors if a is not None}):
        result.find("consistency", f"a link to figure {number}, which is not there", "body")


def uncited_numbers(parsed: ParsedReport) -> list[CitedSentence]:
    """Sentences with numbers that are no years, and with no citation at all."""
    return [
        s for s in parsed.sentences if not s.cites and any(not q.is_year for q in checked_quantities(s.text))
    ]
