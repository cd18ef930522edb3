"""The page of a turn: how it ended and why, from the data over the gate to what was spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure
from noria.core.pages.report import Block, write_run_report

_OUTCOMES = {
    "handed over": "The candidate passed its gate, and an experiment on traffic begins.",
    "registered": "The candidate passed its gate and is kept. No experiment was begun.",
    "rejected": "The gate refused the candidate. What serves stays.",
    "nothing": "There is no candidate. What serves stays.",
    "blocked": "Evidence is missing, so nothing was decided. What serves stays.",
    "stopped": "The turn was stopped before its end. What serves stays.",
}
_MARKS = {"passed": "passed", "failed": "FAILED", "missing": "MISSING"}


def write_receipt_page(folder: Path, receipt: Mapping[str, Any]) -> Path:
    """Write `report.html` of a turn from its receipt.

    Raises:
        RunError: the disk refuses.
    """
    turn = receipt["turn"]
    intro = (
        f"{_OUTCOMES[receipt['outcome']]}\n\n{receipt['outcome'].capitalize()}: {receipt['reason']}.\n\n"
        f"Turn {turn['number']} of the learner {turn['learner']}, due because of {turn['reason']}."
    )
    sections: list[tuple[str, list[Block]]] = []
    for heading, draw in (
        ("Data", _data),
        ("Failures", _failures),
        ("Candidate", _candidate),
        ("Gate", _gate),
        ("What became of it", _result),
        ("Money", _money),
    ):
        blocks = draw(receipt)
        if blocks:
            sections.append((heading, blocks))
    return write_run_report(folder, "serve", "Turn", sections, intro=intro)


def _data(receipt: Mapping[str, Any]) -> list[Block]:
    data = receipt["data"]
    if not data:
        return ["No data was frozen."]
    counts = dict(data["counts"])
    groups = counts.pop("groups")
    counts.pop("began", None)
    rows = [[name, number] for name, number in counts.items()]
    rows += [[f"leakage groups in {name}", number] for name, number in groups.items()]
    return [Figure.table("What was frozen", ["what", "number"], rows, f"Data set {data['digest'][:12]}.")]


def _failures(receipt: Mapping[str, Any]) -> list[Block]:
    failures = receipt["failures"]
    if not failures:
        return []
    values = [{"cause": cause, "failures": number} for cause, number in failures["causes"].items()]
    chart = {
        "data": {"values": values},
        "mark": "bar",
        "encoding": {
            "y": {"field": "cause", "type": "nominal", "sort": None, "title": None},
            "x": {"field": "failures", "type": "quantitative", "axis": {"tickMinStep": 1, "format": "d"}},
        },
        "height": 180,
    }
    counts = failures["counts"]
    known = (
        f"{counts['failed']} answers failed, {counts['stood']} stood, {counts['not known']} nobody judged."
    )
    caption = f"Each failure has the first cause of this list that there is evidence for. {known}"
    return [Figure.chart("Causes of failures", chart, caption)]


def _candidate(receipt: Mapping[str, Any]) -> list[Block]:
    candidate = receipt["candidate"]
    if not candidate:
        return []
    blocks: list[Block] = [f"An artefact of the kind {candidate['kind']}."]
    return [*blocks, *_notes("How it came about", candidate["notes"])]


def _gate(receipt: Mapping[str, Any]) -> list[Block]:
    gate = receipt["gate"]
    if not gate:
        return []
    rows = [[rule["name"], _MARKS[rule["outcome"]], rule["found"]] for rule in gate["rules"]]
    gain = gate["gain"]
    caption = (
        f"The {gate['gate']} gate, paired over {gain['groups']} leakage groups; "
        f"the interval of the gain has a level of {gain['level']:.4g}."
    )
    ends = [[gain["effect"], gain["low"], gain["high"]]]
    return [
        Figure.table("Gain of the candidate over its parent", ["gain", "low", "high"], ends, caption),
        Figure.table("Rules", ["rule", "outcome", "found"], rows, "Only rules that passed let pass."),
        *_notes("The comparison", receipt["gate notes"] or {}),
    ]


def _result(receipt: Mapping[str, Any]) -> list[Block]:
    names = ("artefact", "bundle", "experiment")
    rows = [[name, receipt[name]] for name in names if receipt[name]]
    return [Figure.table("Kept", ["what", "name"], rows)] if rows else []


def _money(receipt: Mapping[str, Any]) -> list[Block]:
    spent = receipt["spent"]
    rows = [["money", spent["money"]], ["pieces of work of unknown cost", spent["of unknown cost"]]]
    return [Figure.table("Spent on what is in the results", ["what", "number"], rows)]


def _notes(title: str, notes: Mapping[str, Any]) -> list[Block]:
    """Lists of mappings as tables, other values as one."""
    blocks: list[Block] = []
    plain = []
    for name, value in notes.items():
        rows = (
            value if isinstance(value, list) and value and all(isinstance(v, dict) for v in value) else None
        )
        if rows is None:
            plain.append([name, value if isinstance(value, str | int | float) else json.dumps(value)])
            continue
        header = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_cell(row.get(key)) for key in header] for row in rows]
        blocks.append(Figure.table(f"{title}: {name}", header, cells))
    return [Figure.table(title, ["what", "value"], plain), *blocks] if plain else blocks


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
