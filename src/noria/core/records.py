"""Records of JSON-lines and Parquet files, streamed, each with its file and line or row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from noria.core.errors import DataError, require
from noria.core.files import LARGEST, check_input, decode_text, decoding, input_errors, open_input, read_bytes

Record: TypeAlias = tuple[str, Mapping[str, Any]]
"""Place of a record (file and line, or row), and its fields."""

LONGEST_LINE = 2**26
"""Most bytes of one line."""

DEEPEST = 100
"""Most lists and objects around a value."""
MAX_DIGITS = 300
"""Most digits of a whole number; a longer one is beyond every float."""

_BLANKS = " \t\r\n\v\f"
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS}}}")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def lines(path: Path, *, max_bytes: int | None = None) -> Iterator[tuple[str, str]]:
    r"""Yield (where, line) of a file in strict UTF-8, without its byte-order mark. Only "\n" ends a line.

    Args:
        path: path of the file.
        max_bytes: size of the largest file that is read; any by default.

    Raises:
        DataError: the file cannot be read, is too large, has too long a line, or is not UTF-8.
    """
    total = 0
    with open_input(path) as file:
        number = 0
        while line := _line(file, path):
            number += 1
            total += len(line)
            where = f"{path}:{number}"
            if max_bytes is not None and total > max_bytes:
                raise DataError(f"larger than {max_bytes:,} bytes", where=str(path), mend="split the file")
            if len(line) > LONGEST_LINE:
                raise DataError(f"a line of more than {LONGEST_LINE:,} bytes", where=where, mend="split it")
            yield where, decode_text(line.removesuffix(b"\n"), str(path), line=number)


def _line(file: BinaryIO, path: Path) -> bytes:
    with input_errors(path):
        return file.readline(LONGEST_LINE + 1)


def json_records(path: Path, *, max_bytes: int | None = None) -> Iterator[Record]:
    """Yield the JSON object of each line; blank lines are left out.

    Raises:
        DataError: the file cannot be read (see `lines`), or a line is not a JSON object.
    """
    for where, line in lines(path, max_bytes=max_bytes):
        if line.strip(_BLANKS):
            yield where, json_record(line, where)


def json_record(line: str | bytes, where: str, *, mend: str | None = None) -> dict[str, Any]:
    """Parse a line as a JSON object; `mend` ends the error of a line that is another JSON value.

    Raises:
        DataError: it is not a JSON object.
    """
    entry = json_value(line, where)
    if not isinstance(entry, dict):
        raise DataError("not a JSON object", where=where, mend=mend)
    return entry


def json_value(raw: str | bytes, where: str) -> Any:
    """Parse JSON of any value, within bounds: its depth, the digits of its numbers, and no half characters.

    Raises:
        DataError: it is not JSON, or out of these bounds.
    """
    text = decode_text(raw, where) if isinstance(raw, bytes) else raw
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if "\n" in text.rstrip() else where
        raise DataError(f"not JSON: {error.msg} at character {error.colno}", where=place) from None
    except RecursionError:
        raise DataError(f"nested more than {DEEPEST} deep", where=where) from None
    except ValueError:  # Python parses no integer of thousands of digits
        raise DataError(f"a number of more than {MAX_DIGITS} digits", where=where) from None
    # What a document cannot hold need not be looked for: the checks below walk over all values.
    if _LONG_NUMBER.search(text) or _HALF_PAIR.search(text) or text.count("[") + text.count("{") > DEEPEST:
        _check(value, where)
    return value


def _check(value: Any, where: str) -> None:
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict | list):
            if depth > DEEPEST:
                raise DataError(f"nested more than {DEEPEST} deep", where=where)
            if isinstance(value, dict):
                waiting += [(key, depth) for key in value]
                value = value.values()
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            if has_surrogate(value):
                raise DataError(
                    "half of a surrogate pair, which is no character", where=where, mend="take it out"
                )
        elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise DataError(f"a number of more than {MAX_DIGITS} digits", where=where)


def has_surrogate(text: str) -> bool:
    """Whether text holds half of a surrogate pair: no character, and nothing that UTF-8 can write."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def read_json(path: Path, *, limit: int = LARGEST) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file cannot be read, is larger than `limit` bytes, or is not JSON within the bounds of
            `json_value`.
    """
    return json_value(read_bytes(path, limit=limit), str(path))


def json_object(path: Path, what: str, *, limit: int = LARGEST, mend: str | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: path of the file.
        what: name of what the file should hold, such as "a run's settings".
        limit: most bytes of the file.
        mend: end of the error of a file that holds something else.

    Raises:
        DataError: `read_json` would refuse the file, or it holds another value.
    """
    value = read_json(path, limit=limit)
    if not isinstance(value, dict):
        raise DataError(f"not {what}: no JSON object", where=str(path), mend=mend)
    return value


def parquet_records(path: Path) -> Iterator[Record]:
    """Yield the record of each row, without its null fields.

    Raises:
        DataError: the file cannot be read.
        MissingExtra: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", "parquet")
    check_input(path)
    number = 0
    with decoding(path, "a Parquet file"), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", {n: v for n, v in record.items() if v is not None}


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


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list of JSON values; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
