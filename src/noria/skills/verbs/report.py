"""`noria skills report`: the page of a bank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.pages.charts import Figure
from noria.skills.verbs.options.bank import BankArgument
from noria.verbs.command import command as make_command


class ReportConfig(BankArgument):
    """Settings of `noria skills report`."""

    output: Annotated[str | None, Option("-o", metavar="PATH")] = Field(
        None, description="Page, or folder of it (default: BANK/.noria/report.html)."
    )


@make_command(ReportConfig)
def command(config: ReportConfig) -> None:
    """Write a page: skills, confusion before and after, Poor shares, every edit with its evidence and its gate."""
    click.echo(f"report  {run(config)}")


def run(config: ReportConfig) -> Path:
    """Write the page: its path.

    Raises:
        DataError: there is no bank, or its ledger was changed.
    """
    from noria.core.files import decoding, output_path
    from noria.core.pages.report import write_page

    folder = config.folder()
    bank, entries = folder.load(), folder.ledger.entries()
    with decoding(folder.ledger.path, "a ledger of this version", mend="restore it"):
        sections = _sections(bank, entries)
    path = output_path(config.output) if config.output is not None else folder.home / "report.html"
    path = path if path.suffix == ".html" else path / "report.html"
    published = sum("version" in entry for entry in entries)
    intro = f"{len(bank.skills)} skills, {published} versions, {len(entries)} lines in the ledger."
    write_page(
        path,
        f"Skills: {config.bank.resolve().name}",
        sections,
        intro=intro,
        footer="Made by noria skills report.",
    )
    return path


def _sections(bank: Any, entries: Any) -> list[tuple[str, Any]]:
    told = sorted((entry for entry in entries if "summary" in entry), key=lambda entry: "version" in entry)
    last = {entry["stage"]: entry["summary"] for entry in told}  # the last that changed something, if any did
    sections: list[tuple[str, Any]] = [("Skills", [_skills(bank)])]
    if "route" in last:
        sections.append(("Routes", _routes(last["route"])))
    if "refine" in last:
        sections.append(("Answers", _answers(last["refine"])))
    sections.append(("Proposals", _proposals(entries)))
    sections.append(("Versions", [_versions(entries)]))
    return sections


def _skills(bank: Any) -> Figure:
    rows = [
        [s.name, s.description, " ".join(s.tools), s.body.count("\n") + 1, len(s.files), s.digest[:12]]
        for _, s in sorted(bank.skills.items())
    ]
    header = ["skill", "description", "tools", "lines of body", "files", "digest"]
    return Figure.table("Skills", header, rows)


def _routes(summary: Any) -> list[Any]:
    before, after = summary["before"], summary["after"]
    rows = [[name, before["f1"].get(name), value] for name, value in after["f1"].items()]
    rows.append(["macro F1", before["macro_f1"], after["macro_f1"]])
    blocks: list[Any] = [Figure.table("F1 on the gate's pool", ["skill", "before", "after"], rows)]
    for title, side in (("Confusion before", before), ("Confusion after", after)):
        blocks.append(_heat(title, side))
    if summary.get("queue"):
        rows = [[", ".join(q["terms"]), q["groups"], len(q["samples"])] for q in summary["queue"]]
        blocks.append(Figure.table("Missing skills", ["terms", "groups", "requests"], rows))
    return blocks


def _heat(title: str, side: Any) -> Figure:
    columns = [*side["labels"], "error"]
    values = [
        {"wanted": label, "chosen": column, "share": count / max(1, sum(row)), "requests": count}
        for label, row in zip(side["labels"], side["matrix"], strict=True)
        for column, count in zip(columns, row, strict=True)
        if sum(row)
    ]
    spec = {
        "data": {"values": values},
        "mark": "rect",
        "height": {"step": 24},
        "encoding": {
            "x": {"field": "chosen", "type": "nominal", "sort": columns, "title": "chosen"},
            "y": {"field": "wanted", "type": "nominal", "sort": columns, "title": "wanted"},
            "color": {
                "field": "share",
                "type": "quantitative",
                "scale": {"domain": [0, 1]},
                "title": "share of row",
            },
            "tooltip": [{"field": name} for name in ("wanted", "chosen", "requests", "share")],
        },
    }
    return Figure.chart(
        title, spec, "Share of each skill's requests by where they went; errors stand apart from none."
    )


def _answers(summary: Any) -> list[Any]:
    after = {(row["skill"], row["dimension"]): row for row in summary["after"]}
    rows = [
        [row["skill"], row["dimension"], row["applies"], row["share"],
         after.get((row["skill"], row["dimension"]), {}).get("share"),
         row["threshold"], row["missing"]]
        for row in summary["before"]
    ]  # fmt: skip
    header = ["skill", "dimension", "answers", "Poor before", "after", "allowed", "without points"]
    blame = [[name, count] for name, count in summary["blame"].items()]
    return [Figure.table("Poor shares", header, rows), Figure.table("Blame", ["what", "answers"], blame)]


def _proposals(entries: Any) -> list[Any]:
    rows = []
    for entry in entries:
        for one in _tried(entry):
            number = [entry["number"], entry.get("stage"), one.get("round")]
            what = [one["skill"], one.get("operation", "edit"), one["decision"], one.get("text", "")]
            rows.append([*number, *what, one.get("reason", ""), one.get("evidence"), one.get("human", "")])
    if not rows:
        return ["Nothing was proposed yet."]
    header = [
        "line",
        "stage",
        "round",
        "skill",
        "operation",
        "decision",
        "text",
        "gate",
        "evidence",
        "approved by",
    ]
    return [Figure.table("Proposals", header, rows)]


def _tried(entry: Any) -> Iterator[dict[str, Any]]:
    """Every proposal of a line of the ledger: skill, operation, decision, text, reason, pieces of evidence."""
    summary = entry.get("summary", {})
    for one in summary.get("created", []):
        human = one["human"] or {}
        yield one | {"operation": "create", "reason": "; ".join(one["faults"]) or human.get("reason", ""),
                     "human": human.get("by", "")}  # fmt: skip
    for made in summary.get("rounds", []):
        receipts = made.get("receipts") or [made.get("receipt") or {}]
        reason = receipts[-1].get("reason", "")
        for operation in made.get("proposed", []):
            done = "accepted" if operation in made["accepted"] else "rejected"
            yield operation | {"round": made["round"], "decision": done, "text": operation["description"],
                               "reason": reason, "evidence": len(operation["evidence"])}  # fmt: skip
        for skill, why in made["refused"] if "proposed" in made else []:
            yield {"round": made["round"], "skill": skill, "decision": "refused", "reason": why}
        if "edits" in made:
            evidence = {name for note in made["notes"] for name in note["support"]}
            yield made | {"text": "; ".join(edit["text"] for edit in made["edits"]), "evidence": len(evidence),
                          "reason": "; ".join(made["refused"]) or reason or "no note has enough support"}  # fmt: skip


def _versions(entries: Any) -> Figure:
    rows = [
        [
            e["number"],
            e["version"][:12],
            e["event"],
            e.get("stage") or e.get("reason") or "",
            e.get("by") or "",
        ]
        for e in entries
        if "version" in e
    ]
    return Figure.table("Versions", ["line", "version", "event", "stage", "by"], rows)
