"""Arms of the proof: what is measured in a worker process, with JSON in and out."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noria.reports.agents.pipeline import Job
from noria.reports.charts.records import check_cells
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import FigureBlock, Paragraph, Report, Section, Sentence, sentences
from noria.reports.document.bundle import Bundle
from noria.reports.document.markdown import write_markdown
from noria.reports.document.parsing import parse_report
from noria.reports.evaluation.automatic import demands_met, integration
from noria.reports.evaluation.metrics import chart_source_consistency, citation_support
from noria.reports.evaluation.official import Draft, DraftReference, mended_polish, released_polish
from noria.reports.evidence.support import check_sentence
from noria.reports.figures.quality import gray_of, official_sharpness, repaired_sharpness
from noria.reports.proof.tasks import Task, make_tasks
from noria.reports.proof.verifier import judge, make_pairs
from noria.reports.reading.packages import read_factbook, read_vega_datasets
from noria.reports.search.index import Index, build_index


def run_index(path: str, tables: str) -> dict[str, int]:
    """Index the Factbook, and vega-datasets where its folder is given.

    Raises:
        DataError: `tables` is a folder of something else.
    """
    given = (
        list(read_vega_datasets(Path(tables))) if tables else []
    )  # read first: a wrong folder is refused at once
    return build_index(Path(path), itertools.chain(read_factbook(), given), retrieved="2026-01-01")


def run_reports(index: str, seed: int, count: int) -> dict[str, Any]:
    """Means over generated tasks of each arm's figures, and the counts of the checks."""
    rows: list[dict[str, Any]] = []
    with Index(Path(index)) as opened:
        for task in make_tasks(opened, seed, count):
            rows.append(_task(opened, task, np.random.default_rng([seed, len(rows)])))
    means = {
        name: float(np.mean([row[name] for row in rows])) for name in rows[0] if not name.startswith("#")
    }
    return means | {name: int(sum(row[name] for row in rows)) for name in rows[0] if name.startswith("#")}


def _task(index: Index, task: Task, rng: np.random.Generator) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Job(Path(folder), index).write(task.text)
        findings = verify_bundle(Path(folder)).findings
    with tempfile.TemporaryDirectory() as folder:
        bare = Job(Path(folder), index, charts=False, images=False).write(task.text)
    after = Bundle(_appended(bundle.report), bundle.book, bundle.charts, bundle.drawn)
    labels, shuffled, chance = _support(bundle, rng)
    planted, found = _corrupted(bundle, rng)
    kinds = [c.kind for c in bundle.charts.values()]
    return {
        "integration, interleaved": _integration(bundle),
        "integration, appended": _integration(after),
        "visual path, full": _visual(bundle, task),
        "visual path, no chart maker": _visual(bare, task),
        "support, as written": labels,
        "support, shuffled": shuffled,
        "support, random passage": chance,
        "gold facts": _gold(bundle, task),
        "gold kinds": sum(k in kinds for k in task.kinds) / len(task.kinds),
        "#unsupported": sum(f.kind in ("support", "traceability") for f in findings),
        "#findings": len(findings),
        "#planted": planted,
        "#found": found,
    }


def _integration(bundle: Bundle) -> float:
    return integration(parse_report(write_markdown(bundle.report, bundle.book))) or 0.0


def _visual(bundle: Bundle, task: Task) -> float:
    """Mean of demanded kinds, integration and chart consistency: a stand-in for the visual path without a judge."""
    met = demands_met(task.text, [c.kind for c in bundle.charts.values()], 0) or 0.0
    faults = [len(check_cells(chart, bundle.book)[0]) for chart in bundle.charts.values()]
    return (met + _integration(bundle) + (chart_source_consistency(faults) or 0.0)) / 3


def _appended(report: Report) -> Report:
    """A report with its figures moved to the end of the conclusion, and their sentences left where they were."""
    moved = [b for s in report.sections for b in s.blocks if isinstance(b, FigureBlock)]
    kept = [
        msgspec.structs.replace(s, blocks=tuple(b for b in s.blocks if not isinstance(b, FigureBlock)))
        for s in report.sections
    ]
    kept[-1] = msgspec.structs.replace(kept[-1], blocks=(*kept[-1].blocks, *moved))
    return msgspec.structs.replace(report, sections=tuple(kept))


def _support(bundle: Bundle, rng: np.random.Generator) -> tuple[float, float, float]:
    """CS by numbers as written, with citations shuffled over sentences, and against one random passage each."""
    said = [s for _, s in sentences(bundle.report) if s.cites]
    order = rng.permutation(len(said))
    passages = list(bundle.book.passages)

    def score(cites: Sequence[tuple[str, ...]]) -> float:
        labels = [check_sentence(s.text, c, bundle.book).verdict for s, c in zip(said, cites, strict=True)]
        return citation_support(labels) or 0.0

    random = [(passages[int(rng.integers(len(passages)))],) for _ in said]
    return score([s.cites for s in said]), score([said[int(n)].cites for n in order]), score(random)


