"""Digests of the files in a folder, so that a bit that flipped on the disk is noticed before the file is used.

They stand in a file of the folder, as `sha256sum --check digests.sha256` reads them, too.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from noria.core.errors import CheckpointError

DIGESTS = "digests.sha256"
"""Name of the file that holds the digests of its neighbours."""

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def digest_of(file: Path) -> str:
    """SHA-256 of a file; within a process a file that nobody touched since is not read again."""
    stat = file.stat()
    return _digest(file.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(file: Path, *_: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_digests(folder: Path, files: Iterable[Path]) -> None:
    """Write the digests of files below `folder`, for `check_digests`; those written before are replaced."""
    lines = [f"{digest_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in sorted(files)]
    (folder / DIGESTS).write_text("".join(lines), encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files below a folder."""
    return sorted(folder.rglob("*.safetensors"))


def check_digests(folder: Path, *, needed: Iterable[str] = ()) -> None:
    """Compare the files of a folder with its digests; a folder without any has nothing to compare.

    A file that is gone is left to the code that reads it.

    Args:
        folder: folder in which `write_digests` wrote.
        needed: names that must have a digest if any file has one.

    Raises:
        CheckpointError: a file is not what was written, or the digests themselves are damaged.
    """
    home = folder / DIGESTS
    if not home.is_file():
        return
    try:
        matches = [_LINE.fullmatch(line) for line in home.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        matches = [None]
    digests = {match[2]: match[1] for match in matches if match}
    if None in matches or not digests.keys() >= set(needed):
        raise CheckpointError(
            "the digests themselves are damaged", where=str(home), mend="copy the folder again"
        )
    for name, digest in digests.items():
        file = folder / name
        if file.is_file() and digest_of(file) != digest:
            raise CheckpointError(
                "its content is not what was written (its digest differs)",
                where=str(file),
                mend=f"copy it again, or remove {home} if you changed the file on purpose",
            )
