"""What TVIR (arXiv 2606.02320) claims of interleaved visuals, and what this package claims of its checks, measured.

Tasks are generated on the World Factbook with machine gold. Nothing is judged by a model: integration, visual path and
support are the deterministic stand-ins of `noria.reports.evaluation.automatic`, and are named for what they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from noria.reports.proof.ablations import run_images, run_notes, run_tables
from noria.reports.proof.arms import run_index, run_polish, run_reports, run_sharpness, run_verifier

if TYPE_CHECKING:
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

SIZES = {
    "quick": {"tasks": 4, "drafts": 10, "pictures": 6, "pairs": 300, "prose": 6, "images": 12, "tables": 6},
    "full": {
        "tasks": 5,
        "drafts": 50,
        "pictures": 24,
        "pairs": 1500,
        "prose": 20,
        "images": 24,
        "tables": 20,
    },
}
SEEDS = {"quick": [1, 2, 3, 4], "full": [1, 2, 3, 4, 5, 6, 7, 8]}
SOURCE = "arXiv 2606.02320"


class _Stated(NamedTuple):
    """A claim before it is measured: its arms are columns of the rows of one measurement."""

    id: str
    statement: str
    metric: str
    better: Literal["lower", "higher"]
    sides: tuple[str, str]
    rows: str
    paid: tuple[str, str]
    source: str
    margin: float = 0.0


CODE = "released code, read at c48f1ed"
STATED = (
    _Stated(
        "citations",
        "Numbers follow from the sources cited, and not from those of other sentences",
        "support",
        "higher",
        ("support, as written", "support, shuffled"),
        "reports",
        ("sentences", "tasks"),
        f"{SOURCE}, CS",
        margin=0.2,
    ),
    _Stated(
        "polisher",
        "The released polisher points citations to other sources, the mended one does not",
        "share of wrong sources",
        "lower",
        ("mended", "released"),
        "drafts",
        ("drafts", "drafts"),
        CODE,
    ),
    _Stated(
        "blur",
        "Blur of five pixels lowers the repaired sharpness, and not the published one",
        "sharpness kept",
        "lower",
        ("repaired, kept under blur", "published, kept under blur"),
        "pictures",
        ("pictures", "pictures"),
        CODE,
    ),
    _Stated(
        "noise",
        "Noise is sharp by the published measure, and not by the repaired one",
        "sharpness of noise",
        "lower",
        ("repaired, noise", "published, noise"),
        "pictures",
        ("pictures", "pictures"),
        CODE,
    ),
    _Stated(
        "verifier",
        "The trained verifier beats overlap on swapped numbers, on unseen countries and wordings",
        "accuracy",
        "higher",
        ("learned, numbers", "overlap, numbers"),
        "verifiers",
        ("pairs", "pairs"),
        "own claim",
    ),
    _Stated(
        "research notes",
        "Passages asked for are cited more often with the planner's notes than where the writer searches",
        "share of passages cited",
        "higher",
        ("with notes", "without notes"),
        "notes",
        ("requests", "prose"),
        f"{SOURCE}, ablation: −0.40 overall without research notes",
    ),
    _Stated(
        "images",
        "The image searcher shows the sharp picture of the thing asked for, not the first by caption",
        "share of right pictures",
        "higher",
        ("right picture", "first by caption"),
        "images",
        ("requests", "images"),
        "own claim",
    ),
    _Stated(
        "tables, citations",
        "Numbers of reports on tables follow from the cells cited, more than from those of other sentences",
        "support",
        "higher",
        ("support", "support, shuffled"),
        "tables",
        ("requests", "tables"),
        f"{SOURCE}, CS",
        margin=0.2,
    ),
    _Stated(
        "tables, choice",
        "The planner names the table that is asked for more often than the first hit of the search",
        "share of right tables",
        "higher",
        ("table by planner", "table by first hit"),
        "tables",
        ("requests", "tables"),
        "own claim",
    ),
)
"""Claims of citations, polisher, sharpness, verifier, research notes and image searcher; and of tasks on tables."""


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
    measured = _measured(context, index, seeds, size, with_tables=bool(tables))
    return Evidence(
        system="reports",
        claims=claims(measured, size),
        checks=checks(measured),
        seconds=time.perf_counter() - began,
        versions=versions("altair", "vl-convert-python", "msgspec", "scikit-learn"),
        figures=[_table(Figure, name.capitalize(), rows) for name, rows in measured.items() if rows],
        notes=notes(measured["reports"], counts, with_tables=bool(tables)),
        config={**size, "seeds": seeds},
    )


def _measured(
    context: ProofContext, index: str, seeds: Sequence[int], size: Mapping[str, int], *, with_tables: bool
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every measurement, one a seed."""
    from noria.core.assets import find_asset
    from noria.reports.proof.small_model import run_small_model

    folder = str(context.folder.resolve())
    jobs: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
        "reports": (run_reports, (index,), "tasks"),
        "drafts": (run_polish, (), "drafts"),
        "pictures": (run_sharpness, (), "pictures"),
        "verifiers": (run_verifier, (index,), "pairs"),
        "notes": (run_notes, (index,), "prose"),
        "images": (run_images, (folder,), "images"),
        "tables": (run_tables, (index,), "tables"),
    }
    left_out = set() if with_tables else {"tables"}
    rows = {
        name: []
        if name in left_out
        else list(
            context.map(run, {f"{name}, seed {s}": (*given, s, size[count]) for s in seeds}, label=name)
        )
        for name, (run, given, count) in jobs.items()
    }
    small = {"SmolLM2": (index,)} if context.scale == "full" and find_asset("smollm2") is not None else {}
    rows["small model"] = list(context.map(run_small_model, small, label="small model")) if small else []
    return rows


