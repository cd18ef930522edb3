"""Verification of a report: a bundle of ours with its evidence, or any system's Markdown with whatever it
cites locally.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noria.core.errors import DataError, NoriaError
from noria.core.files import decode_text, inside, read_bytes, read_text
from noria.core.records import objects
from noria.reports.charts.drawing import png_of_spec, specification
from noria.reports.charts.records import ChartData, check_cells
from noria.reports.charts.specs import values
from noria.reports.checking.findings import Verification
from noria.reports.checking.structure import check_structure, uncited_numbers
from noria.reports.document.blocks import TableBlock, sentences
from noria.reports.document.bundle import Bundle, read_bundle, spec_of
from noria.reports.document.markdown import write_markdown
from noria.reports.document.numbering import number
from noria.reports.document.parsing import ParsedReport, parse_report
from noria.reports.evidence.derivation import recompute
from noria.reports.evidence.quantities import agrees, passage_quantities, quantities
from noria.reports.evidence.records import Book, digest, encode
from noria.reports.evidence.support import check_sentence, checked_quantities, named_numbers

LARGEST_REPORT = 16_000_000


def verify(path: Path) -> Verification:
    """Verify a bundle's folder, or a Markdown file.

    Raises:
        DataError: there is no report, or it cannot be read.
    """
    if path.is_dir() and (path / "report.json").is_file():
        return verify_bundle(path)
    file = path / "report.md" if path.is_dir() else path
    return verify_markdown(read_text(file, limit=LARGEST_REPORT), folder=file.parent)


def verify_markdown(markdown: str, *, folder: Path | None) -> Verification:
    """Verify another system's report: its structure, and numbers against the files that it cites beside it.

    A reference on the web is not fetched: it counts as blocked, and its sentences as unchecked. A sentence with numbers
    that cites nothing is a finding.
    """
    result = Verification()
    parsed = parse_report(markdown)
    if not parsed.sentences or not (parsed.title or parsed.sections):
        raise DataError(
            "no report: it has no heading, or no sentence", where="report", mend="give a report in Markdown"
        )
    check_structure(parsed, result, folder=folder)
    texts = _cited_texts(parsed, result, folder)
    cover = result.cover("sentences")
    for sentence in uncited_numbers(parsed):
        cover.unchecked += 1
        _without_source(sentence.text, f"line {sentence.line}", result)
    for sentence in parsed.sentences:
        if not sentence.cites:
            continue
        known = [texts[n] for n in sentence.cites if n in texts]
        numbers = checked_quantities(sentence.text)
        if not known:
            cover.unchecked += 1
            continue
        cover.checked += 1
        missing = [
            q.raw
            for q in numbers
            if not any(agrees(q, c.value, c.unit) for text in known for c in passage_quantities(text))
        ]
        if missing:
            result.find("support", f"{', '.join(missing[:5])}: not in what is cited", f"line {sentence.line}")
    return result


def _cited_texts(parsed: ParsedReport, result: Verification, folder: Path | None) -> dict[int, str]:
    """Text of each reference that is a file below the report's folder."""
    from noria.reports.reading.folders import READERS, read_file

    texts: dict[int, str] = {}
    cover = result.cover("sources")
    for one in parsed.references:
        if not one.url or one.url.startswith(("http", "www.")) or folder is None:
            cover.blocked += 1
            continue
        try:
            path = inside(folder, one.url.partition("#")[0])
            if not path.is_file() or path.suffix.lower() not in READERS:
                raise DataError("not a file that is read", where=one.url)
            documents = read_file(path, one.url)
        except NoriaError:
            cover.blocked += 1
            continue
        cover.checked += 1
        texts[one.number] = "\n".join(
            [piece.text for d in documents for piece in d.pieces]
            + [d.table.csv() for d in documents if d.table is not None]
        )
    return texts


