"""Columns from Arrow's and to Arrow's."""

from __future__ import annotations

from typing import Any

import numpy as np

from noria.blending.columns import Column, NameColumn, NameLists, as_column
from noria.core.errors import DataError, require

__all__ = ["arrow_array", "arrow_column", "is_text"]


def arrow_column(column: Any, name: str) -> Column:
    """A column of Arrow's, an array or a chunked one, as ours.

    Raises:
        DataError: of a type that is none of numbers, flags, names or lists of names, or a flag or a listed name is
            missing.
        MissingExtra: there is no pyarrow.
    """
    pa: Any = require("pyarrow", "blending")
    types = pa.types
    column = _joined(pa, column)
    kind = column.type
    if is_text(kind):
        return arrow_column(column.dictionary_encode(), name)
    if types.is_dictionary(kind) and is_text(kind.value_type):
        names = column.dictionary.to_pylist()
        if len(set(names)) != len(names) or None in names:
            return NameColumn.of(column.to_pylist())
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return NameColumn(tuple(names), codes)
    if types.is_boolean(kind) or types.is_null(kind):
        return as_column(name, column.to_pylist())
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(numbers, np.float64)
    if (types.is_list(kind) or types.is_large_list(kind)) and is_text(kind.value_type):
        flat = arrow_column(column.flatten(), name)
        assert isinstance(flat, NameColumn)
        if (flat.codes < 0).any():
            raise DataError("a list with a missing name", where=f"column {name!r}")
        compute: Any = require("pyarrow.compute", "blending")
        sizes = compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        return NameLists(flat.names, flat.codes, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
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
        return pa.ListArray.from_arrays(pa.array(column.offsets, pa.int32()), names)
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
