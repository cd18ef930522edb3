"""Removal of versions that nothing names any more, beside processes that add and promote others.

A pointer's history says which bundles stay; it is shortened by `thin` of the control state. What was added, kept again
or promoted lately stays in any case, so that a version on its way into a bundle or under a pointer is not removed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from noria.core.files import disk_errors
from noria.core.versions.artefacts import ArtefactStore

GRACE = 3600.0
"""Seconds for which a version that was touched stays."""


@dataclass
class Removal:
    """Number of bundles and artefacts that were removed, and the bytes of the latter."""

    bundles: int = 0
    artefacts: int = 0
    bytes: int = 0


def prune(
    store: ArtefactStore, bundles: Collection[str], *, artefacts: Collection[str] = (), grace: float = GRACE
) -> Removal:
    """Remove bundles that are not named, then artefacts that are in none that is left; whole or not at all.

    A process killed meanwhile leaves each version as it was or gone, and what it left behind goes at the next call.

    Args:
        store: bundles and artefacts.
        bundles: digests of the bundles that stay, such as those of a pointer's history.
        artefacts: digests of artefacts that stay in any case.
        grace: seconds for which a version that was touched stays.

    Raises:
        DataError: a bundle is damaged, so that nobody knows what it needs; no artefact is removed then.
        RunError: the disk refuses.
    """
    removal, before = Removal(), time.time() - grace
    with disk_errors(store.folder):
        for folder in (store.folder / "bundles", store.folder / "artefacts"):
            _sweep(folder, before)
        for path in _versions(store.folder / "bundles"):
            if path.stem not in bundles:
                removal.bundles += _remove(path, before)
        needed = set(artefacts)
        for path in _versions(store.folder / "bundles"):
            needed.update(store.load_bundle(path.stem).artefacts.values())
        for path in _versions(store.folder / "artefacts"):
            if path.name not in needed:
                size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
                if _remove(path, before):
                    removal.artefacts += 1
                    removal.bytes += size
    return removal


def _versions(folder: Path) -> Iterator[Path]:
    """Paths of what is whole; other names begin with a dot."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _remove(path: Path, before: float) -> bool:
    """Remove a version that was not touched since; False where it was."""
    if path.stat().st_mtime > before:
        return False
    aside = path.with_name(f".{path.name}.gone")
    path.rename(aside)
    return not _put_back(aside, path, before)


def _put_back(aside: Path, path: Path, before: float) -> bool:
    """Put a version back that was touched at the last moment, else delete it."""
    if aside.stat().st_mtime > before and not path.exists():
        aside.rename(path)
        return True
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()
    return False


def _sweep(folder: Path, before: float) -> None:
    """Finish what a killed process had begun: a removal, or an addition."""
    if not folder.is_dir():
        return
    for path in folder.glob(".*.gone"):
        _put_back(path, path.with_name(path.name[1:].removesuffix(".gone")), before)
    for path in folder.glob(".*.partial-*"):
        if path.stat().st_mtime <= before:
            shutil.rmtree(path, ignore_errors=True)
