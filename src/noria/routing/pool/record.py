"""Recording: every route of a pool asked every question once, resumably, into a replay table."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from noria.core.errors import DataError, RunError
from noria.core.files import disk_errors, lock, write_all, write_atomic
from noria.core.records import read_records
from noria.routing.pool.pool import Asker, Reply
from noria.routing.tables.answers import RULES, score
from noria.routing.tables.table import Cell, Question, Route, Table, read_table, row_of, table_of, write_table

__all__ = ["RecordResult", "read_questions", "record"]


@dataclass(frozen=True)
class RecordResult:
    """What a recording did: the table, how many cells were there before, were asked, failed, and what was paid."""

    table: Table
    before: int
    asked: int
    failed: int
    cost: float


def read_questions(path: Path) -> list[Question]:
    """Questions of a JSON lines or Parquet file: {id?, dataset?, query, answers, rule?}; `exact` is the default rule.

    A query may be called `question` or `prompt`, too, and a single answer `answer`.

    Raises:
        DataError: with file and line: a question without words or answers, an unknown rule, an id given twice.
    """
    found: dict[str, Question] = {}
    for where, record in read_records(path, "questions"):
        text = next((record[name] for name in ("query", "question", "prompt") if name in record), None)
        dataset = str(record.get("dataset") or path.stem)
        if not isinstance(text, str) or not text.strip():
            raise DataError("query: no text", where=where, mend='write "query": "…"')
        given = record.get("answers", record.get("answer"))
        if isinstance(given, int | float) and not isinstance(given, bool):
            given = str(given)
        answers = [given] if isinstance(given, str) else given
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
            raise DataError(
                "answers: not a list of strings", where=where, mend='write "answers": ["…"], one or more'
            )
        rule = str(record.get("rule") or "exact")
        if rule not in RULES:
            raise DataError(f"no rule {rule!r}", where=where, mend=f"choose from {', '.join(RULES)}")
        name = str(record.get("id") or f"{dataset}-{len(found) + 1}")
        if name in found:
            raise DataError(f"the id {name!r} is given twice", where=where)
        found[name] = Question(name, dataset, text, tuple(answers), rule)
    if not found:
        raise DataError("no questions", where=str(path))
    return list(found.values())


async def record(
    pool: Asker,
    questions: Sequence[Question],
    path: Path,
    *,
    in_flight: int = 64,
    on_cell: Callable[[Question, Route, Cell], None] | None = None,
) -> RecordResult:
    """Ask what is not in the table yet, or failed there; each answer is on the disk before the next is asked for.

    Killed and started again, it goes on with what is left: a row that was torn is asked for again. When a pool's budget
    is spent, what is left is left out, and can be asked another day.

    Args:
        pool: whom to ask.
        questions: what.
        path: of the table, JSON lines; made, or gone on with.
        in_flight: requests under way.
        on_cell: told of each cell as it comes.

    Raises:
        RunError: another process records into it.
        DataError: the table has other questions of the same ids.
    """
    with lock(path.parent / f".{path.name}.lock"):
        known = _known(path)
        cells = {(q.id, r): cell for q, r, cell in known if cell.failure is None or cell.response is not None}
        wanted = {question.id: question for question in questions}
        for question, _, _ in known:
            if wanted.get(question.id, question) != question:
                raise DataError(
                    f"the id {question.id!r} is of another question there",
                    where=str(path),
                    mend="record into another file",
                )
        kept = [(q, r, c) for q, r, c in known if (q.id, r) in cells]
        todo = [(q, r) for q in questions for r in pool.routes if (q.id, r) not in cells]
        _rewrite(path, kept)
        done: list[tuple[Question, Route, Cell]] = []
        paid: list[float] = []
        with disk_errors(path):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            await _ask(pool, todo, handle, path, in_flight, done, paid, on_cell)
        finally:
            os.close(handle)
        whole = _rewrite(path, [*kept, *done])
    costs = [cost for cost in paid if not math.isnan(cost)]
    failed = sum(cell.response is None for _, _, cell in done)
    return RecordResult(
        whole, len(kept), len(done), failed, float(sum(costs)) if costs or not paid else math.nan
    )


async def _ask(
    pool: Asker,
    todo: Sequence[tuple[Question, Route]],
    handle: int,
    path: Path,
    in_flight: int,
    done: list[tuple[Question, Route, Cell]],
    paid: list[float],
    on_cell: Callable[[Question, Route, Cell], None] | None,
) -> None:
    waiting = iter(todo)

    async def work() -> None:
        for question, route in waiting:
            reply = await pool.ask(route, question.text, question=question)
            if reply.failure is not None and reply.failure.startswith("budget"):
                return
            cell = _cell(question, reply)
            line = json.dumps(row_of(question, route, cell)) + "\n"
            with disk_errors(path):
                write_all(handle, line.encode())
            done.append((question, route, cell))
            paid.append(0.0 if reply.cached else reply.cost)
            if on_cell:
                on_cell(question, route, cell)

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, in_flight)):
            group.create_task(work())


def _cell(question: Question, reply: Reply) -> Cell:
    """A refusal is scored like an answer; where nothing came back there is no score."""
    unscored = reply.text is None or not question.answers
    return Cell(
        score=math.nan if unscored else score(question.rule, reply.text or "", question.answers),
        cost=reply.cost,
        response=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=reply.seconds,
        failure=reply.failure,
    )


def _known(path: Path) -> list[tuple[Question, Route, Cell]]:
    """The rows that are there; a last line without its end was torn, and is dropped."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomic(path, whole)
    if not whole.strip():
        return []
    table = read_table(path)
    return [(table.questions[q], table.routes[r], cell) for (q, r), cell in sorted(table.cells.items())]


def _rewrite(path: Path, rows: Sequence[tuple[Question, Route, Cell]]) -> Table:
    """In the order of ids and routes, so that the same answers make the same file."""
    ordered = sorted(rows, key=lambda row: (row[0].dataset, row[0].id, row[1]))
    table = table_of((q, r, c, str(path)) for q, r, c in ordered)
    write_table(path, table)
    return table


def check_pool_answers(recorded: RecordResult, where: str) -> None:
    """Raises: RunError: not one request was answered."""
    if recorded.asked and recorded.failed == recorded.asked:
        example = next((c.failure for c in recorded.table.cells.values() if c.failure), "no answer")
        raise RunError(f"no request was answered ({example})", where=where, mend="check addresses and keys")
