"""Series: values by entity and period out of facts or a table, each with the id that it follows from."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from noria.reports.evidence.derivation import derive
from noria.reports.evidence.quantities import rounded
from noria.reports.evidence.records import Book
from noria.reports.evidence.tables import Table, cell_fact, date_key, table_kinds, unit_of, without_unit
from noria.reports.search.index import Index

MOST_OPERANDS = 2_000
MOST_SERIES = 12


class Point(msgspec.Struct, frozen=True):
    """A value with its id, and how it is printed."""

    entity: str
    period: str
    value: Decimal
    unit: str
    target: str
    raw: str


class Series(msgspec.Struct, frozen=True):
    """Points of one measure.

    Attributes:
        measure, unit: what is measured.
        points: values.
        cut: whether these are only the entities with the largest values, and the corpus has more.
        names: name of the column that holds the entities; empty where they are of no table.
    """

    measure: str
    unit: str
    points: tuple[Point, ...]
    cut: bool = False
    names: str = ""

    @property
    def label(self) -> str:
        """Name of the measure, without the unit where each value is printed with it."""
        shown = self.unit and all(point.raw.endswith(self.unit) for point in self.points)
        return (without_unit(self.measure) or self.measure) if shown else self.measure

    def entities(self) -> list[str]:
        """Names in the order of their first points."""
        return list(dict.fromkeys(point.entity for point in self.points))

    def periods(self) -> list[str]:
        """Periods in ascending order."""
        return sorted({point.period for point in self.points})

    def latest(self) -> list[Point]:
        """Newest point of each entity."""
        newest: dict[str, Point] = {}
        for point in self.points:
            if point.entity not in newest or point.period > newest[point.entity].period:
                newest[point.entity] = point
        return list(newest.values())

    def of(self, entity: str) -> list[Point]:
        """Points of an entity by period."""
        return sorted(
            (point for point in self.points if point.entity == entity), key=lambda point: point.period
        )


def fact_series(
    index: Index, book: Book, measure: str, entities: Sequence[str], *, most: int = 12
) -> Series | None:
    """Points of a measure for entities, or for those with the largest values where none are named."""
    facts = index.facts(measure=measure)
    if entities:
        facts = [fact for fact in facts if fact.entity in entities]
    units = [fact.unit for fact in facts]
    if not units:
        return None
    unit = max(dict.fromkeys(units), key=units.count)
    facts = [fact for fact in facts if fact.unit == unit]
    cut = False
    if not entities:
        newest = {fact.entity: fact for fact in sorted(facts, key=lambda fact: fact.period)}
        top = sorted(newest.values(), key=lambda fact: (-fact.value, fact.entity))[:most]
        facts, cut = (
            [fact for fact in facts if fact.entity in {one.entity for one in top}],
            len(newest) > most,
        )
        facts.sort(key=lambda fact: -newest[fact.entity].value)
    else:
        facts.sort(key=lambda fact: list(entities).index(fact.entity))
    book.add(*facts)
    for fact in facts:
        passage = index.passage(fact.passage)
        if passage is not None:
            book.add(passage)
        book.add(index.source(fact.id))
    points = tuple(Point(f.entity, f.period, f.value, f.unit, f.id, printed(f.raw, f.unit)) for f in facts)
    return Series(measure, unit, points, cut) if points else None


def printed(raw: str, unit: str) -> str:
    """Characters of a fact with its unit."""
    return raw if not unit or unit in raw else f"{raw} {unit}"


def table_series(
    index: Index, book: Book, source: str, column: str, *, years: tuple[int, int] | None = None
) -> Series | None:
    """Points of a column by year and name; several rows of one year are their mean, a derived number."""
    table = index.table(source)
    if table is None or column not in table.columns:
        return None
    kinds = table_kinds(table)
    place = table.columns.index(column)
    time = next((n for n, kind in enumerate(kinds) if kind in ("year", "date")), None)
    names = [
        n
        for n, kind in enumerate(kinds)
        if kind == "name"
        and n != place
        and len(set(table.column(table.columns[n]))) <= max(300, len(table.rows))
    ]
    name = (
        min(names, key=lambda n: len(set(table.column(table.columns[n]))), default=None)
        if time is not None
        else (names[0] if names else None)
    )
    groups: dict[tuple[str, str], list[int]] = {}
    for row, cells in enumerate(table.rows):
        period = "" if time is None else (date_key(cells[time]) or cells[time])[:4]
        if period and not period.isdecimal():  # a line of totals among the years is no point of the series
            continue
        if years and period and not years[0] <= int(period) <= years[1]:
            continue
        groups.setdefault(
            (cells[name] if name is not None else index.source(source).title, period), []
        ).append(row)
    book.add(index.source(source))
    points = [
        point
        for key, rows in groups.items()
        if (point := _point(book, source, table, place, key, rows)) is not None
    ]
    names_of = "" if name is None else table.columns[name]
    return Series(column, unit_of(column), tuple(points), names=names_of) if points else None


def _point(
    book: Book, source: str, table: Table, place: int, key: tuple[str, str], rows: list[int]
) -> Point | None:
    facts = [
        fact for row in rows[:MOST_OPERANDS] if (fact := cell_fact(source, table, row, place)) is not None
    ]
    if not facts or len(rows) > MOST_OPERANDS:
        return None
    book.add(*facts)
    if len(facts) == 1:
        fact = facts[0]
        return Point(*key, fact.value, fact.unit, fact.id, printed(fact.raw, fact.unit))
    entry = derive(book, "mean", [fact.id for fact in facts], label=f"mean of {len(facts)} rows")
    if entry is None:
        return None
    return Point(*key, entry.value, entry.unit, entry.id, f"{rounded(entry.value, 2):,f}")


def numeric_columns(table: Table) -> list[str]:
    """Columns that hold numbers and are no years and no ids."""
    return [
        name
        for name, kind in zip(table.columns, table_kinds(table), strict=True)
        if kind == "number"
        and name.lower() not in ("id", "index", "cluster", "lat", "lon", "latitude", "longitude")
    ]
