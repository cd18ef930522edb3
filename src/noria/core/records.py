"""Records of the files that data comes in: JSON lines and Parquet, streamed, each with the place it is from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from noria.core.errors import DataError, require

__all__ = ["Record", "json_record", "json_records", "json_values", "lines", "parquet_records", "read_records"]

Record: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where it is from (file and line or row), and its fields."""

LONGEST_LINE = 2**26
"""Bytes of a line that are let in."""

_BLANKS = " \t\r\n\v\f"


def lines(path: Path, *, max_bytes: int | None = None) -> Iterator[tuple[str, str]]:
    r"""(where, line) of a file in strict UTF-8, a byte-order mark aside. Only "\n" ends a line.

    Args:
        path: the file.
        max_bytes: the largest file that is read; any by default.

    Raises:
        DataError: with file and line: it cannot be read, is too large, has too long a line, or is not UTF-8.
    """
    total = 0
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                total += len(line)
                where = f"{path}:{number}"
                if max_bytes is not None and total > max_bytes:
                    raise DataError(
                        f"larger than {max_bytes:,} bytes", where=str(path), mend="split the file"
                    )
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"a line of more than {LONGEST_LINE:,} bytes", where=where, mend="split it"
                    )
                yield where, _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x} ({error.reason})",
            where=where,
            mend="save the file as UTF-8",
        ) from error


def json_records(path: Path, *, max_bytes: int | None = None) -> Iterator[Record]:
    """A JSON object a line; blank lines are left out.

    Raises:
        DataError: as of `lines`, or a line is not a JSON object.
    """
    for where, line in lines(path, max_bytes=max_bytes):
        if line.strip(_BLANKS):
            yield where, json_record(line, where)


def json_record(line: str, where: str, *, mend: str | None = None) -> dict[str, Any]:
    """The JSON object of a line; `mend` says what to write instead where it is none.

    Raises:
        DataError: it is none.
    """
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at character {error.pos + 1}", where=where) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise DataError(f"not JSON that can be read ({type(error).__name__})", where=where) from error
    if not isinstance(entry, dict):
        raise DataError("not a JSON object", where=where, mend=mend)
    return entry


def parquet_records(path: Path) -> Iterator[Record]:
    """A record a row, without its null fields.

    Raises:
        DataError: it cannot be read.
        MissingExtra: there is no pyarrow.
    """
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", {n: v for n, v in record.items() if v is not None}
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise DataError("cannot be read as Parquet", where=str(path)) from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".parquet": parquet_records,
}


def read_records(path: Path, what: str = "records") -> Iterator[Record]:
    """Records of a `.jsonl` or `.parquet` file.

    Args:
        path: the file.
        what: the error calls them.

    Raises:
        DataError: another kind of file, or as of its reader.
        MissingExtra: Parquet without pyarrow.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{what} of kind {path.suffix or 'without a suffix'!r} are not known",
            where=str(path),
            mend=f"give one of {', '.join(READERS)}",
        )
    return reader(path)


def json_values(value: Any) -> Any:
    """A copy in JSON's own values: None for NaN and the infinities, numbers and lists for arrays and tensors.

    Raises:
        TypeError: something of another kind.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(one) for one in value]
    if hasattr(value, "tolist"):  # a NumPy or PyTorch number or array
        return json_values(value.tolist())
    raise TypeError(f"a {type(value).__name__} is no value of JSON")
