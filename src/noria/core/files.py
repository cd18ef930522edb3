"""Files: inputs that are read within bounds, atomic writes, a lock on a folder, paths that stay inside.

What the file system refuses, and what a library raises for a damaged file, is one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from noria.core.errors import ConfigError, DataError, NoriaError, RunError

LARGEST = 2**30
"""Most bytes of a file that is read as a whole."""


_ENDLESS = ("a pipe or a device", "save it as a file")


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading. Only a regular file is one: a pipe could block for ever, and a device never ends.

    Raises:
        DataError: the file is absent, a folder, a pipe or a device, or cannot be read.
    """
    with input_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            os.close(handle)
            what, mend = ("a folder", "give a file") if stat.S_ISDIR(mode) else _ENDLESS
            raise DataError(what, where=str(path), mend=mend)
        with open(handle, "rb") as file:
            yield file


def check_input(path: Path) -> None:
    """Check a file before a library opens it by its name.

    Raises:
        DataError: `open_input` would refuse the file.
    """
    with open_input(path):
        pass


def check_inputs(folder: Path) -> None:
    """Check the files right in a folder before a library opens them.

    Raises:
        DataError: `open_input` would refuse one of them.
    """
    with input_errors(folder):
        paths = sorted(path for path in folder.iterdir() if not path.is_dir())
    for path in paths:
        check_input(path)


def read_bytes(path: Path, *, limit: int = LARGEST) -> bytes:
    """Read all of a file.

    Raises:
        DataError: `open_input` would refuse the file, or it has more than `limit` bytes.
    """
    with open_input(path) as file:
        # `read(limit + 1)` would reserve the whole limit at once, for a file of a few bytes, too.
        content = file.read() if os.fstat(file.fileno()).st_size <= limit else None
    if content is None or len(content) > limit:
        raise DataError(f"more than {limit:,} bytes", where=str(path))
    return content


def read_text(path: Path, *, limit: int = LARGEST) -> str:
    """Read all of a text file in UTF-8, without its byte-order mark; line ends stay as they are.

    Raises:
        DataError: `read_bytes` would refuse the file, or it is not UTF-8.
    """
    return decode_text(read_bytes(path, limit=limit), str(path))


def decode_text(raw: bytes, where: str, *, line: int | None = None) -> str:
    """Decode UTF-8 with or without a byte-order mark.

    Args:
        raw: content of a file, or one line of it.
        where: name of the file.
        line: number of the line, where `raw` is one.

    Raises:
        DataError: with the line: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1 if line is None else line
        column = error.start - raw.rfind(b"\n", 0, error.start)
        kind = next((kind for start, kind in _FOREIGN.items() if line == 1 and raw.startswith(start)), None)
        raise DataError(
            f"not UTF-8: byte {column} of the line is 0x{raw[error.start]:02x} ({error.reason})"
            if kind is None
            else f"not text in UTF-8 but {kind}",
            where=f"{where}:{line}",
            mend="unpack it first" if kind == "compressed" else "save the file as UTF-8",
        ) from None


_FOREIGN = {
    b"\x1f\x8b": "compressed",
    b"PK\x03\x04": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed",
    b"BZh": "compressed",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Raise what the file system refuses to a reader inside the block as a `DataError`, which is one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise DataError("a path with a NUL character", where=repr(str(path))) from error


@contextlib.contextmanager
def decoding(
    path: Path, what: str, *, mend: str | None = None, error: type[NoriaError] = DataError
) -> Iterator[None]:
    """Raise what a library raises for a damaged or foreign file inside the block as one line.

    Decoders of Parquet, safetensors, images and archives raise whatever they like, also `Exception` itself, so every
    exception is taken for the file's fault. The block is the library's call alone: a fault of ours keeps its traceback.

    Args:
        path: path of the file.
        what: name of what it should have been, such as "a Parquet file".
        mend: end of the line, what the user can do.
        error: class of the error.

    Raises:
        NoriaError: of the class `error`.
    """
    try:
        yield
    except MemoryError:
        raise
    except NoriaError as known:
        known.where = known.where or str(path)
        raise
    except Exception as fault:
        reason = " ".join(str(fault).split())[:120]
        reason = (
            f"{type(fault).__name__}: {reason}" if isinstance(fault, LookupError) or not reason else reason
        )
        raise error(f"not {what} that can be read ({reason})", where=str(path), mend=mend) from fault


def write_atomic(path: Path, data: bytes | str, *, sync: bool = True) -> None:
    """Write a file so that every reader, now or after a crash, sees all of the old one or all of the new one.

    Args:
        path: path of the file; its folder is made.
        data: content of the file.
        sync: whether to wait until it is on the disk. Without, a power cut can leave a torn file, a killed process
            can not.

    Raises:
        RunError: the disk refuses; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            try:
                write_all(handle, encoded(data) if isinstance(data, str) else data)
                if sync:
                    os.fsync(handle)
            finally:
                os.close(handle)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            fsync_folder(path.parent)


