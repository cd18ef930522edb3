"""What can be wrong with a file: the shared set, and what is derived from a good file of each format."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Version = tuple[str, Callable[[Path], None]]
"""Name of a hostile version, and what turns a copy of the good file into it."""

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{!!merge <<: [{', '.join([f'*{a}'] * 9)}]}}\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TAGS = (
    "!!python/object/apply:os.system [x]",
    "!!binary aGk=",
    "!!timestamp foo",
    "!!set {a}",
    "!!omap [a: 1]",
    "!!bool foo",
    "!!int ''",
)
ODD: tuple[Any, ...] = (
    None,
    "text",
    "",
    "\ud800",
    7,
    -1,
    0.5,
    10**30,
    10**400,
    math.nan,
    math.inf,
    True,
    [],
    [1, "a", None],
    {},
    {"a": [1]},
    [[[{}]]],
    functools.reduce(lambda inner, _: [inner], range(200), []),
)
"""Values of other types that take the place of a field."""


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: _replaced(path).write_bytes(content) and None


def _made(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(make(path.read_bytes()))

    return change


def _replaced(path: Path) -> Path:
    """The path with nothing there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: _replaced(path).symlink_to(target)


SHARED: tuple[Version, ...] = (
    ("absent", lambda path: _replaced(path) and None),
    ("empty", _bytes(b"")),
    ("blank lines", _bytes(b"\n\r\n \n")),
    ("a folder", lambda path: _replaced(path).mkdir()),
    ("binary", _bytes(random.Random(0).randbytes(3000))),
    ("NUL", _bytes(b"a: \0\n")),
    ("another encoding", _bytes("caf\u00e9: 1\n".encode("latin-1"))),
    ("UTF-16", _bytes('{"a": 1}\n'.encode("utf-16"))),
    ("deep", _bytes(b"[" * 100_000)),
    ("deep mappings", _bytes(b'{"a":' * 5_000 + b"1" + b"}" * 5_000)),
    *(
        (f"{depth} deep{of}", _bytes(b'{"a": ' + begin * depth + b"1" + end * depth + b"}\n"))
        for depth in (200, 500, 900, 990)
        for of, begin, end in (("", b"[", b"]"), (" mappings", b'{"a":', b"}"))
    ),
    ("a huge line", _bytes(b'{"a": "' + b"x" * 2_000_000 + b'"}\n')),
    ("aliases", _bytes(BOMB.encode())),
    ("merges", _bytes(MERGES.encode())),
    *((f"the tag {tag}", _bytes(f"a: {tag}\n".encode())) for tag in TAGS),
    ("half a surrogate pair", _bytes(b'{"prompt": "\\ud800", "a": "\\udfff"}\n')),
    ("thousands of digits", _bytes(b'{"a": ' + b"9" * 10_000 + b"}\n")),
    ("400 digits", _bytes(b'{"step": ' + b"9" * 400 + b"}\n")),
    ("a pipe", lambda path: os.mkfifo(_replaced(path))),
    ("a device", _link("/dev/zero")),
    ("a loop of links", lambda path: _replaced(path).symlink_to(path.name)),
    ("JSON of another kind", _bytes(b"[1, 2]\n")),
    ("a number", _bytes(b"7\n")),
    ("an empty object", _bytes(b"{}\n")),
    ("a picture", _bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))),
    ("an archive", _bytes(b"PK\x03\x04" + bytes(50))),
)
"""Versions of any file."""

