"""What changes between two bundles, by the bytes of their artefacts: for promotions, and for whoever reads a diff.

A bank of skills is one artefact, and has three kinds of change: a skill that is new, a description, which decides when
a skill acts, and everything else in it, what it does.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from noria.core.errors import ConfigError, DataError
from noria.core.versions.artefacts import Artefact, ArtefactStore
from noria.core.yaml_values import parse_yaml

SKILLS = "skills"
BODIES, DESCRIPTIONS, CREATION = "bodies", "descriptions", "creation"
_SHEET = "SKILL.md"
_ROUTING = ("part.json", "bank.json")
"""Files of a bank's artefact that say how requests find a skill."""
_LONGEST = 200_000
"""Bytes from which a file is no text that a person reads."""


@dataclass(frozen=True)
class FileChange:
    """A file that differs between two artefacts of a kind.

    Attributes:
        kind: `bodies`, `descriptions` or `creation` for a bank of skills, else the kind of the artefact.
        name: name of the file in its artefact.
        before, after: text of the file; None where the file is not there, or holds no text.
    """

    kind: str
    name: str
    before: str | None
    after: str | None

    def diff(self, *, most: int = 400) -> list[str]:
        """Lines of a unified diff, at most so many."""
        before, after = ((one or "").splitlines() for one in (self.before, self.after))
        lines = list(difflib.unified_diff(before, after, "before", "after", lineterm=""))
        return lines if len(lines) <= most else [*lines[:most], f"… {len(lines) - most} lines more"]


def changed_kinds(store: ArtefactStore, before: str, after: str) -> set[str]:
    """The kinds of change between two bundles; a kind that is in one of them alone is changed.

    Raises:
        DataError: a bundle or an artefact is not there.
    """
    return {one.kind for one in changes(store, before, after)}


def changes(store: ArtefactStore, before: str, after: str) -> list[FileChange]:
    """Every file that differs between two bundles, by kind and name.

    Raises:
        DataError: a bundle or an artefact is not there.
    """
    one, other = (store.load_bundle(digest).artefacts for digest in (before, after))
    found: list[FileChange] = []
    for kind in sorted(one.keys() | other.keys()):
        if one.get(kind) != other.get(kind):
            pair = [None if kind not in side else store.artefact(side[kind]) for side in (one, other)]
            found += _between(store, kind, pair[0], pair[1])
    return found


def _between(
    store: ArtefactStore, kind: str, before: Artefact | None, after: Artefact | None
) -> Iterator[FileChange]:
    files = [{} if one is None else one.files for one in (before, after)]
    for name in sorted(files[0].keys() | files[1].keys()):
        if files[0].get(name) == files[1].get(name):
            continue
        texts = [
            None if one is None or name not in one.files else _text(store, one, name)
            for one in (before, after)
        ]
        yield FileChange(_kind(kind, name, texts[0], texts[1]), name, texts[0], texts[1])


def _kind(kind: str, name: str, before: str | None, after: str | None) -> str:
    """The kind of change that a file is; in a bank, what is not known to be a description is a body."""
    if kind != SKILLS:
        return kind
    if name in _ROUTING:
        return DESCRIPTIONS
    if name.rpartition("/")[2] == _SHEET and before is None and after is not None:
        return CREATION
    if name.rpartition("/")[2] != _SHEET or before is None or after is None:
        return BODIES
    sides = [split_sheet(text) for text in (before, after)]
    rest = [({k: v for k, v in header.items() if k != "description"}, body) for header, body in sides]
    return DESCRIPTIONS if rest[0] == rest[1] and sides[0][0] and sides[1][0] else BODIES


def split_sheet(text: str) -> tuple[dict[str, object], str]:
    """Values of the frontmatter of a SKILL.md and its body; no values where the frontmatter cannot be read."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if not lines or lines[0].rstrip() != "---" or end is None:
        return {}, text
    try:
        values = parse_yaml("".join(lines[1:end]).encode(), _SHEET).value
    except ConfigError:
        return {}, text
    return (values if isinstance(values, dict) else {}), "".join(lines[end + 1 :])


def _text(store: ArtefactStore, artefact: Artefact, name: str) -> str | None:
    path = store.path(artefact, name)
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _LONGEST else None
    except (OSError, UnicodeDecodeError):
        return None


def read_sheets(store: ArtefactStore, bundle: str) -> dict[str, str]:
    """The SKILL.md of every skill of a bundle, by its name; none where it has no skills.

    Raises:
        DataError: the bundle or its artefact is not there.
    """
    digest = store.load_bundle(bundle).artefacts.get(SKILLS)
    if digest is None:
        return {}
    artefact = store.artefact(digest)
    names = [name for name in artefact.files if name.endswith(f"/{_SHEET}") and name.count("/") == 1]
    found = {name.partition("/")[0]: _text(store, artefact, name) for name in sorted(names)}
    if any(text is None for text in found.values()):
        raise DataError("a skill of the bank cannot be read", where=f"artefact {digest[:12]}")
    return {name: text for name, text in found.items() if text is not None}
