"""Artefacts by content: folders of files that are never overwritten, each with where it is from.

```
<folder>/artefacts/<digest>/artefact.json    kind, files with digest and mode, lineage
                            files/…          the files
         bundles/<digest>.json               one artefact a kind
```

The digest of an artefact covers its kind and its files (names, modes, bytes), so that the same content has one name
wherever it was made; lineage is kept beside it and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from noria.core.errors import DataError, RunError
from noria.core.files import appearing, disk_errors, inside, write_atomic

T = TypeVar("T")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Lineage:
    """Where an artefact is from.

    Attributes:
        parents: digests of the artefacts that it was made from.
        dataset: digest of the data that it learnt from.
        run: run folder that made it.
        seed: seed of the run.
        versions: versions of the packages that made it.
        cost: what making it cost, in the budget's unit.
        seconds: time that making it took.
        receipt: the gate's receipt, as JSON values.
        by: who made it: a person, or a learner's name.
        at: second since 1970.
    """

    parents: tuple[str, ...] = ()
    dataset: str | None = None
    run: str | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    cost: float | None = None
    seconds: float | None = None
    receipt: Mapping[str, Any] | None = None
    by: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class StoredFile:
    """A file of an artefact: SHA-256 of its bytes, their number, and whether it may be executed."""

    digest: str
    size: int
    executable: bool = False


@dataclass(frozen=True)
class Artefact:
    """Something that was learnt or written, by content.

    Attributes:
        digest: SHA-256 of its kind and files.
        kind: sort of artefact, such as `skills`, `router`, `heads`, `prompt`.
        files: files by their relative path.
        requires: digest of the artefact of another kind that it only works with, by kind.
        lineage: where it is from.
    """

    digest: str
    kind: str
    files: Mapping[str, StoredFile]
    requires: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True)
class Bundle:
    """What answers together: one artefact a kind.

    Attributes:
        digest: SHA-256 of the artefacts' digests by kind.
        artefacts: digest of each artefact by its kind.
    """

    digest: str
    artefacts: Mapping[str, str]


class ArtefactStore:
    """Artefacts and bundles in a folder. Several processes may use it at once: nothing in it ever changes.

    What nothing names any more is removed by :func:`noria.core.versions.retention.prune` only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    # -- artefacts ----------------------------------------------------------------------------------------------------

    def add(
        self,
        kind: str,
        source: Path,
        *,
        requires: Mapping[str, str] | None = None,
        lineage: Lineage | None = None,
    ) -> Artefact:
        """Keep a copy of a file or of a folder. What is there already stays as it is, with its first lineage.

        Args:
            kind: sort of artefact, in lower case.
            source: a file, or a folder without links.
            requires: digest of the artefact that it only works with, by kind.
            lineage: where it is from.

        Raises:
            DataError: the kind is malformed, or the source is empty, or holds links or special files.
            RunError: the disk refuses.
        """
        if not _KIND.fullmatch(kind):
            raise DataError(f"no kind of artefact: {kind!r}", where=str(source), mend="use a-z, 0-9 and -")
        sources = dict(_files(Path(source)))
        if not sources:
            raise DataError("there is nothing to keep", where=str(source))
        files = {name: _stored(path) for name, path in sources.items()}
        digest = _artefact_digest(kind, files, requires or {})
        folder = self._folder(digest)
        if not folder.exists():
            artefact = Artefact(digest, kind, files, dict(requires or {}), lineage or Lineage())
            with appearing(folder) as partial:
                for name, path in sources.items():
                    target = partial / "files" / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
                (partial / "artefact.json").write_text(json.dumps(_artefact_json(artefact), indent=1) + "\n")
        else:
            _touch(folder)
        kept = self.artefact(digest)
        self.verify(kept)
        return kept

    def artefact(self, digest: str) -> Artefact:
        """What is known of an artefact.

        Raises:
            DataError: it is not there, or its description is damaged.
        """
        path = self._folder(digest) / "artefact.json"
        artefact: Artefact = _read(path, _artefact, f"artefact {digest[:12]}")
        if (
            not artefact.digest
            == digest
            == _artefact_digest(artefact.kind, artefact.files, artefact.requires)
        ):
            raise DataError("its description was changed", where=str(path), mend="restore it from a backup")
        return artefact

    def artefacts(self, kind: str | None = None) -> list[Artefact]:
        """Every artefact, or those of a kind, oldest first; without what is removed meanwhile."""
        names = [path.name for path in (self.folder / "artefacts").glob("*")]
        found = _listed(self.artefact, (name for name in names if _DIGEST.fullmatch(name)), self._folder)
        return sorted(
            (one for one in found if kind in (None, one.kind)), key=lambda one: (one.lineage.at, one.digest)
        )

    def path(self, artefact: Artefact, name: str | None = None) -> Path:
        """Path of an artefact's files, or of one of them; to be read only."""
        files = self._folder(artefact.digest) / "files"
        return files if name is None else inside(files, name)

    def verify(self, artefact: Artefact) -> None:
        """Read every file of an artefact and compare it with its digest.

        Raises:
            DataError: a file is missing, damaged or superfluous.
        """
        files = self.path(artefact)
        present = dict(_files(files))
        for name in sorted(present.keys() ^ artefact.files.keys()):
            what = "is missing" if name in artefact.files else "does not belong there"
            raise DataError(f"{name} {what}", where=str(files), mend="restore it from a backup")
        for name, stored in artefact.files.items():
            if _sha256(present[name]) != stored.digest:
                raise DataError(f"{name} is damaged", where=str(files), mend="restore it from a backup")

    def restore(self, digest: str, target: Path) -> Artefact:
        """Write an artefact's files, byte for byte, as a folder that was not there.

        Raises:
            DataError: the artefact is not there or damaged.
            RunError: the target exists, or the disk refuses.
        """
        artefact = self.artefact(digest)
        self.verify(artefact)
        if target.exists():
            raise RunError("it exists already", where=str(target), mend="choose another folder")
        with appearing(target) as partial:
            for name, stored in artefact.files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path(artefact, name), path)
                path.chmod(0o755 if stored.executable else 0o644)
        return artefact

    # -- bundles ------------------------------------------------------------------------------------------------------

    def bundle(self, digests: Sequence[str]) -> Bundle:
        """Keep a set of artefacts, one a kind, as a bundle.

        Raises:
            DataError: one is not there, two are of one kind, or one requires another than is in the set.
        """
        artefacts: dict[str, Artefact] = {}
        for digest in digests:
            artefact = self.artefact(digest)
            if artefact.kind in artefacts:
                raise DataError(
                    f"two artefacts of the kind {artefact.kind}", where="bundle", mend="leave one out"
                )
            artefacts[artefact.kind] = artefact
        for artefact in artefacts.values():
            for kind, needed in artefact.requires.items():
                present = artefacts.get(kind)
                if present is None or present.digest != needed:
                    other = "none" if present is None else present.digest[:12]
                    raise DataError(
                        f"{artefact.kind} {artefact.digest[:12]} was made for {kind} {needed[:12]}, "
                        f"and the bundle has {other}",
                        where="bundle",
                        mend="make it for this one, or leave it out",
                    )
        by_kind = {kind: artefacts[kind].digest for kind in sorted(artefacts)}
        bundle = Bundle(_digest(by_kind), by_kind)
        path = self._bundle(bundle.digest)
        if not path.exists():
            write_atomic(path, json.dumps({"artefacts": by_kind}, indent=1) + "\n")
        self.touch(bundle)
        return bundle

    def bundles(self) -> list[Bundle]:
        """Every bundle, in the order of their digests; without what is removed meanwhile.

        Raises:
            DataError: one is damaged.
        """
        names = sorted(path.stem for path in (self.folder / "bundles").glob("*.json"))
        return _listed(self.load_bundle, (name for name in names if _DIGEST.fullmatch(name)), self._bundle)

    def touch(self, bundle: Bundle) -> None:
        """Note that a bundle is about to be named, so that it is not removed just now."""
        for path in (self._bundle(bundle.digest), *map(self._folder, bundle.artefacts.values())):
            _touch(path)

    def load_bundle(self, digest: str) -> Bundle:
        """Read a bundle.

        Raises:
            DataError: it is not there, or damaged.
        """
        path = self._bundle(digest)
        by_kind = _read(path, lambda values: dict(values["artefacts"]), f"bundle {digest[:12]}")
        if _digest(by_kind) != digest:
            raise DataError("it was changed", where=str(path), mend="restore it from a backup")
        return Bundle(digest, by_kind)

    def replace(self, bundle: Bundle, digest: str) -> Bundle:
        """The bundle with another artefact in the place of the one of its kind."""
        artefact = self.artefact(digest)
        return self.bundle([*({**bundle.artefacts, artefact.kind: digest}).values()])

    def _folder(self, digest: str) -> Path:
        return self.folder / "artefacts" / _checked(digest)

    def _bundle(self, digest: str) -> Path:
        return self.folder / "bundles" / f"{_checked(digest)}.json"


