"""What TVIR (arXiv 2606.02320) claims of interleaved visuals, and what this package claims of its checks, measured.

Tasks are generated on the World Factbook with machine gold. Nothing is judged by a model: integration, visual path and
support are the deterministic stand-ins of `noria.reports.evaluation.automatic`, and are named for what they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from noria.reports.proof.arms import run_index, run_polish, run_reports, run_sharpness, run_verifier

if TYPE_CHECKING:
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

SIZES = {
    "quick": {"tasks": 4, "drafts": 10, "pictures": 6, "pairs": 300},
    "full": {"tasks": 5, "drafts": 50, "pictures": 24, "pairs": 1500},
}
SEEDS = {"quick": [1, 2, 3, 4], "full": [1, 2, 3, 4, 5, 6, 7, 8]}
SOURCE = "arXiv 2606.02320"


def prove(context: ProofContext) -> Evidence:
    """Index the corpus, write the reports, judge the claims."""
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    size = SIZES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS[context.scale]
    tables = str(context.given["tables"].resolve()) if "tables" in context.given else ""
    index = str((context.folder / "corpus.index").resolve())
    (counts,) = context.map(run_index, {"index": (index, tables)}, label="corpus")
    if not (context.folder / "corpus.index").is_file():
        run_index(index, tables)
    written = context.map(
        run_reports, {f"reports, seed {s}": (index, s, size["tasks"]) for s in seeds}, label="reports"
    )
    polished = context.map(
        run_polish, {f"drafts, seed {s}": (s, size["drafts"]) for s in seeds}, label="drafts"
    )
    sharp = context.map(
        run_sharpness, {f"pictures, seed {s}": (s, size["pictures"]) for s in seeds}, label="pictures"
    )
    trained = context.map(
        run_verifier, {f"verifier, seed {s}": (index, s, size["pairs"]) for s in seeds}, label="verifiers"
    )
    return Evidence(
        system="reports",
        claims=claims(written, polished, sharp, trained, size),
        checks=checks(written, polished, sharp),
        seconds=time.perf_counter() - began,
        versions=versions("altair", "vl-convert-python", "msgspec", "scikit-learn"),
        figures=[
            _table(Figure, "Reports", written),
            _table(Figure, "Sharpness", sharp),
            _table(Figure, "Verifiers", trained),
        ],
        notes=notes(written, counts),
        config={**size, "seeds": seeds},
    )


def claims(
    written: Sequence[dict[str, Any]],
    polished: Sequence[dict[str, Any]],
    sharp: Sequence[dict[str, Any]],
    trained: Sequence[dict[str, Any]],
    size: dict[str, int],
) -> list[Claim]:
    """Claims of citations, polisher, sharpness and verifier."""
    for row in sharp:
        row["published, kept under blur"] = row["published, blur 5"] / max(row["published, sharp"], 1e-9)
        row["repaired, kept under blur"] = row["repaired, blur 5"] / max(row["repaired, sharp"], 1e-9)
    tasks, drafts, pictures, pairs = size["tasks"], size["drafts"], size["pictures"], size["pairs"]
    return [
        _claim(
            "citations",
            ("Numbers follow from the sources cited, and not from those of other sentences"),
            "support",
            "higher",
            ("support, as written", "support, shuffled"),
            written,
            ("sentences", tasks),
            f"{SOURCE}, CS",
            margin=0.2,
        ),
        _claim(
            "polisher",
            ("The released polisher points citations to other sources, the mended one does not"),
            "share of wrong sources",
            "lower",
            ("mended", "released"),
            polished,
            ("drafts", drafts),
            "released code, read at c48f1ed",
        ),
        _claim(
            "blur",
            ("Blur of five pixels lowers the repaired sharpness, and not the published one"),
            "sharpness kept",
            "lower",
            ("repaired, kept under blur", "published, kept under blur"),
            sharp,
            ("pictures", pictures),
            "released code, read at c48f1ed",
        ),
        _claim(
            "noise",
            ("Noise is sharp by the published measure, and not by the repaired one"),
            "sharpness of noise",
            "lower",
            ("repaired, noise", "published, noise"),
            sharp,
            ("pictures", pictures),
            "released code, read at c48f1ed",
        ),
        _claim(
            "verifier",
            ("The trained verifier beats overlap on swapped numbers, on unseen countries and wordings"),
            "accuracy",
            "higher",
            ("learned, numbers", "overlap, numbers"),
            trained,
            ("pairs", pairs),
            "own claim",
        ),
    ]


def _claim(
    id: str,
    statement: str,
    metric: str,
    better: Literal["lower", "higher"],
    sides: tuple[str, str],
    rows: Sequence[dict[str, Any]],
    paid: tuple[str, int],
    source: str,
    margin: float = 0.0,
) -> Claim:
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    arms = {name: [row[name] for row in rows] for name in sides}
    spent = {name: Arm(name, paid[0], float(paid[1])) for name in sides}
    return Claim(id, statement, metric, better, *sides, arms=arms, margin=margin, source=source, paid=spent)


def checks(
    written: Sequence[dict[str, Any]], polished: Sequence[dict[str, Any]], sharp: Sequence[dict[str, Any]]
) -> list[Check]:
    """What holds by construction, tried all the same."""
    from noria.core.proofs.proof import Check

    unsupported = sum(row["#unsupported"] for row in written)
    findings = sum(row["#findings"] for row in written)
    planted, found = (sum(row[name] for row in written) for name in ("#planted", "#found"))
    wrong, total = (sum(row[name] for row in polished) for name in ("#mended", "#citations"))
    beside, after, full, bare = (
        _mean(written, name)
        for name in (
            "integration, interleaved",
            "integration, appended",
            "visual path, full",
            "visual path, no chart maker",
        )
    )
    falling = all(
        row["repaired, sharp"] >= row["repaired, blur 2"] >= row["repaired, blur 5"] for row in sharp
    )
    return [
        Check(
            "unsupported",
            "No sentence is written whose numbers do not follow from what it cites",
            unsupported == 0,
            f"{unsupported} findings of support",
        ),
        Check(
            "clean", "A report that was just written has no finding", findings == 0, f"{findings} findings"
        ),
        Check(
            "corrupted cells",
            "Exactly the corrupted cells of charts are found",
            planted == found,
            f"{found} found of {planted}",
        ),
        Check(
            "wrong sources",
            "The mended polisher points no citation to another source",
            wrong == 0,
            f"{wrong} of {total} citations",
        ),
        Check(
            "interleaving",
            "Figures beside their text are near the words that name them, and appended ones are not",
            beside > after,
            f"{beside:.3f} against {after:.3f}",
            f"{SOURCE}, figures inserted after the writing",
        ),
        Check(
            "chart maker",
            "Without the chart maker the visual path falls by more than .177",
            full - bare > 0.1771,
            f"{full:.3f} against {bare:.3f}",
            f"{SOURCE}, ablation: −17.71 VA",
        ),
        Check("sharpness falls", "Repaired sharpness falls as blur grows", falling, "radii 0, 2, 5"),
    ]


def notes(written: Sequence[dict[str, Any]], counts: dict[str, int]) -> list[str]:
    """Figures beside the claims."""
    return [
        f"Corpus: {counts['sources']:,} sources, {counts['passages']:,} passages, {counts['facts']:,} facts.",
        (
            f"Gold: {_mean(written, 'gold facts'):.1%} of the facts asked for and "
            f"{_mean(written, 'gold kinds'):.1%} of the kinds of charts are there."
        ),
        (
            f"Support by one random passage of the report, which is chance: "
            f"{_mean(written, 'support, random passage'):.3f}; shuffled: {_mean(written, 'support, shuffled'):.3f}."
        ),
        (
            "Integration, visual path and support are computed without "
            "a judge; the paper's FCI, VA and CS are a model's ratings."
        ),
        (
            "Interleaving and chart maker are checks: the stand-ins "
            "count places and kinds, so the arms differ by construction."
        ),
        "The fourth and fifth arm of the paper's ablation, no research "
        "notes and no image searcher, are not run: the extractive "
        "engine reads facts by measure and not from notes, and the corpora hold no photographs.",
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows) / len(rows))


def _table(figure: Any, title: str, rows: Sequence[dict[str, Any]]) -> Any:
    names = list(rows[0])
    return figure.table(
        title,
        ["figure", "mean over seeds"],
        [[name, sum(row[name] for row in rows) / len(rows)] for name in names],
    )
