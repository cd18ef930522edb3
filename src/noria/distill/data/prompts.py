"""Prompts of a training: read from lines, JSON lines or Parquet; batches are a pure function of the iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError, DataError, require
from noria.core.records import json_record, lines
from noria.distill.data.streams import PROMPT_ORDER, permutation

PROMPT_KEYS = ("prompt", "text", "caption")
"""Fields and columns that may hold the prompt; the first that is there counts."""

MAX_CHARACTERS = 10_000
MAX_BYTES = 2**29

_BLANKS = " \t\r\n\v\f"
_WRITE = 'write {"prompt": "..."}'


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts in their file's order.

    Attributes:
        texts: the prompts, at least one.
        source: file that they are from.
        duplicates: number of repetitions left out.
        blank: number of empty lines left out.
    """

    texts: tuple[str, ...]
    source: str = "memory"
    duplicates: int = 0
    blank: int = 0

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError("no prompts", where=self.source, mend="give at least one line with a prompt")

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, seed: int, iteration: int, batch_size: int) -> list[str]:
        """The `batch_size` prompts of one iteration.

        The stream of all batches is one epoch after the other, each a permutation of all prompts that depends on
        (seed, epoch) alone. So every prompt is seen once an epoch, also where a batch straddles two epochs or is larger
        than one, and a resumed run sees the same prompts without having stored anything.

        Raises:
            ConfigError: a negative seed or iteration, or an empty batch.
        """
        if not 0 <= seed < 2**64:
            raise ConfigError(f"{seed} is not in [0, 2^64)", where="seed")
        if iteration < 0 or batch_size < 1:
            raise ConfigError(
                f"iteration {iteration} with a batch of {batch_size}", mend="iterations count from 0"
            )
        texts: list[str] = []
        while len(texts) < batch_size:
            epoch, place = divmod(iteration * batch_size + len(texts), len(self))
            rows = permutation(len(self), seed, epoch, PROMPT_ORDER)[place : place + batch_size - len(texts)]
            texts += [self.texts[row] for row in rows]
        return texts


def read_prompts(path: Path, *, max_characters: int = MAX_CHARACTERS, max_bytes: int = MAX_BYTES) -> Prompts:
    r"""Prompts of a `.txt` (one a line), `.jsonl` (an object a line) or `.parquet` file (a column).

    The field or column is `prompt`, `text` or `caption`. Text is strict UTF-8, a byte-order mark aside. Only "\n" ends
    a line (with "\r" before it or not), so other line separators inside a prompt stay in it. Blanks at the ends are
    cut, empty lines left out, repetitions left out and counted.

    Args:
        path: file of prompts.
        max_characters: the longest prompt that is let in.
        max_bytes: the largest file, and the largest sum of its prompts, that is read.

    Raises:
        DataError: with file, line and byte or field: no such file, another kind, too large, not UTF-8, not JSON, no
            field of that name, a prompt that is too long, or none at all.
        MissingExtra: Parquet without pyarrow.
    """
    readers: dict[str, Callable[[Path, int], Iterator[tuple[str, str]]]] = {
        ".txt": lambda path, most: lines(path, max_bytes=most),
        ".jsonl": _json_lines,
        ".parquet": _parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"prompts of kind {path.suffix or 'without a suffix'!r} are not known",
            where=str(path),
            mend=f"give one of {', '.join(readers)}",
        )
    seen: dict[str, None] = {}
    kept = blank = total = 0
    for where, raw in reader(path, max_bytes):
        text = raw.strip(_BLANKS)
        if not text or text.isspace():
            blank += 1
            continue
        _check_prompt(text, where, max_characters)
        kept += 1
        total += len(text)
        if total > max_bytes:
            raise DataError(
                f"more than {max_bytes:,} characters of prompts", where=where, mend="split the file"
            )
        seen.setdefault(text)
    return Prompts(tuple(seen), str(path), duplicates=kept - len(seen), blank=blank)


def _check_prompt(text: str, where: str, max_characters: int) -> None:
    if len(text) > max_characters:
        raise DataError(
            f"a prompt of {len(text):,} characters",
            where=where,
            mend=f"at most {max_characters:,} are let in",
        )
    if "\0" in text:
        raise DataError(
            f"a NUL character at position {text.index(chr(0)) + 1}",
            where=where,
            mend="is it UTF-16? save it as UTF-8",
        )


def _json_lines(path: Path, max_bytes: int) -> Iterator[tuple[str, str]]:
    """(where, prompt) of a file with a JSON object a line; of a blank line, a blank."""
    for where, line in lines(path, max_bytes=max_bytes):
        blank = not line.strip(_BLANKS)
        yield where, "" if blank else _prompt_of(json_record(line, where, mend=_WRITE), where)


def _prompt_of(entry: Mapping[str, Any], where: str) -> str:
    key = next((key for key in PROMPT_KEYS if key in entry), None)
    if key is None:
        raise DataError(
            f"no field {' or '.join(PROMPT_KEYS)} (there is {_listed(entry)})",
            where=where,
            mend=_WRITE,
        )
    text = entry[key]
    if not isinstance(text, str):
        raise DataError(f"the field {key!r} is not text but {type(text).__name__}", where=where)
    return text


def _parquet(path: Path, max_bytes: int) -> Iterator[tuple[str, str]]:
    """(where, prompt) of a column of a Parquet file, a batch of rows at a time."""
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            key = next((key for key in PROMPT_KEYS if key in names), None)
            if key is None:
                raise DataError(
                    f"no column {' or '.join(PROMPT_KEYS)} (there is {_listed(names)})", where=str(path)
                )
            kind = file.schema_arrow.field(key).type
            kind = kind.value_type if arrow.types.is_dictionary(kind) else kind  # a column of categories
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise DataError(f"the column {key!r} is not text but {kind}", where=str(path))
            if _unpacked(file.metadata, key) > max_bytes:
                raise DataError(
                    f"more than {max_bytes:,} bytes of prompts", where=str(path), mend="split the file"
                )
            for batch in file.iter_batches(batch_size=4096, columns=[key]):
                for value in batch.column(0):
                    number += 1
                    text = value.as_py()
                    if text is None:
                        raise DataError(f"the column {key!r} is null", where=f"{path}: row {number}")
                    yield f"{path}: row {number}", text
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason})", where=f"{path}: row {number}") from error
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"not a Parquet file that can be read ({_first_line(error)})", where=str(path)
        ) from error


def _unpacked(metadata: Any, key: str) -> int:
    """Bytes of a column when decompressed, as the file's own directory says."""
    columns = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == key)


def _listed(names: Any) -> str:
    """The first few of some names, for a message."""
    shown = [repr(str(name))[:40] for name in list(names)[:6]]
    return ", ".join(shown) or "nothing"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
