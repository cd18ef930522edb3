"""A finished report made again from a newer corpus: its plan, with evidence looked up anew, and what changed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from noria.core.errors import DataError
from noria.core.files import read_bytes, read_text
from noria.reports.agents.contracts import Plan
from noria.reports.agents.research import Findings
from noria.reports.document.bundle import Bundle
from noria.reports.evidence.records import decode
from noria.reports.search.index import Index


def finished(folder: Path) -> tuple[str, Plan]:
    """Request and plan of a finished report, with the queries that were searched for.

    Raises:
        DataError: the folder holds no report of this package.
    """
    for name in ("request.txt", "plan.json", "report.json"):
        if not (folder / name).is_file():
            raise DataError(f"no {name}", where=str(folder), mend="give the folder of a finished report")
    plan = decode(read_bytes(folder / "plan.json"), Plan, str(folder / "plan.json"))
    records = sorted((folder / "stages").glob("sources-*.json"), key=lambda path: path.stat().st_mtime)
    if records and not plan.queries:
        searched = decode(read_bytes(records[-1]), Findings, str(records[-1])).queries
        plan = msgspec.structs.replace(plan, queries=tuple(searched))
    return read_text(folder / "request.txt", limit=200_000), plan


def moved(plan: Plan, before: Bundle, index: Index) -> Plan:
    """A plan for another index: its tables are found again by their addresses, its passages are looked up anew."""
    sections = []
    for section in plan.sections:
        tables = [before.book.sources[note].url for note in section.notes if note in before.book.sources]
        notes = tuple(id for url in tables if (id := index.by_url(url)) is not None)
        sections.append(msgspec.structs.replace(section, notes=notes))
    return msgspec.structs.replace(plan, sections=tuple(sections))
