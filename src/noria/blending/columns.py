"""Candidates as columns: numbers, flags, names, and lists of names, all of one length and checked once.

A missing number is NaN, a missing name has the code −1, a missing flag is −1 in a column of int8, and a missing list
is marked. None of them is ever zero, False, the empty string or the empty list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError

MAX_CANDIDATES = 100_000
"""Most candidates of one request."""
LARGEST_WHOLE = 2**53
"""Largest whole number up to which float64 tells each from its neighbours."""
_DENSE = 1 << 18  # groups that are numbered whether they have rows or not


@dataclass(frozen=True, eq=False)
class NameColumn:
    """A column of names: row i is `names[codes[i]]`, or missing where the code is −1.

    Attributes:
        names: distinct names.
        codes: [rows] int32, −1 where missing.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, values: Sequence[str | None]) -> NameColumn:
        """Encode names in the order of their first appearance; None is missing."""
        known: dict[str | None, int] = {None: -1}
        codes = np.empty(len(values), np.int32)
        for row, value in enumerate(values):
            code = known.get(value)
            if code is None:
                code = known[value] = len(known) - 1
            codes[row] = code
        del known[None]
        return cls(tuple(str(name) for name in known), codes)

    def __len__(self) -> int:
        return len(self.codes)

    def parted(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Names and codes for `grouped`; a missing name is the empty one, which is there only if one is missing."""
        missing = len(self.codes) > 0 and int(self.codes.min()) < 0
        return (*self.names, "") if missing else self.names, self.codes

    def take(self, rows: NDArray[Any]) -> NameColumn:
        """Some of the rows, by index or by flag."""
        return NameColumn(self.names, self.codes[rows])

    def codes_in(self, known: Mapping[str, int]) -> NDArray[np.int64]:
        """[rows] codes that the names have elsewhere; −1 where they have none."""
        return np.array([*(known.get(name, -1) for name in self.names), -1], np.int64)[self.codes]

    def decode(self) -> list[str | None]:
        """The names themselves."""
        names: tuple[str | None, ...] = (*self.names, None)  # code −1 is the last
        return [names[code] for code in self.codes.tolist()]


@dataclass(frozen=True, eq=False)
class NameLists:
    """A column of lists of names, such as tags: row i holds `names[codes[offsets[i] : offsets[i + 1]]]`.

    Attributes:
        names: distinct names.
        codes: [entries] int32, of all rows one after the other.
        offsets: [rows + 1] int64, rising from 0.
        missing: [rows] whether the list is missing, which is not the empty list; None where none is.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    missing: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, values: Sequence[Sequence[str] | None]) -> NameLists:
        """Encode lists of names; None is missing."""
        flat = NameColumn.of([name for row in values for name in row or ()])
        offsets = np.cumsum([0, *(len(row or ()) for row in values)], dtype=np.int64)
        missing = np.array([row is None for row in values], np.bool_)
        return cls(flat.names, flat.codes, offsets, missing if missing.any() else None)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[Any]) -> NameLists:
        """Some of the rows, by index or by flag."""
        index = np.arange(len(self))[rows]
        sizes = self.offsets[index + 1] - self.offsets[index]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        entries = np.repeat(self.offsets[index] - offsets[:-1], sizes) + np.arange(offsets[-1])
        missing = None if self.missing is None else self.missing[index]
        return NameLists(self.names, self.codes[entries], offsets, missing)


Column: TypeAlias = "NDArray[np.float64] | NDArray[np.bool_] | NDArray[np.int8] | NameColumn | NameLists"
"""Numbers; flags, as int8 with −1 where some are missing; names; lists of names."""


def as_column(name: str, values: Any) -> Column:
    """A column from what JSON, Arrow or NumPy has: numbers, flags, names or lists of names; None is missing.

    Raises:
        DataError: the values are of no kind or of several kinds, or whole numbers that no float tells apart.
    """
    if isinstance(values, NameColumn | NameLists):
        return values
    if isinstance(values, np.ndarray):
        if values.ndim == 1 and values.dtype.kind in "iu" and values.dtype != np.int8 and name != "score":
            check_whole(name, int(values.min(initial=0)), int(values.max(initial=0)))
        if values.ndim == 1 and values.dtype.kind in "iuf" and values.dtype != np.int8:
            return np.asarray(values, np.float64)
        if values.ndim == 1 and values.dtype in (np.bool_, np.int8):
            return values
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise DataError(
            f"a {type(values).__name__} is no column", where=f"column {name!r}", mend="give a list"
        )
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {str}:
        return NameColumn.of(values)
    if kinds == {bool}:
        if None in values:
            return np.array([-1 if value is None else value for value in values], np.int8)
        return np.array(values, np.bool_)
    if kinds <= {int, float}:
        whole = [value for value in values if type(value) is int] if int in kinds and name != "score" else ()
        if whole:
            check_whole(name, min(whole), max(whole))
        try:
            return np.array([np.nan if value is None else value for value in values], np.float64)
        except OverflowError:
            raise DataError("a number that no float holds", where=f"column {name!r}") from None
    if kinds <= {list, tuple} and all(isinstance(n, str) for row in values if row for n in row):
        return NameLists.of(values)
    kind_names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(
        f"values of kinds {kind_names}",
        where=f"column {name!r}",
        mend="give numbers, flags, names or lists of names",
    )


