"""Tables as people have them: cells as text, and what each column holds (numbers, years, dates, months, names)."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

from noria.core.errors import DataError
from noria.reports.evidence.quantities import MOST_DIGITS, Quantity, is_bounded, last_place, parse_value
from noria.reports.evidence.records import Fact

ColumnKind = Literal["number", "year", "date", "month", "name", "empty"]
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NULLS = frozenset({"", "-", "–", "—", "na", "n/a", "nan", "null", "none", "..", "..."})
LARGEST = 200_000
"""Most rows that are read of one table."""
MOST_COLUMNS, MOST_CELLS = 10_000, 20_000_000
"""Most columns, and cells, that are read of one table."""
TABLE_END = "\x0c\n"
"""End of the table in the archived text of a source; the text beside the table follows."""
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2}))?(?:[T ].*)?$")
_DATE_US = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})$")
_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4})?$")
_UNIT_IN_NAME = re.compile(r"[(\[]\s*([^)\]]{1,20})\s*[)\]]\s*$|_in_(\w+)$")


COLUMNS = "Columns"
"""Heading of the passage that describes a table without words of its own."""
MOST_NAMES, LONGEST_DESCRIPTION = 60, 2000
"""Most different values of a column that a description lists, and its most characters."""


class Table(msgspec.Struct, frozen=True):
    """A table of text cells: `rows[r][c]` under `columns[c]`. Missing cells are empty texts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, columns: Sequence[Any], rows: Sequence[Sequence[Any]], where: str = "table") -> Table:
        """Make a table of any values; short rows are filled, and columns of one name are numbered.

        Raises:
            DataError: it has no column, or too many rows, columns or cells.
        """
        if not columns:
            raise DataError("a table without columns", where=where)
        check_size(len(rows), len(columns), where)
        names: list[str] = []
        for number, name in enumerate(columns):
            text = cell_text(name) or f"column {number + 1}"
            names.append(
                text if text not in names else f"{text} ({sum(n.startswith(text) for n in names) + 1})"
            )
        width = len(names)
        cells = tuple(tuple([cell_text(v) for v in row[:width]] + [""] * (width - len(row))) for row in rows)
        return cls(tuple(names), cells)

    def column(self, name: str) -> list[str]:
        """Cells of a column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            raise DataError(
                f"no column {name!r}", where="table", mend=f"columns: {', '.join(self.columns[:12])}"
            )
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def csv(self) -> str:
        """The table as CSV, which `read_csv` reads back."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


def check_size(rows: int, columns: int, where: str) -> None:
    """Refuse a table that is too large, before its cells are made.

    Raises:
        DataError: it has too many rows, columns or cells.
    """
    for count, most, what in (
        (rows, LARGEST, "rows"), (columns, MOST_COLUMNS, "columns"), (rows * columns, MOST_CELLS, "cells"),
    ):  # fmt: skip
        if count > most:
            raise DataError(f"more than {most:,} {what}", where=where, mend="give an extract of it")


def cell_text(value: Any) -> str:
    """A cell as text; null words and NaN are empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
        value = int(value)
    text = " ".join(str(value).split())
    return "" if text.lower() in NULLS else text


def read_csv(text: str, where: str, *, delimiter: str | None = None) -> Table:
    """Read CSV, TSV or semicolon-separated text with a head line.

    Raises:
        DataError: it has no table.
    """
    if delimiter is None:
        head = text[:4096].partition("\n")[0]
        delimiter = max(",\t;|", key=head.count)
    csv.field_size_limit(1 << 20)
    try:
        lines = csv.reader(io.StringIO(text), delimiter=delimiter)
        rows = list(
            itertools.islice((row for row in lines if any(cell.strip() for cell in row)), LARGEST + 2)
        )
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=where) from None
    if not rows:
        raise DataError("an empty table", where=where)
    return Table.of(rows[0], rows[1:], where)


def cell_number(text: str) -> Decimal | None:
    """A cell's number: thousands separators, per cent and currency allowed; None where it is none."""
    quantity = cell_quantity(text)
    return None if quantity is None else quantity.value


def cell_quantity(text: str) -> Quantity | None:
    """A cell's number with its unit, where the cell is a number of at most `MOST_DIGITS` digits and nothing else."""
    plain = text.strip()
    if _PLAIN.match(plain):
        value = Decimal(plain.replace(",", ""))
        if not is_bounded(value, MOST_DIGITS):
            return None
        return Quantity(value, "", plain, 0, len(plain), last_place(value))
    found = parse_value(plain)
    return found if found is not None and found.start == 0 and found.end >= len(plain) - 1 else None


