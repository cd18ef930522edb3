"""A run folder: the settings, metrics and checkpoints of a job.

```
<folder>/config.json        the resolved settings
         versions.json      package versions, one entry for each set of versions that worked on it
         metrics.jsonl      one JSON object a line, flushed
         checkpoints/step-00000012/{tensors.safetensors, state.json, digests.sha256}
```

Every write is atomic (temporary name, fsync, rename), so a job killed at any moment leaves whole files only. Started
again with the same settings it resumes from its last checkpoint; `metrics.jsonl` is cut back to that step on opening,
so the log of a resumed job equals that of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from noria import __version__
from noria.core.errors import CheckpointError, DataError, NoriaError, RunError
from noria.core.files import disk_errors, lock, read_bytes, write_all, write_atomic
from noria.core.records import json_record, json_values, read_json
from noria.core.runs.checkpoints import (
    Checkpoint,
    list_checkpoints,
    newest_checkpoint,
    newest_log,
    newest_step,
    save_checkpoint,
    set_aside,
    sweep,
)
from noria.core.yaml_values import yaml_text

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor


class Run:
    """A run folder that is open for writing. Use it as a context, or call `close`."""

    def __init__(self, folder: Path, *, writer: bool, lock: contextlib.ExitStack, log: int | None) -> None:
        self.folder = folder
        self.writer = writer
        self._lock = lock
        self._log = log
        self._written = hashlib.sha256() if log is None else _content(folder)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        config: Mapping[str, Any],
        versions: Mapping[str, str] | None = None,
        writer: bool = True,
    ) -> Run:
        """Make the run `folder`, or resume the run that is there.

        Args:
            folder: folder of the run; made with its parents.
            config: the resolved settings, JSON values only.
            versions: versions of the packages; those installed by default.
            writer: whether this process writes. In the others of a distributed job, `log` and `save` do nothing.

        Raises:
            RunError: another process holds the run, the run has other settings, or the disk refuses.
            CheckpointError: the run has checkpoints, and all are damaged; nothing is changed then.
        """
        folder = Path(folder)
        if not writer:
            return cls(folder, writer=False, lock=contextlib.ExitStack(), log=None)
        stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo, disk_errors(folder):
            undo.push(stack)
            stack.enter_context(lock(folder))
            _check_config(folder, config)
            _note_versions(folder, package_versions() if versions is None else versions)
            sweep(_home(folder))
            for rest in folder.glob(".*.tmp-*"):  # a killed write_atomic leaves one behind
                rest.unlink()
            step = whole_checkpoint(folder)
            set_aside(_home(folder), after=step)
            _cut_log(folder, -1 if step is None else step)
            log = os.open(folder / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            stack.callback(os.close, log)
            undo.pop_all()
        return cls(folder, writer=True, lock=stack, log=log)

    def close(self) -> None:
        """Release the folder and its lock."""
        self._log = None
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log(self, step: int, **values: Any) -> None:
        """Append one line to `metrics.jsonl`.

        Args:
            step: step of the job, counted as `save` counts it.
            values: numbers, strings, None, lists of them; one-element tensors and arrays count as numbers. NaN and
                the infinities, which JSON lacks, are written as null: they are missing, not zero.

        Raises:
            RunError: the disk is full; nothing of the line is left behind.
        """
        if not self.writer:
            return
        if self._log is None:
            raise ValueError("the run is closed")
        line = json.dumps({"step": int(step)} | json_values(values)) + "\n"
        with disk_errors(self.folder / "metrics.jsonl"):
            before = os.fstat(self._log).st_size
            try:
                write_all(self._log, line.encode())
            except OSError:
                os.ftruncate(self._log, before)
                raise
        self._written.update(line.encode())

    def save(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int = 2
    ) -> Path:
        """Write a checkpoint with the current random states; it appears whole or not at all.

        Args:
            step: number of the checkpoint; an older one of the same number is replaced.
            tensors: tensors by name, on any device and in any layout.
            state: what is not a tensor (counters, cursors), as JSON values.
            keep: number of checkpoints to keep; older ones are removed.

        Returns:
            Folder of the checkpoint.

        Raises:
            RunError: the disk is full; the earlier checkpoints stay as they were.
        """
        if keep < 1:
            raise ValueError(f"keep={keep} would keep no checkpoint")
        if not self.writer:
            return _home(self.folder) / f"step-{step:08d}"
        if self._log is None:
            raise ValueError("the run is closed")
        with disk_errors(self.folder / "metrics.jsonl"):
            os.fsync(self._log)  # before the checkpoint, which must not know more steps than the log
            log = {"bytes": os.fstat(self._log).st_size, "sha256": self._written.hexdigest()}
        return save_checkpoint(_home(self.folder), step, tensors, state, keep=keep, log=log)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None where none was written yet. It restores nothing by itself.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        return latest_checkpoint(self.folder)

    def metrics(self) -> list[dict[str, Any]]:
        """Every line logged so far."""
        return read_metrics(self.folder)


# --- reading a run that may belong to someone else -----------------------------------------------------------


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of the run in `folder` that is whole; None where none was written yet.

    A damaged one is skipped with a warning.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    return None if whole_checkpoint(folder) is None else newest_checkpoint(_home(folder))


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, whole or not, the oldest first."""
    return [path for _, path in reversed(list_checkpoints(_home(folder)))]


