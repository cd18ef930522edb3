"""Sheets on which people verify observations and questions: out as CSV, filled in, and back.

A cell that a spreadsheet would take for a formula is written with an apostrophe before it, which is taken off again.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.files import read_text, write_atomic
from noria.grounding.corpus.records import Corpus, Observation, Question, Record

COLUMNS = ("video", "kind", "number", "where", "text", "options", "answer", "verdict", "correction")
VERDICTS = ("correct", "corrected", "delete", "")


@dataclass
class ReviewResult:
    """A corpus as reviewed, and what was done: {verdict: count}, and ids of what is left to review."""

    corpus: Corpus
    counts: Counter[str] = field(default_factory=Counter)
    open: list[str] = field(default_factory=list)


def export_sheet(corpus: Corpus, path: Path) -> int:
    """Write one row an observation and a question; the number of rows.

    Raises:
        RunError: the disk refuses.
    """
    rows: list[tuple[object, ...]] = []
    for record in corpus:
        for n, one in enumerate(record.observations):
            where = f"{one.start_time:g}s - {one.end_time:g}s {one.dimension}"
            rows.append((record.video_id, "observation", n, where, one.description, "", "", "", ""))
        for n, q in enumerate(record.mcq_questions, start=1):
            options = "\n".join(f"{o.id}) {o.text}" for o in q.options)
            question = (q.category, q.question, options, q.correct_answer)
            rows.append((record.video_id, "question", n, *question, "", ""))
    file = io.StringIO()
    csv.writer(file).writerows([COLUMNS, *(map(_safe, row) for row in rows)])
    write_atomic(path, "\ufeff" + file.getvalue())  # the mark tells spreadsheets that it is UTF-8
    return len(rows)


def _safe(cell: object) -> str:
    text = str(cell)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "'") else text


def _plain(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" else cell


def read_sheet(path: Path) -> list[dict[str, str]]:
    """The rows of a sheet.

    Raises:
        DataError: with file and line: a column is missing, or a verdict is none of `correct`, `corrected`, `delete`.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        columns = reader.fieldnames or ()
    except csv.Error as error:
        raise DataError(f"not a sheet ({error})", where=f"{path}:1") from None
    if set(COLUMNS) - set(columns):
        raise DataError(f"the columns must be {', '.join(COLUMNS)}", where=f"{path}:1")
    rows = []
    for row in _rows(reader, path):
        cells = {name: _plain(row.get(name) or "") for name in COLUMNS}
        cells["verdict"] = cells["verdict"].strip().lower()
        where = f"{path}:{reader.line_num}"
        if cells["verdict"] not in VERDICTS:
            raise DataError(
                f"the verdict {cells['verdict']!r}", where=where, mend="write correct, corrected or delete"
            )
        if cells["verdict"] == "corrected" and not cells["correction"].strip():
            raise DataError("corrected, but without a correction", where=where)
        rows.append(cells)
    return rows


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:  # a quote that is never closed
        raise DataError(f"not a sheet ({error})", where=f"{path}:{reader.line_num}") from None


def apply_sheet(corpus: Corpus, path: Path) -> ReviewResult:
    """The corpus with a sheet's verdicts: deleted rows are gone, corrections take the text's place.

    A question's correction is a letter (the right one) or a new stem. A row without a verdict stays as it is and is
    counted as open.

    Raises:
        DataError: `read_sheet` refuses the sheet, or a row names what is not in the corpus or comes twice.
    """
    rows: dict[str, dict[tuple[str, int], dict[str, str]]] = {}
    known = {record.video_id: record for record in corpus}
    for row in read_sheet(path):
        record = known.get(row["video"])
        size = (
            {"observation": len(record.observations), "question": len(record.mcq_questions) + 1}
            if record
            else {}
        )
        number = int(row["number"]) if row["number"].isdecimal() else -1
        if not 0 <= number < size.get(row["kind"], 0):
            raise DataError(f"there is no {row['kind']} {row['number']} of {row['video']!r}", where=str(path))
        mine = rows.setdefault(row["video"], {})
        if (row["kind"], number) in mine:
            what = f"{row['kind']} {number} of {row['video']!r} is there twice"
            raise DataError(what, where=str(path), mend="keep one of the rows")
        mine[row["kind"], number] = row
    reviewed = ReviewResult(corpus)
    reviewed.corpus = Corpus(
        tuple(_apply(record, rows.get(record.video_id, {}), reviewed) for record in corpus)
    )
    return reviewed


def _apply(
    record: Record, rows: Mapping[tuple[str, int], Mapping[str, str]], reviewed: ReviewResult
) -> Record:
    observations: list[Observation] = []
    moved: dict[int, int] = {}  # evidence numbers observations; deleting one renumbers the others
    for n, one in enumerate(record.observations):
        row = rows.get(("observation", n), {})
        if _note(record, f"observation {n}", row, reviewed) == "delete":
            continue
        if row.get("verdict") == "corrected":
            one = msgspec.structs.replace(one, description=row["correction"].strip())
        moved[n] = len(observations)
        observations.append(one)
    questions: list[Question] = []
    for n, question in enumerate(record.mcq_questions, start=1):
        row = rows.get(("question", n), {})
        if _note(record, f"question {n}", row, reviewed) == "delete":
            continue
        if row.get("verdict") == "corrected":
            text = row["correction"].strip()
            letters = {option.id for option in question.options}
            change = {"correct_answer": text.upper()} if text.upper() in letters else {"question": text}
            question = msgspec.structs.replace(question, **change)
        questions.append(question)
    analyses = tuple(
        msgspec.structs.replace(one, evidence=tuple(moved[e] for e in one.evidence if e in moved))
        for one in record.personality_analyses
    )
    return msgspec.structs.replace(
        record,
        observations=tuple(observations),
        mcq_questions=tuple(questions),
        personality_analyses=analyses,
    )


def _note(record: Record, what: str, row: Mapping[str, str], reviewed: ReviewResult) -> str:
    verdict = row.get("verdict", "")
    reviewed.counts[verdict or "open"] += 1
    if not verdict:
        reviewed.open.append(f"{record.video_id}: {what}")
    return verdict


def verdict_table(paths: Iterable[Path]) -> NDArray[np.float64]:
    """[people, rows] the verdicts as numbers, NaN where there is none, of the rows that have two or more.

    Raises:
        DataError: `read_sheet` refuses a sheet, or no row has two verdicts.
    """
    sheets = [
        {(r["video"], r["kind"], r["number"]): r["verdict"] for r in read_sheet(path) if r["verdict"]}
        for path in paths
    ]
    given = Counter(key for sheet in sheets for key in sheet)
    keys = sorted(key for key, count in given.items() if count > 1)
    if not keys:
        raise DataError(
            "no row has the verdicts of two people", where="agreement", mend="give sheets of the same records"
        )
    codes = {"correct": 0.0, "corrected": 1.0, "delete": 2.0}
    return np.array([[codes.get(sheet.get(key, ""), np.nan) for key in keys] for sheet in sheets])