def column_kind(name: str, cells: Sequence[str]) -> ColumnKind:
    """Kind of a column by its cells: nine in ten of those that are there must fit; its name decides what
    digits mean.
    """
    present = [cell for cell in cells[:2000] if cell]
    if not present:
        return "empty"
    needed = 0.9 * len(present)
    if sum(cell[:3].lower() in MONTHS and cell.isalpha() for cell in present) >= needed:
        return "month"
    if sum(date_key(cell) is not None for cell in present) >= needed:
        return "date"
    years = sum(cell.isdecimal() and len(cell) == 4 and 1400 <= int(cell) <= 2200 for cell in present)
    if years >= needed and (
        re.search(r"year|date|period|年", name, re.IGNORECASE)
        or (len(set(present)) > 2 and years == len(present) and "id" not in name.lower() and _steps(present))
    ):
        return "year"
    return "number" if sum(cell_number(cell) is not None for cell in present) >= needed else "name"


def _steps(cells: Sequence[str]) -> bool:
    """Whether years follow one another in small steps, as those of a series do."""
    years = sorted({int(cell) for cell in cells if cell.isdecimal()})
    return all(after - before <= 10 for before, after in itertools.pairwise(years))


def date_key(text: str) -> str | None:
    """A date as `YYYY-MM-DD` or `YYYY-MM`, read without a time zone; None where the text is none."""
    if match := _DATE.match(text):
        year, month, day = match[1], int(match[2]), int(match[3] or 1)
        if 1 <= month <= 12 and 1 <= day <= 31:
            return f"{year}-{month:02d}" + (f"-{day:02d}" if match[3] else "")
    if (match := _DATE_US.match(text)) and 1 <= int(match[1]) <= 12 and 1 <= int(match[2]) <= 31:
        return f"{match[3]}-{int(match[1]):02d}-{int(match[2]):02d}"
    return None


def unit_of(name: str) -> str:
    """Unit that a column's name gives in brackets, as in `speed (km/h)`; empty where there is none."""
    match = _UNIT_IN_NAME.search(name)
    return (match[1] or match[2] or "") if match else ""


def without_unit(name: str) -> str:
    """Name of a column without the unit that it gives in brackets."""
    return _UNIT_IN_NAME.sub("", name).strip() if name.rstrip().endswith((")", "]")) else name


def description(table: Table) -> str:
    """A table in words that a search finds: its columns, and the names in it; no number of it, which cells support."""
    lines = ["; ".join(table.columns)]
    for name, kind in zip(table.columns, table_kinds(table), strict=True):
        values = list(dict.fromkeys(filter(None, table.column(name))))
        if kind == "name" and len(values) <= MOST_NAMES:
            lines.append(f"{name}: " + ", ".join(values))
    return "\n".join(lines)[:LONGEST_DESCRIPTION]


def cell_fact(source: str, table: Table, row: int, column: int) -> Fact | None:
    """The fact of a cell: its row's names and period, its column's name and unit; None where it is no number."""
    if not (0 <= row < len(table.rows) and 0 <= column < len(table.columns)):
        return None
    quantity = cell_quantity(table.rows[row][column])
    if quantity is None:
        return None
    kinds = table_kinds(table)
    cells = table.rows[row]
    entity = ", ".join(
        cells[n] for n, kind in enumerate(kinds) if kind == "name" and cells[n] and n != column
    )
    period = next((cells[n] for n, kind in enumerate(kinds) if kind in ("year", "date", "month")), "")
    name = table.columns[column]
    unit = quantity.unit or unit_of(name)
    return Fact(f"{source}#r{row}c{column}", entity, name, quantity.value, unit, period, cells[column])


_KINDS: dict[int, tuple[Table, tuple[ColumnKind, ...]]] = {}


def table_kinds(table: Table) -> tuple[ColumnKind, ...]:
    """Kinds of all columns, remembered while the table lives."""
    known = _KINDS.get(id(table))
    if known is None or known[0] is not table:
        kinds = tuple(column_kind(name, table.column(name)) for name in table.columns)
        if len(_KINDS) > 256:
            _KINDS.clear()
        _KINDS[id(table)] = known = (table, kinds)
    return known[1]