def content_digest(kind: str, source: Path, requires: Mapping[str, str] | None = None) -> str:
    """The digest that a file or folder has as an artefact, kept or not.

    Raises:
        DataError: it holds links or special files. RunError: it cannot be read.
    """
    files = {name: _stored(path) for name, path in _files(Path(source))}
    return _artefact_digest(kind, files, requires or {})


def _touch(path: Path) -> None:
    """Give a version the present time, also where it belongs to another user; one that is gone is missed later."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _checked(digest: str) -> str:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DataError(f"no content hash: {str(digest)[:70]!r}", mend="give the 64 hex digits")
    return digest


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of every file, by name."""
    with disk_errors(source):
        if not source.is_dir():
            paths, root = [source], source.parent
        else:
            paths, root = sorted(source.rglob("*")), source
        for path in paths:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise DataError("a link or a special file", where=str(path), mend="replace it by a file")
            yield path.relative_to(root).as_posix(), path


def _stored(path: Path) -> StoredFile:
    status = path.stat()
    return StoredFile(_sha256(path), status.st_size, bool(status.st_mode & 0o100))


def _sha256(path: Path) -> str:
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _artefact_digest(kind: str, files: Mapping[str, StoredFile], requires: Mapping[str, str]) -> str:
    named = {os.fsencode(name).hex(): [file.digest, file.executable] for name, file in files.items()}
    return _digest({"kind": kind, "files": named, "requires": dict(requires)})


def _artefact_json(artefact: Artefact) -> dict[str, Any]:
    return {
        "digest": artefact.digest,
        "kind": artefact.kind,
        "files": {name: vars(file) for name, file in artefact.files.items()},
        "requires": dict(artefact.requires),
        "lineage": vars(artefact.lineage),
    }


def _artefact(values: dict[str, Any]) -> Artefact:
    lineage = values["lineage"]
    return Artefact(
        values["digest"],
        values["kind"],
        {name: StoredFile(**file) for name, file in values["files"].items()},
        dict(values["requires"]),
        Lineage(**{**lineage, "parents": tuple(lineage["parents"]), "at": float(lineage["at"])}),
    )


def _listed(load: Callable[[str], T], digests: Iterable[str], path: Callable[[str], Path]) -> list[T]:
    """What `load` gives for each digest, without those whose path was removed before it was read."""
    found = []
    for digest in digests:
        try:
            found.append(load(digest))
        except DataError:
            if path(digest).exists():
                raise
    return found


def _read(path: Path, make: Any, name: str) -> Any:
    try:
        return make(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise DataError("it is not there", where=name, mend="give one that is") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"damaged ({error})", where=str(path), mend="restore it from a backup") from None
