"""Deterministic parts of the evaluation, of any system's report: what needs no judge and is the same tomorrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.errors import NoriaError
from noria.core.files import inside, read_bytes, read_text
from noria.reports.agents.requests import demands_of
from noria.reports.charts.choosing import demanded_kinds
from noria.reports.checking.findings import Verification
from noria.reports.checking.verify import verify, verify_markdown
from noria.reports.document.blocks import figures as figure_blocks, sentences
from noria.reports.document.bundle import read_bundle
from noria.reports.document.parsing import ParsedFigure, ParsedReport, parse_report
from noria.reports.evaluation.metrics import (
    chart_source_consistency,
    citation_support,
    consistency,
    effective_citations,
)
from noria.reports.evidence.support import check_sentence
from noria.reports.figures.pictures import open_picture
from noria.reports.figures.quality import image_quality, perceptual_hash, report_quality


def evaluate_text(markdown: str, folder: Path | None, *, request: str = "") -> dict[str, Any]:
    """Figures of a report's Markdown that need no judge.

    Returns:
        `structure` (counts by class), `images` (quality by the benchmark's formula and by the repaired one),
        `integration` (share of figures that are introduced right before them), `visuals` (share of demanded kinds
        that are there), and counts.
    """
    parsed = parse_report(markdown)
    result = verify_markdown(markdown, folder=folder)
    return {
        "structure": _structure(result),
        "integration": integration(parsed),
        "visuals": visual_alignment(parsed, request) if request else None,
        **measure_figures(parsed.figures, folder),
        "counts": {
            "characters": parsed.length,
            "references": len(parsed.references),
            "figures": len(parsed.figures),
            "cited_sentences": sum(bool(s.cites) for s in parsed.sentences),
        },
    }


def evaluate_bundle(folder: Path, *, request: str = "") -> dict[str, Any]:
    """Figures of a bundle of ours: those of its Markdown, and what its evidence allows to check exactly."""
    bundle = read_bundle(folder)
    labels = [
        check_sentence(s.text, s.cites, bundle.book).verdict for _, s in sentences(bundle.report) if s.cites
    ]
    result = verify(folder)
    faults = {
        id: sum(f.kind == "chart" and f.where.startswith(f"{id}:") for f in result.findings)
        for id in bundle.charts
    }
    scores = evaluate_text(read_text(folder / "report.md"), folder, request=request)
    scores["structure"] = _structure(
        result
    )  # that of the bundle knows the numbers of names, which need no source
    if request:
        scores["visuals"] = demands_met(
            request,
            [c.kind for c in bundle.charts.values()],
            len(figure_blocks(bundle.report)) - len(bundle.charts),
        )
    return scores | {
        "CS": citation_support(labels),
        "AEC": effective_citations(labels),
        "CSC": chart_source_consistency(list(faults.values())),
        "FLC": consistency(sum(f.kind == "contradiction" for f in result.findings)),
        "findings": len(result.findings),
    }


def _structure(result: Verification) -> dict[str, int]:
    kinds = ("traceability", "consistency", "completeness")
    return {kind: sum(f.kind == kind for f in result.findings) for kind in kinds}


def integration(parsed: ParsedReport) -> float | None:
    """Share of figures that a sentence of the same section names within the 900 characters around it.

    A stand-in for FCI without a judge: where a figure stands and whether it is referred to, not how well. None without
    figures.
    """
    if not parsed.figures:
        return None
    links: dict[int, list[tuple[str, int]]] = {}
    for sentence in parsed.sentences:
        for number in sentence.figures:
            links.setdefault(number, []).append((sentence.section, sentence.line))
    near = 0
    for place, figure in enumerate(parsed.figures, 1):
        number = figure.anchor or place
        near += any(
            section == figure.section and abs(line - figure.line) <= 6
            for section, line in links.get(number, [])
        )
    return near / len(parsed.figures)


def visual_alignment(parsed: ParsedReport, request: str) -> float | None:
    """Share of the demanded kinds of visuals that captions or alternative texts name; None where none is demanded."""
    text = " ; ".join(f"{figure.caption} {figure.alt}" for figure in parsed.figures)
    kinds = [kind for kind, _ in demanded_kinds(text)] + [
        word.strip() for f in parsed.figures for word in [f.alt.partition(":")[0]]
    ]
    return demands_met(request, kinds, sum(f.kind == "image" for f in parsed.figures))


def demands_met(request: str, kinds: Sequence[str], images: int) -> float | None:
    """Share of the visuals that a request demands which charts of these kinds and so many pictures meet."""
    demands = demands_of(request)
    if not demands:
        return None
    have = list(kinds)
    met = 0
    for demand in demands:
        if demand.kind == "image" and images:
            images -= 1
            met += 1
        elif demand.kind in have:
            have.remove(demand.kind)
            met += 1
    return met / len(demands)


def measure_figures(figures: Sequence[ParsedFigure], folder: Path | None) -> dict[str, Any]:
    """Quality of the pictures of kind image that lie below a folder; one that cannot be decoded counts 0, as
    published.
    """
    official: list[float] = []
    repaired: list[float] = []
    hashes: list[int] = []
    unread = 0
    for figure in figures:
        if figure.kind != "image":
            continue
        if folder is None or figure.path.startswith("http"):
            unread += 1
            continue
        try:
            image = open_picture(read_bytes(inside(folder, figure.path), limit=64_000_000), figure.path)
        except NoriaError:
            official.append(0.0)
            repaired.append(0.0)
            continue
        official.append(image_quality(image).total)
        repaired.append(image_quality(image, repaired=True).total)
        hashes.append(perceptual_hash(image))
    return {
        "images": {
            "official": report_quality(official, hashes),
            "repaired": report_quality(repaired, hashes),
            "count": len(official),
            "not_read": unread,
            "charts": sum(f.kind == "chart" for f in figures),
        }
    }


def read_tasks(path: Path) -> list[Mapping[str, Any]]:
    """Tasks of TVIR-Bench: `{"id", "query", "checklist": {section: [question, …]}}`.

    Raises:
        DataError: it is no such list.
    """
    from noria.core.errors import DataError
    from noria.core.records import read_json

    value = read_json(path)
    if not isinstance(value, list) or not value:
        raise DataError("not a list of tasks", where=str(path), mend="give TVIR-Bench's query.json")
    for number, entry in enumerate(value):
        where = f"{path}: task {number}"
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("id"), str)
            or not isinstance(entry.get("query"), str)
        ):
            raise DataError("a task has an id and a query", where=where)
        checklist = entry.get("checklist", {})
        if not isinstance(checklist, dict) or not all(
            isinstance(v, list) and all(isinstance(q, str) for q in v) for v in checklist.values()
        ):
            raise DataError("a checklist is lists of questions by section", where=where)
    for id, number in Counter(entry["id"] for entry in value).items():
        if number > 1:
            raise DataError(
                f"{number} tasks have the id {id[:100]!r}", where=str(path), mend="give each its own"
            )
    return value
