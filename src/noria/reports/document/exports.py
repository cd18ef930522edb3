"""Exports of a report: page, Markdown, PDF, Word, BibTeX and CSL-JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.reports.document.bundle import Bundle
from noria.reports.document.numbering import number
from noria.reports.document.pdf import write_pdf
from noria.reports.document.word import write_docx
from noria.reports.evidence.records import Source

EXPORTS = ("html", "md", "pdf", "docx", "bib", "csl")


def export(bundle: Bundle, kind: str, *, fonts: Path | None = None) -> bytes:
    """A report in one of `EXPORTS`.

    Raises:
        DataError: there is no such kind.
    """
    import json

    from noria.reports.document.markdown import write_markdown

    order = number(bundle.report, bundle.book).order
    match kind:
        case "html":
            return bundle.page().encode()
        case "md":
            return write_markdown(bundle.report, bundle.book).encode()
        case "pdf":
            return write_pdf(bundle, fonts=fonts)
        case "docx":
            return write_docx(bundle)
        case "bib":
            return write_bibtex(order).encode()
        case "csl":
            return (json.dumps(csl_entries(order), ensure_ascii=False, indent=1) + "\n").encode()
    raise DataError(f"no export {kind!r}", where="--to", mend=f"choose from {', '.join(EXPORTS)}")


def write_bibtex(sources: Mapping[str, Source] | tuple[Source, ...]) -> str:
    """References as BibTeX, keys by id of the source."""
    entries = []
    for source in sources.values() if isinstance(sources, Mapping) else sources:
        fields = {
            "title": source.title,
            "organization": source.publisher,
            "year": source.date[:4],
            "url": source.url,
            "urldate": source.retrieved,
            "note": source.licence,
        }
        body = ",\n".join(f"  {name} = {{{_bib(value)}}}" for name, value in fields.items() if value)
        entries.append(f"@misc{{{source.id},\n{body}\n}}")
    return "\n\n".join(entries) + "\n"


def _bib(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "_": r"\_",
        "~": r"\~{}",
        "^": r"\^{}",
    }
    return "".join(special.get(character, character) for character in " ".join(text.split()))


def csl_entries(sources: tuple[Source, ...]) -> list[dict[str, Any]]:
    """References as CSL-JSON, which Zotero and Pandoc read."""
    entries = []
    for source in sources:
        kind = "dataset" if source.kind == "table" else "webpage"
        entry: dict[str, Any] = {"id": source.id, "type": kind, "title": source.title, "URL": source.url}
        if source.publisher:
            entry["publisher"] = source.publisher
        for name, date in (("issued", source.date), ("accessed", source.retrieved)):
            parts = [int(part) for part in date.split("-") if part.isdecimal() and len(part) < 9]
            if parts:
                entry[name] = {"date-parts": [parts]}
        entries.append(entry)
    return entries
