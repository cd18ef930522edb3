"""Columns from Arrow's and to Arrow's."""

from __future__ import annotations

from typing import Any

import numpy as np

from noria.blending.columns import Column, NameColumn, NameLists, as_column, check_whole
from noria.core.errors import DataError, require


def arrow_column(column: Any, name: str) -> Column:
    """A column of Arrow's, an array or a chunked one, as ours.

    Raises:
        DataError: of a type that is none of numbers, flags, names or lists of names; a listed name is missing; text is
            not UTF-8; or whole numbers that no float tells apart.
        MissingExtra: there is no pyarrow.
    """
    pa: Any = require("pyarrow", "blending")
    try:
        return _column(pa, _joined(pa, column), name)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({str(error)[:120]})", where=f"column {name!r}") from None


def _column(pa: Any, column: Any, name: str) -> Column:
    types, kind = pa.types, column.type
    if is_text(kind):
        return _column(pa, column.dictionary_encode(), name)
    if types.is_dictionary(kind):
        if not is_text(kind.value_type):
            return _column(pa, column.dictionary_decode(), name)
        names = column.dictionary.to_pylist()
        if len(set(names)) != len(names) or None in names:
            return NameColumn.of(column.to_pylist())
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return NameColumn(tuple(names), codes)
    if types.is_boolean(kind) or types.is_null(kind):
        return as_column(name, column.to_pylist())
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        if len(column) and (types.is_integer(kind) or (types.is_decimal(kind) and kind.scale <= 0)):
            ends = require("pyarrow.compute", "blending").min_max(column).as_py()
            if ends["min"] is not None and name != "score":
                check_whole(name, int(ends["min"]), int(ends["max"]))
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(numbers, np.float64)
    if types.is_fixed_size_list(kind) or types.is_large_list(kind):
        return _column(pa, column.cast(pa.list_(kind.value_type)), name)
    if types.is_list(kind) and (is_text(kind.value_type) or types.is_null(kind.value_type)):
        flat = column.flatten().cast(pa.string()).dictionary_encode()
        if flat.null_count:
            raise DataError("a list with a missing name", where=f"column {name!r}")
        entries = _column(pa, flat, name)
        assert isinstance(entries, NameColumn)
        compute: Any = require("pyarrow.compute", "blending")
        sizes = compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return NameLists(entries.names, entries.codes, offsets, missing)
    raise DataError(
        f"a column of {kind}", where=f"column {name!r}", mend="give numbers, flags, names or lists of names"
    )


def arrow_array(column: Column) -> Any:
    """A column of ours as an array of Arrow's.

    Raises:
        MissingExtra: there is no pyarrow.
    """
    pa: Any = require("pyarrow", "blending")
    if isinstance(column, NameColumn):
        codes = pa.array(column.codes, mask=column.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(list(column.names), pa.string()))
    if isinstance(column, NameLists):
        names = pa.array(list(column.names), pa.string()).take(pa.array(column.codes))
        missing = None if column.missing is None else pa.array(column.missing)
        return pa.ListArray.from_arrays(pa.array(column.offsets, pa.int32()), names, mask=missing)
    if column.dtype == np.int8:
        return pa.array(column == 1, mask=column < 0)
    return pa.array(column)


def is_text(kind: Any) -> bool:
    """Whether a type of Arrow's is one of text."""
    types: Any = require("pyarrow", "blending").types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _joined(pa: Any, column: Any) -> Any:
    """One array out of one or of several chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if not column.num_chunks:
        return pa.array([], column.type)
    chunks = column.unify_dictionaries().chunks if pa.types.is_dictionary(column.type) else column.chunks
    return pa.concat_arrays(chunks)
