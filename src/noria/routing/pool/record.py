"""Recording: every route of a pool asked every question once, resumably, into a replay table."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from noria.core.errors import DataError, RunError, ungrouped
from noria.core.files import disk_errors, lock, read_bytes, write_all, write_atomic
from noria.core.records import read_records
from noria.routing.pool.pool import Asker, Reply
from noria.routing.tables.answers import RULES, score
from noria.routing.tables.fields import answers, name, shown, text
from noria.routing.tables.table import Cell, Question, Route, Table, read_table, row_of, table_of, write_table

Row: TypeAlias = tuple[Question, Route, Cell]


@dataclass(frozen=True)
class RecordResult:
    """A recorded table, and what recording it took.

    Attributes:
        table: all that is recorded.
        before: number of answers that were there before.
        asked: number of cells asked for now.
        failed: number of those that have no response.
        cost: what was paid now; NaN where no price is known.
        routes: routes that were asked, or had been.
    """

    table: Table
    before: int
    asked: int
    failed: int
    cost: float
    routes: tuple[Route, ...]

    def failures(self) -> list[tuple[Route, int, int, str]]:
        """Routes that failed: the route, how many of its cells did, how many it has, and one of the reasons."""
        cells: dict[int, int] = {}
        why: dict[int, list[str]] = {}
        for (_, column), cell in self.table.cells.items():
            cells[column] = cells.get(column, 0) + 1
            if cell.failed:
                why.setdefault(column, []).append(str(cell.failure))
        return [
            (route, len(why[column]), cells[column], why[column][0])
            for column, route in enumerate(self.table.routes)
            if column in why and route in self.routes
        ]


def read_questions(path: Path) -> list[Question]:
    """Read questions of a JSON lines or Parquet file: {id?, dataset?, query, answers, rule?}; the rule is `exact`.

    A query may be called `question` or `prompt`, too, and a single answer `answer`. A worked answer that ends in a line
    `#### 18`, as GSM8K has them, means 18, and its rule is `number`.

    Raises:
        DataError: with file and line: a question without words or answers, an unknown rule, an id given twice.
    """
    questions: dict[str, Question] = {}
    for where, entry in read_records(path, "questions"):
        field = next((field for field in ("query", "question", "prompt") if field in entry), "query")
        words = text(entry, field, where)
        given = entry.get("answers", entry.get("answer"))
        if isinstance(given, int | float) and not isinstance(given, bool):
            given = shown(given)
        known = answers(given, where)
        if not known:
            raise DataError("answers: none", where=where, mend='write "answers": ["…"], one or more')
        worked = [_worked(answer) for answer in known]
        known = tuple(last or answer for last, answer in zip(worked, known, strict=True))
        rule = name(entry, "rule", where) or ("number" if any(worked) else "exact")
        if rule not in RULES:
            raise DataError(f"no rule {rule!r}", where=where, mend=f"choose from {', '.join(RULES)}")
        dataset = name(entry, "dataset", where) or path.stem
        own = name(entry, "id", where) or f"{dataset}-{len(questions) + 1}"
        if own in questions:
            raise DataError(f"the id {own!r} is given twice", where=where)
        questions[own] = Question(own, dataset, words, known, rule)
    if not questions:
        raise DataError("no questions", where=str(path))
    return list(questions.values())


def _worked(answer: str) -> str:
    """The answer behind the mark in the last line of a worked one, as GSM8K has it; "" where there is no mark."""
    last = answer.rstrip().rpartition("\n")[2]
    return last.removeprefix("####").strip() if last.startswith("####") else ""


async def record(
    pool: Asker,
    questions: Sequence[Question],
    path: Path,
    *,
    in_flight: int = 64,
    on_cell: Callable[[Question, Route, Cell], None] = lambda question, route, cell: None,
) -> RecordResult:
    """Ask what is not in the table yet, or failed there; each answer is on the disk before the next is asked for.

    Killed and started again, it resumes with what is left: a row that was torn is asked for again. When a pool's budget
    is spent, what is left is left out, and can be asked another day. A failure stays in the table until it is replaced.

    Time and memory grow with questions × routes: the table is held as a whole, and written again at the end.

    Args:
        pool: answers the questions.
        questions: questions to ask.
        path: file of the table, JSON lines; made, or continued.
        in_flight: requests under way at once.
        on_cell: called with each cell as it comes.

    Raises:
        RunError: another process records into it.
        DataError: the table has other questions of the same ids.
    """
    with lock(path.parent / f".{path.name}.lock"):
        known = _known(path)
        by_id = {question.id: question for question in questions}
        for question, _, _ in known:
            if by_id.get(question.id, question) != question:
                raise DataError(
                    f"the id {question.id!r} is of another question there",
                    where=str(path),
                    mend="record into another file",
                )
        there = {(question.id, route) for question, route, cell in known if not cell.failed}
        left = iter([(q, r) for q in questions for r in pool.routes if (q.id, r) not in there])
        _rewrite(path, known)
        new: list[Row] = []
        costs: list[float] = []
        with disk_errors(path):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

        async def work() -> None:
            for question, route in left:
                reply = await pool.ask(route, question.text, question=question)
                if not reply.asked:  # the budget is spent
                    return
                cell = _cell(question, reply)
                with disk_errors(path):
                    write_all(handle, (json.dumps(row_of(question, route, cell)) + "\n").encode())
                new.append((question, route, cell))
                costs.append(0.0 if reply.cached else reply.cost)
                on_cell(question, route, cell)

        try:
            with ungrouped():
                async with asyncio.TaskGroup() as group:
                    for _ in range(max(1, in_flight)):
                        group.create_task(work())
        finally:
            os.close(handle)
        table = _rewrite(path, [*known, *new])
    priced = [cost for cost in costs if not math.isnan(cost)]
    failed = sum(cell.failed for _, _, cell in new)
    cost = float(sum(priced)) if priced or not costs else math.nan
    return RecordResult(table, len(there), len(new), failed, cost, pool.routes)


def _cell(question: Question, reply: Reply) -> Cell:
    """A refusal is scored like an answer; where nothing came back there is no score."""
    unscored = reply.text is None or not question.answers
    return Cell(
        score=math.nan if unscored else score(question.rule, reply.text or "", question.answers),
        cost=reply.cost,
        response=_unicode(reply.text),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=reply.seconds,
        failure=_unicode(reply.failure),
    )


def _unicode(words: str | None) -> str | None:
    """A text without halves of surrogate pairs, which a server can send and no table holds."""
    return None if words is None else words.encode("utf-8", "replace").decode()


def _known(path: Path) -> list[Row]:
    """The rows that are there; a last line without its end was torn, and is dropped."""
    if not path.exists():
        return []
    content = read_bytes(path)
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomic(path, whole)
    if not whole.strip():
        return []
    table = read_table(path)
    return [(table.questions[q], table.routes[r], cell) for (q, r), cell in sorted(table.cells.items())]


def _rewrite(path: Path, rows: Sequence[Row]) -> Table:
    """Write rows by ids and routes, so that the same answers make the same file; a later row replaces a failure."""
    ordered = sorted(rows, key=lambda row: (row[0].dataset, row[0].id, row[1]))
    table = table_of((q, r, c, str(path)) for q, r, c in ordered)
    write_table(path, table)
    return table


def check_pool_answers(result: RecordResult, where: str) -> None:
    """Refuse a recording in which no route has answered, now or before.

    Raises:
        RunError: none has.
    """
    failures = result.failures()
    asked = sum(route in result.routes for route in result.table.routes)
    if failures and len(failures) == asked and all(failed == cells for _, failed, cells, _ in failures):
        raise RunError(
            f"no request was answered ({failures[0][3]})", where=where, mend="check addresses and keys"
        )