def verify_bundle(folder: Path) -> Verification:
    """Verify a bundle: archive, facts, derived numbers, sentences, charts, contradictions, and its Markdown.

    Raises:
        DataError: a file of the bundle is missing or damaged.
    """
    result = Verification()
    bundle = read_bundle(folder)
    archive = _archive(bundle.book, folder, result)
    _facts(bundle.book, archive, result)
    _sentences(bundle, result)
    _charts(bundle, folder, result)
    _contradictions(bundle.book, result)
    markdown = read_text(folder / "report.md", limit=LARGEST_REPORT)
    check_structure(parse_report(markdown), result, folder=folder)
    if markdown != write_markdown(bundle.report, bundle.book):
        result.find(
            "consistency", "the Markdown was edited: it is not what report.json renders to", "report.md"
        )
        _edited(markdown, bundle, result)
    return result


def _archive(book: Book, folder: Path, result: Verification) -> dict[str, str]:
    """Archived text of each source, where its digest is what the ledger says."""
    texts: dict[str, str] = {}
    cover = result.cover("sources")
    for source in book.sources.values():
        try:
            raw = read_bytes(inside(folder / "archive", f"{source.sha256}.txt"), limit=64_000_000)
        except NoriaError:
            cover.blocked += 1
            result.find("traceability", "its archived text is missing", source.id)
            continue
        cover.checked += 1
        if digest(raw) != source.sha256:
            result.find("traceability", "its archived text was changed", source.id)
            continue
        try:
            texts[source.id] = decode_text(raw, source.id)
        except DataError:
            result.find("traceability", "its archived text is no text in UTF-8", source.id)
    return texts


def _facts(book: Book, archive: dict[str, str], result: Verification) -> None:
    """Passages must stand in the archive, facts in their passages or cells, derived numbers follow from facts."""
    from noria.reports.evidence.tables import TABLE_END, Table, cell_fact, read_csv

    for passage in book.passages.values():
        text = archive.get(passage.source)
        if text is not None and passage.end and text[passage.start : passage.end] != passage.text:
            result.find("traceability", "the passage is not what the source says", passage.id)
    tables: dict[str, Table] = {}
    cover = result.cover("facts")
    for fact in book.facts.values():
        source = fact.id.partition("#")[0]
        if fact.passage:
            holder = book.passages.get(fact.passage)
            found = (
                holder is not None
                and fact.raw in holder.text
                and any(q.value == fact.value for q in quantities(fact.raw))
            )
        elif source in archive:
            if source not in tables:
                tables[source] = read_csv(archive[source].partition(TABLE_END)[0], source, delimiter=",")
            row, _, column = fact.id.partition("#r")[2].partition("c")
            again = (
                cell_fact(source, tables[source], int(row), int(column))
                if row.isdecimal() and column.isdecimal() and len(row + column) < 18
                else None
            )
            found = again is not None and again.value == fact.value
        else:
            cover.blocked += 1
            continue
        cover.checked += 1
        if not found:
            result.find("traceability", f"{fact.raw!r} is not what the source says", fact.id)
    for entry in book.derived.values():
        cover.checked += 1
        if recompute(book, entry) != entry.value:
            result.find("support", f"{entry.operation} of its operands is not {entry.value:f}", entry.id)


def _sentences(bundle: Bundle, result: Verification) -> None:
    numbers, cover = result.cover("numbers"), result.cover("sentences")
    for section, sentence in sentences(bundle.report):
        if not sentence.cites:
            numbered = checked_quantities(sentence.text)
            named = named_numbers(sentence.text, bundle.book.facts.values()) if numbered else {}
            if any(q.start not in named for q in numbered):
                _without_source(sentence.text, section.title, result)
            continue
        support = check_sentence(sentence.text, sentence.cites, bundle.book)
        result.support[support.verdict] = result.support.get(support.verdict, 0) + 1
        cover.checked += support.verdict != "unknown"
        cover.unchecked += support.verdict == "unknown"
        numbers.checked += len(support.links)
        for link in support.missing:
            result.find(
                "support",
                f"{sentence.text[link.start : link.end]}: not in what is cited",
                f"{section.title}: {sentence.text[:60]}",
            )
    for section in bundle.report.sections:
        for block in section.blocks:
            if isinstance(block, TableBlock):
                for row in block.rows:
                    for cell in row:
                        support = check_sentence(cell, block.cites, bundle.book)
                        numbers.checked += len(support.links)
                        for _ in support.missing:
                            result.find("support", f"{cell}: not in what is cited", f"{section.title}: table")


