"""Replay tables: every route of a pool asked every question once, so that routers train and are compared for nothing.

Our own format is JSON lines, one object for each question and route:

    {"id": "gsm8k-17", "dataset": "gsm8k", "query": "…", "answers": ["18"], "rule": "number",
     "model": "qwen-7b", "strategy": "step_by_step", "response": "… 18", "score": 1.0, "cost": 0.00021,
     "prompt_tokens": 61, "completion_tokens": 148, "seconds": 2.1, "failure": null}

`score` is null where nothing could be scored (a failure of the server, say), and `cost` where a price or a count is
missing; both are never 0 for that. `noria.routing.tables.imports` reads the tables of others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.records import read_records

__all__ = ["Cell", "Question", "Route", "Table", "read_table", "row_of", "table_of", "write_table"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """A question and the answers that are right.

    Attributes:
        id: name of the question, unique in a table.
        dataset: name of its data set.
        text: the words that are asked.
        answers: right answers; none where it is scored elsewhere.
        rule: one of `noria.routing.tables.answers`; "" where it is scored elsewhere.
    """

    id: str
    dataset: str
    text: str
    answers: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True, order=True)
class Route:
    """A model, and how it is made to think."""

    model: str
    strategy: str = "direct"

    @property
    def label(self) -> str:
        """The name that a router writes: the model's alone for `direct`."""
        return self.model if self.strategy == "direct" else f"{self.model} | {self.strategy}"


@dataclass(frozen=True)
class Cell:
    """What came of asking one question by one route. NaN and None are what is not known."""

    score: float = math.nan
    cost: float = math.nan
    response: str | None = None
    prompt_tokens: float = math.nan
    completion_tokens: float = math.nan
    seconds: float = math.nan
    failure: str | None = None


NUMBERS = ("score", "cost", "prompt_tokens", "completion_tokens", "seconds")
"""Fields of a cell that are numbers."""


@dataclass(frozen=True)
class Table:
    """Questions × routes.

    Attributes:
        questions: the rows.
        routes: the columns.
        cells: {(row, column): cell}; what is not there was not asked.
    """

    questions: tuple[Question, ...]
    routes: tuple[Route, ...]
    cells: Mapping[tuple[int, int], Cell]

    def _array(self, field: str) -> Floats:
        values = np.full((len(self.questions), len(self.routes)), np.nan)
        for place, cell in self.cells.items():
            values[place] = getattr(cell, field)
        return values

    @cached_property
    def score(self) -> Floats:
        """Scores [questions, routes], NaN where one is not known."""
        return self._array("score")

    @cached_property
    def cost(self) -> Floats:
        """Costs [questions, routes], NaN where one is not known."""
        return self._array("cost")

    @property
    def dataset(self) -> list[str]:
        """Name of each question's data set."""
        return [question.dataset for question in self.questions]

    @property
    def texts(self) -> list[str]:
        """Words of each question."""
        return [question.text for question in self.questions]

    @property
    def has_responses(self) -> bool:
        """Whether any cell has a response."""
        return any(cell.response is not None for cell in self.cells.values())

    def rows(self, chosen: Sequence[int]) -> Table:
        """The table of some of the questions, in the order given."""
        place = {row: n for n, row in enumerate(chosen)}
        cells = {(place[q], r): cell for (q, r), cell in self.cells.items() if q in place}
        return Table(tuple(self.questions[row] for row in chosen), self.routes, cells)

    def split(self, share: float, *, seed: int) -> tuple[Table, Table]:
        """Part the table in two: `share` of the questions of every data set, drawn by the seed, and the others.

        Raises:
            DataError: one of them would be empty.
        """
        generator = np.random.default_rng(seed)
        names = np.array(self.dataset)
        first: list[int] = []
        for name in sorted(set(self.dataset)):
            rows = np.flatnonzero(names == name)
            first += rows[generator.permutation(len(rows))[: round(share * len(rows))]].tolist()
        other = sorted(set(range(len(self.questions))) - set(first))
        if not first or not other:
            raise DataError(
                f"{len(self.questions)} questions do not part at {share:g}", mend="give more questions"
            )
        return self.rows(sorted(first)), self.rows(other)


def table_of(rows: Iterable[tuple[Question, Route, Cell, str]]) -> Table:
    """Make a table of (question, route, cell, where it is from).

    Raises:
        DataError: with the place: a cell is given twice, or a question's id with two texts.
    """
    questions: dict[str, tuple[int, Question]] = {}
    routes: dict[Route, int] = {}
    cells: dict[tuple[int, int], Cell] = {}
    for question, route, cell, where in rows:
        number, known = questions.setdefault(question.id, (len(questions), question))
        if known != question:
            raise DataError(
                f"the id {question.id!r} has another question above",
                where=where,
                mend="give ids of their own",
            )
        place = number, routes.setdefault(route, len(routes))
        if place in cells:
            raise DataError(
                f"{question.id!r} by {route.label!r} is there twice", where=where, mend="keep one of them"
            )
        cells[place] = cell
    return Table(tuple(q for _, q in questions.values()), tuple(routes), cells)


# -- files ------------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> Table:
    """Read a table of our own format, JSON lines or Parquet.

    Raises:
        DataError: with file and line: it cannot be read, or a field cannot be what it must.
    """
    table = table_of(_rows(path))
    if not table.questions:
        raise DataError("no rows", where=str(path), mend="record a table first: noria routing record")
    return table


def _rows(path: Path) -> Iterable[tuple[Question, Route, Cell, str]]:
    for where, record in read_records(path, "replay tables"):
        text, model = _text(record, "query", where), _text(record, "model", where)
        answers = record.get("answers") or []
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise DataError("answers: not a list of strings", where=where)
        dataset, rule = str(record.get("dataset") or ""), str(record.get("rule") or "")
        name = str(record.get("id") or f"{dataset}:{text}")
        numbers = {field: _number(record, field, where) for field in NUMBERS}
        if numbers["score"] > 1 or numbers["score"] < 0:
            raise DataError(f"score: {numbers['score']:g} is not from 0 to 1", where=where, mend="scale it")
        texts = {field: optional_text(record.get(field)) for field in ("response", "failure")}
        question = Question(name, dataset, text, tuple(answers), rule)
        route = Route(model, str(record.get("strategy") or "direct"))
        yield question, route, Cell(**numbers, **texts), where  # type: ignore[arg-type]


def optional_text(value: Any) -> str | None:
    """A value as text; None for None."""
    return None if value is None else str(value)


def _text(record: Mapping[str, Any], field: str, where: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{field}: no text", where=where)
    return value


def _number(record: Mapping[str, Any], field: str, where: str) -> float:
    value = record.get(field)
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float) and math.isfinite(value) and (value >= 0 or field == "score"):
        return float(value)
    raise DataError(f"{field}: {value!r} is no number that it can be", where=where, mend="null if unknown")


def row_of(question: Question, route: Route, cell: Cell) -> dict[str, Any]:
    """Write a row of the file as JSON values."""
    numbers = {name: float(getattr(cell, name)) for name in NUMBERS}
    return {
        "id": question.id,
        "dataset": question.dataset,
        "query": question.text,
        "answers": list(question.answers),
        "rule": question.rule,
        "model": route.model,
        "strategy": route.strategy,
        "response": cell.response,
        **{name: None if math.isnan(number) else number for name, number in numbers.items()},
        "failure": cell.failure,
    }


def write_table(path: Path, table: Table) -> None:
    """Write a table as JSON lines, whole or not at all."""
    lines = [
        json.dumps(row_of(table.questions[q], table.routes[r], cell))
        for (q, r), cell in sorted(table.cells.items())
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines))