def claims(measured: Mapping[str, Sequence[dict[str, Any]]], size: Mapping[str, int]) -> list[Claim]:
    """Every claim whose rows were measured."""
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    for row in measured["pictures"]:
        for name in ("published", "repaired"):
            row[f"{name}, kept under blur"] = row[f"{name}, blur 5"] / max(row[f"{name}, sharp"], 1e-9)
    made = []
    for one in STATED:
        rows = measured[one.rows]
        if rows:
            unit, count = one.paid
            made.append(
                Claim(
                    one.id,
                    one.statement,
                    one.metric,
                    one.better,
                    *one.sides,
                    arms={name: [row[name] for row in rows] for name in one.sides},
                    margin=one.margin,
                    source=one.source,
                    paid={name: Arm(name, unit, float(size[count])) for name in one.sides},
                )
            )
    return made


def checks(measured: Mapping[str, Sequence[dict[str, Any]]]) -> list[Check]:
    """What holds by construction, tried all the same."""
    from noria.core.proofs.proof import Check

    written, polished, shown = measured["reports"], measured["drafts"], measured["images"]

    def total(rows: Sequence[dict[str, Any]], name: str) -> int:
        return sum(row[name] for row in rows)

    unsupported, findings = total(written, "#unsupported"), total(written, "#findings")
    planted, found = total(written, "#planted"), total(written, "#found")
    wrong, cited = total(polished, "#mended"), total(polished, "#citations")
    pairs = [
        (_mean(rows, one), _mean(rows, other))
        for rows, one, other in (
            (written, "integration, interleaved", "integration, appended"),
            (written, "visual path, full", "visual path, no chart maker"),
            (shown, "demand met", "demand met, no image searcher"),
        )
    ]
    beside, full, met = (f"{one:.3f} against {other:.3f}" for one, other in pairs)
    (near, far), (whole, bare), (with_search, without) = pairs
    levels = [
        [row[f"repaired, {name}"] for name in ("sharp", "blur 2", "blur 5")] for row in measured["pictures"]
    ]
    falling = all(row == sorted(row, reverse=True) for row in levels)
    small = [
        Check(
            "small model",
            "A report whose sections SmolLM2 writes keeps the contracts: three sections, a chart, no finding",
            (row["#body sections"], row["#figures"], row["#findings"], row["#broken replies"])
            == (3, 1, 0, 0),
            f"{row['#sentences']} sentences, {row['#sentences removed']} removed, {row['#requests']} requests",
        )
        for row in measured["small model"]
    ]
    return small + [Check(*one) for one in (
        ("unsupported", "No sentence is written whose numbers do not follow from what it cites", unsupported == 0,
         f"{unsupported} findings of support"),
        ("clean", "A report that was just written has no finding", findings == 0, f"{findings} findings"),
        ("corrupted cells", "Exactly the corrupted cells of charts are found", planted == found,
         f"{found} found of {planted}"),
        ("wrong sources", "The mended polisher points no citation to another source", wrong == 0,
         f"{wrong} of {cited} citations"),
        ("interleaving", "Figures beside their text are near the words that name them, and appended ones are not",
         near > far, beside, f"{SOURCE}, figures inserted after the writing"),
        ("chart maker", "Without the chart maker the visual path falls by more than .177", whole - bare > 0.1771, full,
         f"{SOURCE}, ablation: −17.71 VA"),
        ("image searcher", "Without the image searcher the pictures asked for are missing", with_search > without, met,
         f"{SOURCE}, ablation: −1.39 VA"),
        ("sharpness falls", "Repaired sharpness falls as blur grows", falling, "radii 0, 2, 5"),
    )]  # fmt: skip


def notes(written: Sequence[dict[str, Any]], counts: dict[str, int], *, with_tables: bool) -> list[str]:
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
        "The writer without notes searches by the title and summary of its section, which name the entity, too.",
        *(
            []
            if with_tables
            else ["Claims on tables need the folder of npm's vega-datasets, and were not run."]
        ),
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