def _without_source(text: str, where: str, result: Verification) -> None:
    result.find("traceability", f"numbers without a source: {text[:80]}", where)


def _charts(bundle: Bundle, folder: Path, result: Verification) -> None:
    """Cells against facts, the specification against the table, the picture against the specification."""
    cells, drawn = result.cover("cells"), result.cover("charts")
    for id, chart in bundle.charts.items():
        faults, checked = check_cells(chart, bundle.book)
        cells.checked += checked
        for fault in faults:
            result.find(
                "chart",
                f"shows {fault.shown}, and its source gives {fault.expected}",
                f"{id}: row {fault.row}, {fault.column}",
            )
        raw = bundle.drawn[id]["spec"]
        spec = spec_of(raw, f"charts/{id}.vl.json")
        if not _shows(chart, spec):
            result.find("chart", "the specification does not show the chart's table", id)
        drawn.checked += 1
        if png_of_spec(spec, id) != bundle.drawn[id]["png"]:
            result.find("chart", "the picture is not what the specification draws", id)


def _shows(chart: ChartData, spec: dict[str, Any]) -> bool:
    """Whether a specification holds the values of a chart's table; one without them must be what is drawn of
    it today.
    """
    if chart.kind in ("radar", "diagram"):
        return encode(specification(chart)) == encode(spec)
    layers = [spec, *objects(spec.get("layer"))]
    looked_up = [t.get("from") for layer in layers for t in objects(layer.get("transform")) if "lookup" in t]
    held = [part.get("data") for part in objects([*layers, *looked_up])]
    return values(chart) in [data.get("values") for data in objects(held)]


def _contradictions(book: Book, result: Verification) -> None:
    """Two values of one entity, measure and period."""
    seen: dict[tuple[str, str, str, str], str] = {}
    for fact in book.facts.values():
        key = (fact.entity, fact.measure, fact.period, fact.unit)
        if not fact.entity or not fact.period:
            continue
        if (
            key in seen
            and book.facts[seen[key]].value != fact.value
            and fact.id.partition("#")[0] != seen[key].partition("#")[0]
        ):
            result.find(
                "contradiction",
                f"{fact.entity}, {fact.measure}, {fact.period}: {book.facts[seen[key]].raw} and {fact.raw}",
                f"{seen[key]}, {fact.id}",
            )
        seen.setdefault(key, fact.id)


def _edited(markdown: str, bundle: Bundle, result: Verification) -> None:
    """Check an edited Markdown again: each sentence's numbers against all evidence of the references that it cites.

    A sentence that was not there before, has numbers and cites nothing is a finding.
    """
    numbering = number(bundle.report, bundle.book)
    by_number: dict[int, list[str]] = {}
    for id in [*bundle.book.facts, *bundle.book.passages, *bundle.book.derived]:
        for n in numbering.markers([id], bundle.book):
            by_number.setdefault(n, []).append(id)
    parsed = parse_report(markdown)
    before = {one.text for one in parse_report(write_markdown(bundle.report, bundle.book)).sentences}
    for sentence in uncited_numbers(parsed):
        if sentence.text not in before:
            _without_source(sentence.text, f"report.md, line {sentence.line}", result)
    for sentence in parsed.sentences:
        ids = [id for n in sentence.cites for id in by_number.get(n, [])]
        if not ids:
            continue
        for link in check_sentence(sentence.text, ids, bundle.book).missing:
            result.find(
                "support",
                f"{sentence.text[link.start : link.end]}: not in what is cited",
                f"report.md, line {sentence.line}",
            )