def encoded(text: str) -> bytes:
    r"""Encode text for a file; half of a surrogate pair, which UTF-8 lacks, as `\ud83d`: its escape in JSON."""
    return text.encode("utf-8", "backslashreplace")


def inside(folder: Path, name: str) -> Path:
    """Join `folder` and a name that comes from data.

    Raises:
        DataError: the name leaves the folder: absolute, by `..`, or through a symbolic link.
    """
    try:
        root = path = Path(folder).resolve()
        path = (root / name).resolve()
    except (ValueError, OSError, RuntimeError):  # a NUL byte, a name too long, a loop of links
        path = root = Path(folder)
    if Path(name).is_absolute() or path == root or root not in path.parents:
        raise DataError(f"the path {name!r} does not stay inside its folder", where=str(folder))
    return path


def output_path(text: str) -> Path:
    """Path that a user wants to write: absolute, or below the current folder.

    Raises:
        ConfigError: the path leaves its folder by `..`, or is empty.
    """
    path = Path(text).expanduser()
    if ".." in path.parts or not text.strip() or "\0" in text:
        raise ConfigError(
            f"the path {text!r} leaves its folder",
            where="--output",
            mend="give one without '..', or an absolute one",
        )
    return path


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock `folder` (made if need be) against every other process. The lock ends with the process, however it ends.

    Raises:
        RunError: another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            handle = os.open(Path(folder) / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise RunError(
                f"in use by another process ({owner})",
                where=str(folder),
                mend="wait for it, stop it, or give another folder",
            ) from None
        with contextlib.suppress(
            OSError
        ):  # the number only serves the error above: a full disk must not stop us
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise what the file system refuses inside the block as a `RunError`, which is one line."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "free some space and run the same command again" if full else None
        raise RunError(f"cannot write: {error.strerror or error}", where=str(path), mend=mend) from error


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data`, in as many system calls as that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` (files made, renamed, removed) survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove `folder` with all that is in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


# -- folders that appear whole ----------------------------------------------------------------------------------------


def check_output(
    output: Path, source: Path, *, overwrite: bool, marks: Sequence[str], in_place: bool = False
) -> None:
    """Refuse to write a folder where that would destroy something else than an earlier output.

    Args:
        output: folder to write.
        source: folder that the output is made from.
        overwrite: whether an earlier output may be replaced.
        marks: files by which an earlier output is recognised.
        in_place: whether the source itself may be replaced.

    Raises:
        RunError: the two folders overlap, `output` is something else, or it exists and may not be overwritten.
    """
    target, origin = output.resolve(), source.resolve()
    if target in origin.parents or origin in target.parents or (target == origin and not in_place):
        raise RunError(f"it overlaps {source}", where=str(output), mend="choose a folder elsewhere")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise RunError(
            "there is something that is not a folder", where=str(output), mend="choose another folder"
        )
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise RunError(
            "the folder exists already", where=str(output), mend="choose another, or give --overwrite"
        )
    if not all((output / mark).is_file() for mark in marks):
        raise RunError(
            "the folder is no earlier export, so it is not overwritten",
            where=str(output),
            mend="choose another folder",
        )


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write into. It becomes `folder` when the block succeeds, and is removed otherwise.

    An earlier `folder` is replaced as a whole. Where the system can exchange two folders in one step (Linux), a process
    killed at any moment leaves one or the other; elsewhere the earlier one has another name for a moment, and the next
    call puts it back.

    Raises:
        RunError: the disk refuses.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError("there is a file of that name", where=str(folder), mend="give another name")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    with disk_errors(folder), _system_errors():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            partial.mkdir()
            yield partial
            _flush(partial)
            if not (folder.exists() and _swapped(partial, folder)):
                if folder.exists():
                    folder.rename(old)
                try:
                    partial.rename(folder)
                except BaseException:
                    if old.exists():
                        old.rename(folder)
                    raise
            fsync_folder(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if folder.exists():  # else it is the only copy
                shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raise the system's errors, which safetensors reports as text, as `OSError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _swapped(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    at_fdcwd, rename_exchange = -100, 2
    return bool(rename(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left beside `folder`, and put back what one of them had moved away."""
    for kind in ("old", "partial"):
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.{kind}-*"):
            pid = path.name.rpartition("-")[2]
            if not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
                continue
            if kind == "old" and not folder.exists():
                path.rename(folder)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def _flush(folder: Path) -> None:
    """Sync every file below `folder` to the disk."""
    mode = folder.stat().st_mode & 0o666  # safetensors makes files that only their owner can read
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            if (
                not path.is_symlink() and path.stat().st_nlink == 1
            ):  # a linked file belongs to someone else, too
                path.chmod(mode | path.stat().st_mode & 0o111)
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)