def whole_checkpoint(folder: Path) -> int | None:
    """The step of a run's newest whole checkpoint; None where none was written yet.

    Raises:
        CheckpointError: there are checkpoints, but every one is damaged.
    """
    step = newest_step(_home(folder))
    if step is None and checkpoints(folder):
        raise CheckpointError(
            "every checkpoint is damaged",
            where=str(_home(folder)),
            mend="remove that folder and train again, or give another run",
        )
    return step


def settled(
    folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """What must stay the same for a run to be resumed: its settings, and its inputs by content.

    An input that has moved, with the same content, keeps the name that the run knows it by. So does a run whose folder
    was copied or renamed: its `name` is the one that it was made with.

    Args:
        folder: folder of the run, which may not exist yet.
        settings: settings without those that may change.
        inputs: name or path of an input, and a fingerprint of its content, by field of the settings.

    Raises:
        RunError: the run in the folder has another input.
    """
    stored = read_config(folder) if (folder / "config.json").exists() else {}
    values = dict(settings)
    if "name" in values:
        values["name"] = stored.get("name", values["name"])
    for field, (name, content) in inputs.items():
        path = Path(name).expanduser()
        values[field] = str(path.absolute()) if path.exists() else name
        values[f"{field}_fingerprint"] = content
        if not stored:
            continue
        if stored.get(f"{field}_fingerprint") != content:
            raise RunError(
                f"the run in this folder has another {field}, {stored.get(field)}",
                where=str(folder),
                mend="give another --output",
            )
        values[field] = stored.get(field, values[field])
    return values


def save_settings(folder: Path, config: BaseModel) -> None:
    """Write every setting to `folder/settings.yaml`, from which the same training can be started again.

    Raises:
        RunError: the disk refuses.
    """
    write_atomic(folder / "settings.yaml", yaml_text(config.model_dump(mode="json")))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`; a last line torn by a crash is left out.

    A log that was cut or changed since the newest checkpoint is read with a warning.

    Raises:
        DataError: a line before the last is not JSON.
    """
    lines = list(_log_lines(folder / "metrics.jsonl"))
    _check_log(folder, b"".join(line for line, _ in lines))
    return [record for _, record in lines]


def read_config(folder: Path) -> dict[str, Any]:
    """Read the settings that the run in `folder` was made with.

    Raises:
        RunError: there is no run, or its settings are damaged.
    """
    stored = _read_json(folder / "config.json")
    if stored is None:
        raise RunError("no run here", where=str(folder), mend="give the folder that a training run wrote")
    if not isinstance(stored, dict):
        raise RunError("not a run's settings", where=str(folder / "config.json"))
    settings: dict[str, Any] = json_values(stored)  # NaN, which no run writes, is missing
    return settings


def changed_setting(folder: Path, config: Mapping[str, Any]) -> str:
    """The first setting by which the run of a folder was made otherwise, in words; empty where it can be resumed.

    Args:
        folder: folder of the run, which may not exist yet.
        config: the resolved settings, JSON values only.

    Raises:
        RunError: its settings are damaged.
    """
    stored = _read_json(Path(folder) / "config.json")
    difference = None if stored is None else _first_difference(stored, json_values(config), "")
    if difference is None:
        return ""
    name, before, now = (one or "not there" for one in difference)
    return f"{name} was {before}, and is {now}"


def package_versions() -> dict[str, str]:
    """Versions of Python, of Noria, and of each installed package that Noria can use."""
    versions = {"python": platform.python_version(), "noria": __version__}
    # Found by its command, since a checkout may be installed under an earlier name, and `noria` may be another's.
    commands = importlib.metadata.entry_points(group="console_scripts", name="noria")
    own = next((c.dist for c in commands if c.value == "noria.cli:main" and c.dist), None)
    if own is None:  # run from a source tree that was never installed
        return versions
    for need in sorted(own.requires or [], key=str.lower):
        if re.search(r"extra == ['\"](dev|docs)['\"]", need):
            continue
        name = re.match(r"[\w.-]+", need)
        if name and name[0] != own.name:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name[0]] = importlib.metadata.version(name[0])
    return versions


# --- opening -------------------------------------------------------------------------------------------------


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=1, allow_nan=False)
    stored = _read_json(folder / "config.json")
    if stored is None:
        write_atomic(folder / "config.json", text + "\n")
        return
    difference = _first_difference(stored, json.loads(text), "")
    if difference is not None:
        name, before, now = difference
        if before is None or now is None:
            had, has = ("no", "has one") if before is None else ("a", "has none")
            raise RunError(
                f"this run was made with {had} setting {name}, and this version {has}",
                where=str(folder),
                mend="give another folder, or resume it with the version that made it",
            )
        raise RunError(
            f"this run was made with {name}={before}, now it is {now}",
            where=str(folder),
            mend=f"set {name}={before} to resume it, or give another folder",
        )


def _first_difference(stored: Any, current: Any, name: str) -> tuple[str, str | None, str | None] | None:
    """Name of the first setting that differs, and both values as JSON; None for one that is not there."""
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in [*stored, *(key for key in current if key not in stored)]:
            inner = f"{name}.{key}" if name else key
            if key not in stored or key not in current:
                before, now = (json.dumps(side[key]) if key in side else None for side in (stored, current))
                return inner, before, now
            difference = _first_difference(stored[key], current[key], inner)
            if difference is not None:
                return difference
        return None
    return None if stored == current else (name, json.dumps(stored), json.dumps(current))


def _note_versions(folder: Path, versions: Mapping[str, str]) -> None:
    earlier = _read_json(folder / "versions.json") or []
    if dict(versions) not in earlier:
        write_atomic(folder / "versions.json", json.dumps([*earlier, dict(versions)], indent=1) + "\n")


def _cut_log(folder: Path, last: int) -> None:
    """Drop the lines after step `last`, that of the last checkpoint: they will be written again."""
    path = folder / "metrics.jsonl"
    kept = b"".join(line for line, record in _log_lines(path) if record["step"] <= last)
    _check_log(folder, kept)
    if path.exists() and len(kept) != path.stat().st_size:
        write_atomic(path, kept)


def _check_log(folder: Path, content: bytes) -> None:
    """Warn where the log lacks, or has otherwise, what the newest checkpoint knows to have been logged."""
    path, known = folder / "metrics.jsonl", newest_log(_home(folder))
    if known is None or hashlib.sha256(content[: known["bytes"]]).hexdigest() == known["sha256"]:
        return
    if len(content) < known["bytes"]:
        what = f"it was cut: {len(content):,} of the {known['bytes']:,} bytes that were logged are there"
    else:
        what = "it was changed after it was written"
    warnings.warn(f"{path}: {what}; figures of this run are of what is left", stacklevel=2)


def _content(folder: Path) -> hashlib._Hash:
    """The running digest of the log as it is."""
    return hashlib.sha256((folder / "metrics.jsonl").read_bytes())


def _log_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    lines = read_bytes(path).split(b"\n")
    lines.pop()  # what follows the last line end: nothing, or a torn line
    for number, line in enumerate(lines, start=1):
        try:
            record = json_record(line, str(path))
            if not isinstance(record["step"], int):
                raise TypeError("a step is a whole number")
        except (NoriaError, ValueError, TypeError, KeyError):
            raise DataError("not a metrics line", where=f"{path}:{number}", mend="remove the line") from None
        yield line + b"\n", record


def _home(folder: Path) -> Path:
    return Path(folder) / "checkpoints"


def _read_json(path: Path) -> Any:
    """Value of a JSON file; None if there is no file."""
    if not path.exists():
        return None
    try:
        return read_json(path)
    except DataError as error:
        raise RunError(
            error.what, where=error.where, mend="restore it, or give the run another folder"
        ) from None