DERIVED: tuple[Version, ...] = (
    ("a byte-order mark", _made(lambda content: b"\xef\xbb\xbf" + content)),
    ("CRLF", _made(lambda content: content.replace(b"\n", b"\r\n"))),
    ("CR", _made(lambda content: content.replace(b"\n", b"\r"))),
    ("cut in half", _made(lambda content: content[: len(content) // 2])),
    ("cut at the end", _made(lambda content: content[:-3])),
    ("cut at the start", _made(lambda content: content[7:])),
    ("twice", _made(lambda content: content + content)),
    ("gz under this name", _made(gzip.compress)),
    (
        "one byte changed",
        _made(lambda c: c[: len(c) // 3] + bytes([c[len(c) // 3] ^ 0xFF]) + c[len(c) // 3 + 1 :] if c else c),
    ),
)
"""Versions that need a good file."""


def versions(path: Path) -> Iterator[Version]:
    """Every hostile version of a good file, by its format."""
    yield from SHARED
    if not path.is_file():
        return
    yield from DERIVED
    kind = path.suffix.lower()
    if kind in (".json", ".jsonl", ".yaml"):
        yield from _changed_fields(path)
    elif kind == ".csv":
        yield from _changed_cells(path)
    elif kind == ".parquet":
        yield from _changed_columns(path)
    elif kind in (".safetensors", ".gguf"):
        yield from _cuts(path)


# -- fields of JSON and YAML -----------------------------------------------------------------------------------------


def _changed_fields(path: Path) -> Iterator[Version]:
    """Each field in turn of another type, or gone; of JSON lines, in the first line and in the last."""
    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not texts:
        return
    whole = path.suffix == ".yaml" and not texts[0].lstrip().startswith("{")
    for at in sorted({0, len(texts) - 1}):
        value = _yaml(texts[at]) if whole else json.loads(texts[at])
        for place in _places(value):
            name = ".".join(map(str, place)) or "everything"
            for odd in ODD:
                yield f"line {at + 1}, {name} = {odd!a:.40}", _setter(texts, at, place, odd)
            if place:
                yield f"line {at + 1}, no {name}", _setter(texts, at, place, _GONE)


_GONE = object()


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of a value and of all inside it; of a list, its first two."""
    yield place
    if isinstance(value, dict):
        for key in list(value)[:40]:
            yield from _places(value[key], (*place, key))
    elif isinstance(value, list):
        for index in range(min(2, len(value))):
            yield from _places(value[index], (*place, index))


def _setter(texts: list[str], at: int, place: tuple[Any, ...], odd: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        value = json.loads(json.dumps(_yaml(texts[at]) if path.suffix == ".yaml" else json.loads(texts[at])))
        if not place:
            value = odd
        else:
            inner = value
            for key in place[:-1]:
                inner = inner[key]
            if odd is _GONE:
                del inner[place[-1]]
            else:
                inner[place[-1]] = odd
        line = json.dumps(value)
        path.write_text("\n".join([*texts[:at], line, *texts[at + 1 :]]) + "\n")

    return change


# -- columns of tables -----------------------------------------------------------------------------------------------


def _changed_cells(path: Path) -> Iterator[Version]:
    rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
    for column, name in enumerate(rows[0]):
        for odd in ("", "text", "-1", "1e400", "nan", "9" * 400, "\u2028", "x" * 200_000, '"'):
            yield f"{name} = {odd:.20}", _cell_setter(rows, column, odd)
        yield f"no {name}", _cell_setter(rows, column, None)


def _cell_setter(rows: list[list[str]], column: int, odd: str | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        changed = [list(row) for row in rows]
        if odd is None:
            for row in changed:
                del row[column]
        else:
            changed[1][column] = odd
        file = io.StringIO(newline="")
        csv.writer(file).writerows(changed)
        path.write_text(file.getvalue())

    return change


def _changed_columns(path: Path) -> Iterator[Version]:
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows = len(table)
    kinds: dict[str, Callable[[], Any]] = {
        "null": lambda: pyarrow.nulls(rows),
        "text": lambda: pyarrow.array(["x"] * rows),
        "whole numbers": lambda: pyarrow.array([7] * rows),
        "huge numbers": lambda: pyarrow.array([2**64 - 1] * rows, pyarrow.uint64()),
        "NaN": lambda: pyarrow.array([math.nan] * rows),
        "infinite": lambda: pyarrow.array([math.inf] * rows),
        "1e308": lambda: pyarrow.array([1e308] * rows),
        "booleans": lambda: pyarrow.array([True] * rows),
        "lists": lambda: pyarrow.array([[1.0]] * rows),
        "mappings": lambda: pyarrow.array([{"a": 1}] * rows),
        "bytes": lambda: pyarrow.array([b"\xff"] * rows),
        "times": lambda: pyarrow.array([0] * rows, pyarrow.timestamp("us")),
        "dates": lambda: pyarrow.array([0] * rows, pyarrow.date32()),
        "decimals": lambda: pyarrow.array([1] * rows).cast(pyarrow.decimal128(30, 2)),
        "a dictionary": lambda: pyarrow.array(["x"] * rows).dictionary_encode(),
        "half null": lambda: pyarrow.array(
            [None if n % 2 else v for n, v in enumerate(column.to_pylist())], column.type
        ),
    }
    for at, name in enumerate(table.column_names):
        column = table.column(name)
        for kind, make in kinds.items():
            changed = table.set_column(at, name, make())
            yield f"{name} of {kind}", lambda path, changed=changed: parquet.write_table(changed, path)
        yield f"no {name}", lambda path, at=at: parquet.write_table(table.remove_column(at), path)
    yield "no rows", lambda path: parquet.write_table(table.slice(0, 0), path)
    yield "no columns", lambda path: parquet.write_table(pyarrow.table({}), path)


# -- weights ---------------------------------------------------------------------------------------------------------


def _cuts(path: Path) -> Iterator[Version]:
    size = path.stat().st_size
    for length in (4, 8, 16, 32, 200, 1000, size // 4, size - 100):
        yield f"cut to {length} bytes", _made(lambda content, length=length: content[:length])
    for at in (0, 4, 8, 12, 20, 40, 100, 300):
        yield (
            f"byte {at} changed",
            _made(lambda c, at=at: c[:at] + bytes([c[at] ^ 0xFF]) + c[at + 1 :] if len(c) > at else c),
        )
    if path.suffix == ".safetensors":
        yield "another model's tensors", lambda path: _save_tensors(path, {"a": [1.0]})
        yield "no tensors", lambda path: _save_tensors(path, {})
        yield "a header of 2**62 bytes", _made(lambda c: (2**62).to_bytes(8, "little") + c[8:])


def _save_tensors(path: Path, tensors: dict[str, list[float]]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.array(values, np.float32) for name, values in tensors.items()}, path)
