"""Records of JSON-lines and Parquet files, streamed, each with its file and line or row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from noria.core.errors import DataError, require

__all__ = ["Record", "json_record", "json_records", "json_values", "lines", "parquet_records", "read_records"]

Record: TypeAlias = tuple[str, Mapping[str, Any]]
"""Place of a record (file and line, or row), and its fields."""

LONGEST_LINE = 2**26
"""Most bytes of one line."""

_BLANKS = " \t\r\n\v\f"


def lines(path: Path, *, max_bytes: int | None = None) -> Iterator[tuple[str, str]]:
    r"""Yield (where, line) of a file in strict UTF-8, without its byte-order mark. Only "\n" ends a line.

    Args:
        path: path of the file.
        max_bytes: size of the largest file that is read; any by default.

    Raises:
        DataError: the file cannot be read, is too large, has too long a line, or is not UTF-8.
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
    """Yield the JSON object of each line; blank lines are left out.

    Raises:
        DataError: the file cannot be read (see `lines`), or a line is not a JSON object.
    """
    for where, line in lines(path, max_bytes=max_bytes):
        if line.strip(_BLANKS):
            yield where, json_record(line, where)


def json_record(line: str, where: str, *, mend: str | None = None) -> dict[str, Any]:
    """Parse a line as a JSON object; `mend` ends the error of a line that is another JSON value.

    Raises:
        DataError: it is not a JSON object.
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
    """Yield the record of each row, without its null fields.

    Raises:
        DataError: the file cannot be read.
        MissingExtra: pyarrow is not installed.
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
    """Read the records of a `.jsonl` or `.parquet` file.

    Args:
        path: path of the file.
        what: name of the records in the error of an unknown kind.

    Raises:
        DataError: the kind of file is unknown, or its reader refuses it.
        MissingExtra: pyarrow, which Parquet needs, is not installed.
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
    """Copy a value into JSON's own: None for NaN and the infinities, numbers and lists for arrays and tensors.

    Raises:
        TypeError: the value, or one inside it, has no form in JSON.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    if hasattr(value, "tolist"):  # a NumPy or PyTorch number or array
        return json_values(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
