"""A chart as data: kind, table, and for each cell the fact or the formula that gave it."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from noria.reports.evidence.derivation import recompute
from noria.reports.evidence.quantities import plain_number
from noria.reports.evidence.records import Book
from noria.reports.evidence.tables import cell_number

ChartKind = Literal[
    "line",
    "bar",
    "grouped bar",
    "stacked bar",
    "pie",
    "scatter",
    "timeline",
    "heat map",
    "map",
    "radar",
    "area",
    "histogram",
    "diagram",
]
KINDS: tuple[ChartKind, ...] = ChartKind.__args__  # type: ignore[attr-defined]


class Cell(msgspec.Struct, frozen=True):
    """A cell of a chart's table, and the id of the fact or derived number that it shows."""

    row: int
    column: str
    target: str


class ChartData(msgspec.Struct, frozen=True):
    """What a chart shows, before it is drawn.

    Attributes:
        id: `C` and a number.
        kind: kind of the chart.
        title: title in words.
        columns: names of the table's columns.
        rows: cells as text; numbers in digits without separators, missing ones empty.
        x, y: columns of the two axes; for a pie the slice's name and its size.
        series: column that tells series apart; empty where there is one.
        unit: unit of `y`.
        cells: provenance of each numeric cell.
        language: language of labels, `en` or `zh`.
    """

    id: str
    kind: ChartKind
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    x: str
    y: str
    series: str = ""
    unit: str = ""
    cells: tuple[Cell, ...] = ()
    language: str = "en"

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row of a chart has more or fewer cells than there are columns")

    def column(self, name: str) -> list[str]:
        """Cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


class CellFault(msgspec.Struct, frozen=True):
    """A cell whose number is not what its source gives."""

    row: int
    column: str
    shown: str
    expected: str


def check_cells(chart: ChartData, book: Book) -> tuple[list[CellFault], int]:
    """Recompute every numeric cell from its facts.

    Returns:
        The cells that differ, and the number of cells that were checked. A numeric cell without provenance is a fault.
    """
    faults, checked = [], 0
    known = {(cell.row, cell.column): cell.target for cell in chart.cells}
    for row, cells in enumerate(chart.rows):
        for column, text in zip(chart.columns, cells, strict=True):
            if (row, column) not in known:
                if column == chart.y and text:
                    faults.append(CellFault(row, column, text, "no source"))
                continue
            checked += 1
            expected = _expected(known[row, column], book)
            shown = cell_number(text)
            if expected is None or shown is None or abs(shown - expected) > abs(expected) * Decimal("1e-9"):
                faults.append(
                    CellFault(row, column, text, "no source" if expected is None else f"{expected:f}")
                )
    return faults, checked


def _expected(target: str, book: Book) -> Decimal | None:
    if target in book.facts:
        return book.facts[target].value
    return recompute(book, book.derived[target]) if target in book.derived else None


def alt_text(chart: ChartData) -> str:
    """Alternative text made of the table: kind, title, range, and every row of a small one."""
    values = (
        [(cell_number(text), row) for row, text in enumerate(chart.column(chart.y))]
        if chart.y in chart.columns
        else []
    )
    known = [(value, row) for value, row in values if value is not None]
    names = chart.column(chart.x) if chart.x in chart.columns else []
    zh = chart.language == "zh"
    head = f"{chart.kind}: {chart.title}."
    if not known or not names:
        return head
    (low, low_row), (high, high_row) = min(known), max(known)
    unit = f" {chart.unit}" if chart.unit else ""
    lowest, highest = (
        f"{plain_number(low)}{unit} ({names[low_row]})",
        f"{plain_number(high)}{unit} ({names[high_row]})",
    )
    span = f"最低 {lowest}，最高 {highest}。" if zh else f"Lowest {lowest}, highest {highest}."
    if len(known) > 12:
        return f"{head} {span}"
    groups = chart.column(chart.series) if chart.series in chart.columns else [""] * len(names)
    rows = "; ".join(f"{groups[row]} {names[row]} {plain_number(value)}".strip() for value, row in known)
    return f"{head} {span} {rows}."
