"""Replay tables: every route of a pool asked every question once, so that routers train and are compared for nothing.

Our own format is JSON lines, one object for each question and route:

    {"id": "gsm8k-17", "dataset": "gsm8k", "query": "…", "answers": ["18"], "rule": "number",
     "model": "qwen-7b", "strategy": "step_by_step", "response": "… 18", "score": 1.0, "cost": 0.00021,
     "prompt_tokens": 61, "completion_tokens": 148, "seconds": 2.1, "failure": null}

`score` is null where nothing could be scored (a failure of the server, say), and `cost` where a price or a count is
missing; both are never 0 for that. A failure serves nobody, though: what a route is worth, `Table.quality`, is 0 there.
`noria.routing.tables.imports` reads the tables of others.
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
from noria.routing.tables.answers import RULES
from noria.routing.tables.fields import answers, name, number, optional_text, text

Floats = NDArray[np.float64]

REFUSED = "refused"
"""Failure of a cell whose model declined: its words are an answer like others."""


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
    """Outcome of one question on one route. NaN and None are what is not known."""

    score: float = math.nan
    cost: float = math.nan
    response: str | None = None
    prompt_tokens: float = math.nan
    completion_tokens: float = math.nan
    seconds: float = math.nan
    failure: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the route was asked and served nobody."""
        return self.failure not in (None, REFUSED) and (self.response is None or math.isnan(self.score))


NUMBERS = ("score", "cost", "prompt_tokens", "completion_tokens", "seconds")
"""Fields of a cell that are numbers."""


@dataclass(frozen=True)
class Table:
    """A replay table of questions × routes.

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
    def available(self) -> Floats:
        """[questions, routes]: 1 where the route answered, 0 where it failed, NaN where it was not asked."""
        values = np.full((len(self.questions), len(self.routes)), np.nan)
        for place, cell in self.cells.items():
            values[place] = 0.0 if cell.failed else 1.0
        return values

    @cached_property
    def quality(self) -> Floats:
        """What each route was worth [questions, routes]: its score, 0 where it failed, NaN where that is not known.

        A question that somebody answered and nobody scored is not known for those who failed, either: their zeros
        alone would stand for it.
        """
        unscored = np.isnan(self.score).all(1) & (self.available == 1).any(1)
        return np.where((self.available == 0) & ~unscored[:, None], 0.0, self.score)

    @cached_property
    def cost(self) -> Floats:
        """Costs [questions, routes], NaN where one is not known."""
        return self._array("cost")

    @property
    def dataset(self) -> list[str]:
        """Name of each question's data set."""
        return [question.dataset for question in self.questions]

    @cached_property
    def rows_by_dataset(self) -> dict[str, list[int]]:
        """Rows of each data set, in the order in which the data sets begin."""
        rows: dict[str, list[int]] = {}
        for row, dataset in enumerate(self.dataset):
            rows.setdefault(dataset, []).append(row)
        return rows

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
        first: list[int] = []
        for _, rows in sorted(self.rows_by_dataset.items()):
            drawn = generator.permutation(len(rows))[: round(share * len(rows))]
            first += [rows[n] for n in drawn.tolist()]
        other = sorted(set(range(len(self.questions))) - set(first))
        if not first or not other:
            raise DataError(
                f"{len(self.questions)} questions do not part at {share:g}", mend="give more questions"
            )
        return self.rows(sorted(first)), self.rows(other)


def table_of(rows: Iterable[tuple[Question, Route, Cell, str]]) -> Table:
    """Make a table of (question, route, cell, where it is from).

    A cell that comes again after a failure was asked for again, and replaces it.

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
        if place in cells and not cells[place].failed:
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
        words, model = text(record, "query", where), text(record, "model", where)
        dataset, rule = name(record, "dataset", where), name(record, "rule", where)
        known = answers(record.get("answers") or (), where)
        if rule and rule not in RULES:
            raise DataError(f"no rule {rule!r}", where=where, mend=f"choose from {', '.join(RULES)}")
        question = Question(name(record, "id", where) or f"{dataset}:{words}", dataset, words, known, rule)
        numbers = {
            field: number(record.get(field), field, where, most=1.0 if field == "score" else math.inf)
            for field in NUMBERS
        }
        failure = optional_text(record, "failure", where) or None
        cell = Cell(**numbers, response=optional_text(record, "response", where), failure=failure)
        if cell.failed and cell.score > 0:
            raise DataError(
                f"score: {cell.score:g} for a failure, which serves nobody", where=where, mend="write null"
            )
        yield question, Route(model, name(record, "strategy", where) or "direct"), cell, where


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