def _corrupted(bundle: Bundle, rng: np.random.Generator) -> tuple[int, int]:
    """Numbers of cells that were changed in the charts, and of cells that the check then finds."""
    planted = found = 0
    for chart in bundle.charts.values():
        count = int(rng.integers(1, 1 + min(4, len(chart.rows))))
        place = chart.columns.index(chart.y)
        rows = [list(row) for row in chart.rows]
        for row in rng.choice(len(rows), count, replace=False):
            rows[int(row)][place] = f"{float(rows[int(row)][place] or 0) * 1.01 + 1:.6f}"
        faults, _ = check_cells(msgspec.structs.replace(chart, rows=tuple(map(tuple, rows))), bundle.book)
        planted, found = planted + count, found + len(faults)
    return planted, found


def _gold(bundle: Bundle, task: Task) -> float:
    """Share of (entity, measure) pairs of the gold that the ledger of the report holds."""
    have = {(f.entity, f.measure) for f in bundle.book.facts.values()}
    wanted = [(e, m) for e in task.entities for m in task.measures]
    return sum(pair in have for pair in wanted) / len(wanted)


def run_polish(seed: int, count: int) -> dict[str, Any]:
    """Share of citations that point to another source after each polisher, over generated drafts with marked words."""
    rng = np.random.default_rng(seed)
    wrong = {"released": 0, "mended": 0}
    total = 0
    for _ in range(count):
        drafts, truth = _drafts(rng)
        total += len(truth)
        for name, polish in (("released", released_polish), ("mended", mended_polish)):
            parsed = parse_report(polish("T", drafts))
            urls = {r.number: r.url for r in parsed.references}
            for sentence in parsed.sentences:
                key = sentence.text.split(" ", 1)[0]
                if key in truth:
                    wrong[name] += any(urls.get(n) != truth[key] for n in sentence.cites)
    return {name: value / total for name, value in wrong.items()} | {
        "#mended": wrong["mended"],
        "#citations": total,
    }


def _drafts(rng: np.random.Generator) -> tuple[list[Draft], dict[str, str | None]]:
    """Drafts of sections whose sentences begin with a word that names the citation, and the true address of each."""
    truth: dict[str, str | None] = {}
    drafts = []
    for section in range(4):
        references = [
            DraftReference(
                n,
                f"World Bank ({int(rng.integers(2019, 2026))}). {rng.choice(['WDI', 'GEP', 'Atlas'])}.",
                f"https://w.org/{section}-{n}-{int(rng.integers(3))}",
            )
            for n in range(1, 5)
        ]
        lines = []
        for number in range(6):
            cited = int(rng.integers(1, 6))  # 5 has no entry: one citation in five dangles
            key = f"K{section}x{number}"
            truth[key] = references[cited - 1].url if cited < 5 else None
            lines.append(f'{key} says so <a href="#ref{cited}">[{cited}]</a>.')
        drafts.append(Draft(f"## Section {section}\n\n" + "\n\n".join(lines), tuple(references)))
    return drafts, truth


def run_sharpness(seed: int, count: int) -> dict[str, float]:
    """Sharpness of drawn pictures, of the same blurred by 5 pixels, and of noise; published and repaired."""
    from PIL import Image, ImageFilter

    from noria.core.pictures import draw, things

    rng = np.random.default_rng(seed)
    codes = [str(thing.code) for thing in things()]
    sums: dict[str, list[float]] = {}
    for code in rng.choice(codes, count, replace=False):
        sprite = draw(str(code), "twemoji", size=420)
        image = Image.new("RGB", (640, 480), "#e8e4da")
        image.paste(sprite, (110, 30), sprite if sprite.mode == "RGBA" else None)
        noise = Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
        versions = {
            "sharp": image,
            "blur 2": image.filter(ImageFilter.GaussianBlur(2)),
            "blur 5": image.filter(ImageFilter.GaussianBlur(5)),
            "noise": noise,
        }
        for name, picture in versions.items():
            gray = gray_of(picture)
            sums.setdefault(f"published, {name}", []).append(official_sharpness(gray))
            sums.setdefault(f"repaired, {name}", []).append(repaired_sharpness(gray))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def run_verifier(index: str, seed: int, count: int) -> dict[str, float]:
    """Accuracies of the trained verifier and of overlap on unseen countries and wordings."""
    with Index(Path(index)) as opened:
        train, test = make_pairs(opened, seed, count)
    return judge(train, test)


__all__ = [
    "Paragraph",
    "Section",
    "Sentence",
    "run_index",
    "run_polish",
    "run_reports",
    "run_sharpness",
    "run_verifier",
]
