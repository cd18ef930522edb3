"""Files that survive a crash: atomic writes, a lock on a folder, paths that stay inside, disk errors as one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from noria.core.errors import ConfigError, DataError, RunError


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
                write_all(handle, data.encode() if isinstance(data, str) else data)
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


def inside(folder: Path, name: str) -> Path:
    """Join `folder` and a name that comes from data.

    Raises:
        DataError: the name leaves the folder: absolute, by `..`, or through a symbolic link.
    """
    root = Path(folder).resolve()
    try:
        path = (root / name).resolve()
    except (ValueError, OSError, RuntimeError):  # a NUL byte, a name too long, a loop of links
        path = root
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