def check_whole(name: str, least: int, most: int) -> None:
    """Refuse whole numbers of which several would become one float.

    Raises:
        DataError: one of the two is beyond 2^53.
    """
    if most > LARGEST_WHOLE or least < -LARGEST_WHOLE:
        raise DataError(
            f"the whole number {most if most > LARGEST_WHOLE else least} is above 2^53, where a number is not told "
            "from its neighbours",
            where=f"column {name!r}",
            mend="give such ids as text",
        )


def rows_of(column: Column, rows: NDArray[Any]) -> Column:
    """Some rows of a column of any kind, by index or by flag."""
    return column.take(rows) if isinstance(column, NameColumn | NameLists) else column[rows]


def is_empty(column: Column) -> bool:
    """Whether a column is missing in every row, which is as if it were absent, whatever its kind."""
    if isinstance(column, NameColumn):
        return bool((column.codes < 0).all())
    if isinstance(column, NameLists):
        return column.missing is not None and bool(column.missing.all())
    if column.dtype == np.bool_:
        return False
    return bool((np.isnan(column) if column.dtype == np.float64 else column < 0).all())


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of one request.

    Attributes:
        item: [candidates] ids, distinct; anything hashable.
        score: [candidates] raw scores x of the ranking models, on any scale.
        source: model that scored each.
        columns: what plans are targeted on, `source` among them; `version` (of the model) if there is one.
        scene: place of the list.
    """

    item: Sequence[Any]
    score: NDArray[np.float64]
    source: NameColumn
    columns: Mapping[str, Column]
    scene: str = ""

    @classmethod
    def of(cls, columns: Mapping[str, Any], *, scene: str = "", limit: int = MAX_CANDIDATES) -> Candidates:
        """Check a request's columns: `item`, `score`, `source`, and any others.

        Raises:
            DataError: one of the three is absent or of another kind, columns differ in length, an id comes twice, or
                there are more than `limit` candidates.
        """
        for name in ("item", "score", "source"):
            if name not in columns:
                raise DataError(
                    "it is absent", where=f"column {name!r}", mend="every request has item, score and source"
                )
        item = columns["item"]
        if isinstance(item, NameColumn):
            item = item.decode()
        elif isinstance(item, np.ndarray):
            item = item.tolist()
        if not isinstance(item, list | tuple):
            raise DataError(
                f"a {type(item).__name__} is no column", where="column 'item'", mend="give a list"
            )
        if len(item) > limit:
            raise DataError(
                f"{len(item):,} candidates", where="request", mend=f"send at most {limit:,} in one request"
            )
        checked: dict[str, Column] = {}
        for name, values in columns.items():
            if name == "item":
                continue
            if name == "source" and isinstance(values, list) and not any(v is not None for v in values):
                values = NameColumn.of(values)
            column = as_column(name, values)
            if len(column) != len(item):
                raise DataError(f"{len(column):,} values for {len(item):,} items", where=f"column {name!r}")
            if name in ("score", "source") or not is_empty(column):
                checked[name] = column
        try:
            distinct = len(set(item))
        except TypeError:
            raise DataError("an id that is a list or a mapping", where="column 'item'") from None
        if distinct != len(item):
            seen: set[Any] = set()
            twice = next(one for one in item if one in seen or seen.add(one))  # type: ignore[func-returns-value]
            raise DataError(f"{twice!r} comes twice", where="column 'item'", mend="send each candidate once")
        score, source = checked["score"], checked["source"]
        if not isinstance(score, np.ndarray) or score.dtype != np.float64:
            raise DataError("not numbers", where="column 'score'")
        if not isinstance(source, NameColumn):
            raise DataError("not names", where="column 'source'")
        if not isinstance(checked.get("version", source), NameColumn):
            raise DataError("not names", where="column 'version'")
        return cls(item, np.asarray(score, np.float64), source, checked, scene)

    def __len__(self) -> int:
        return len(self.score)


def grouped(
    parts: Sequence[tuple[Sequence[Any], NDArray[Any]]],
) -> tuple[NDArray[np.int64], int, Callable[[int], list[Any]]]:
    """Rows of equal codes in all parts, as groups.

    Args:
        parts: at least one: its values, and [rows] codes, of which −1 is the last value.

    Returns:
        [rows] the number of each row's group, how many numbers there are (some of them perhaps of no row), and a
        group's values.
    """
    size = math.prod(len(kinds) for kinds, _ in parts)
    if size > 2**62:  # more than a number holds: number the rows' keys by sorting them
        table = np.stack([codes.astype(np.int64) % len(kinds) for kinds, codes in parts])
        distinct, group = np.unique(table, axis=1, return_inverse=True)

        def listed(number: int) -> list[Any]:
            codes = distinct[:, number].tolist()
            return [kinds[code] for (kinds, _), code in zip(parts, codes, strict=True)]

        return group, distinct.shape[1], listed
    group = np.zeros(len(parts[0][1]), np.int64)
    for kinds, codes in parts:
        if len(kinds) > 1:
            group *= len(kinds)
            group += codes
            if codes.min() < 0:
                group[codes < 0] += len(kinds)
    result = None
    if size > _DENSE:
        result, group = np.unique(group, return_inverse=True)
        size = len(result)

    def values(number: int) -> list[Any]:
        rest = number if result is None else int(result[number])
        row = []
        for kinds, _ in reversed(parts):
            rest, code = divmod(rest, len(kinds))
            row.append(kinds[code])
        return row[::-1]

    return group, size, values
